"""Photos in a folder or a bucket become a 3D scene on a web page."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import dag

from airflow_provider_e2e3d.pipelines import reconstruct_capture, reconstruction_params

DOC = """
### Photos → a 3D scene on a web page

Give **capture** (a folder, a zip or an s3:// prefix of photos) and press *Trigger*. Every other field has a default:
**preset** chooses speed or quality, **profile** where the stages run, and the folded sections set single parameters
of a stage. The same by `airflow dags trigger reconstruct --conf`:

    {"capture": "s3://captures/town-hall", "scene": "town-hall", "preset": "draft"}
    {"capture": "/data/captures/statue.zip", "train_iterations": 5000, "force": ["train"]}

A stage whose artifact is there already for the same photos and parameters is reused. The last task says where the
page is.
"""


@dag(
    dag_id="reconstruct",
    dag_display_name="Reconstruct a scene",
    description="Photos in a folder or a bucket become a 3D scene on a web page.",
    doc_md=DOC,
    schedule=None,
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
    catchup=False,
    params=reconstruction_params(),
    tags=["e2e3d", "3d"],
)
def reconstruct() -> None:
    """Ingest → camera poses → training → compression → evaluation → page."""
    reconstruct_capture()


reconstruct()
