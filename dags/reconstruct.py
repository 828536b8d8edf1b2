"""Photos in a folder or a bucket become a 3D scene on a web page."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import dag

from airflow_provider_e2e3d.pipelines.form import reconstruction_params
from airflow_provider_e2e3d.pipelines.reconstruct import reconstruct_capture

DOC = """
### Photos → a 3D scene on a web page

Give **capture** (a folder, a zip or an s3:// prefix of photos) and press *Trigger*. Every other field has a default:
**scene** names the result, **preset** chooses speed or quality, **profile** where the stages run. The folded sections
set single parameters of a stage; an empty field means what the preset says.

The same by `airflow dags trigger reconstruct --conf`, with the fields' names. Photos of a folder, quickly:

    {"capture": "s3://captures/town-hall", "preset": "draft"}

As good as it gets, under a name of your own, for no more than 5 US dollars:

    {"capture": "s3://captures/town-hall", "scene": "town-hall-2026", "preset": "high", "max_cost": 5}

The same, but a person decides before the training when it may cost more than 2 dollars:

    {"capture": "s3://captures/town-hall", "preset": "high", "ask_above": "2 USD"}

A zip, with a longer training, and training made anew although it is there:

    {"capture": "s3://captures/statue.zip", "train_iterations": 20000, "force": ["train"]}

Photos in the order of a walk, without SPZ files:

    {"capture": "s3://captures/alley", "sfm_pairs": "sequential", "sfm_neighbors": 20, "compress_spz": false}

Few photos, and a result that is poor but there; nobody is told:

    {"capture": "s3://captures/shoe", "min_placed_share": 0.3, "min_placed_photos": 3, "notify": false}

A stage whose artifact is there already for the same photos and parameters is reused. When the run ends, its task
*Publish the page* has a link *Open scene*; of a failed run the failed task's log ends with the reason and what to do.
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
