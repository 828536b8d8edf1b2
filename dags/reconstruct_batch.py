"""Many captures become many scenes: on a schedule, or when somebody asks."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import dag

from airflow_provider_e2e3d.pipelines.batch.tasks import batch_params, batch_schedule, reconstruct_captures

DOC = """
### A bucket of captures → a scene each

Give **captures**: a folder or an s3:// prefix with one folder or zip a scene, or a manifest file. Scenes that are new
or whose photos or parameters changed get a run of `reconstruct` each; the others cost nothing. The same by
`airflow dags trigger reconstruct_batch --conf`. Everything below a prefix, at most fifty scenes:

    {"captures": "s3://captures", "preset": "draft", "limit": 50}

The rows of a manifest, with a parameter for all of them:

    {"captures": "s3://captures/tonight.csv", "parameters": {"train_iterations": 5000, "compress_spz": false}}

What failed before, once more:

    {"captures": "s3://captures", "force": "failed"}

Only captures whose uploader has written a file `_DONE` into them:

    {"captures": "s3://captures", "marker": "_DONE"}

A scene that fails stops no other. The task `report` says where the batch's page is; the batch itself fails when one of
its scenes did, and is told again until its photos change or **force** asks for another try.
"""


@dag(
    dag_id="reconstruct_batch",
    dag_display_name="Reconstruct a batch of scenes",
    description="Every new or changed capture below a prefix becomes a scene.",
    doc_md=DOC,
    schedule=batch_schedule(),
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
    catchup=False,
    # Two at once would both start what is new.
    max_active_runs=1,
    params=batch_params(),
    tags=["e2e3d", "3d"],
)
def reconstruct_batch() -> None:
    """List the captures → a run for each → a page that tells of all."""
    reconstruct_captures()


reconstruct_batch()
