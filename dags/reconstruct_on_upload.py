"""A complete upload becomes a 3D scene by itself."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import dag

from airflow_provider_e2e3d.pipelines.uploads import reconstruct_uploads, watched_uploads

DOC = """
### An upload → a 3D scene, by itself

Starts a run of `reconstruct` for each capture below `[e2e3d] watch_captures` whose upload is complete: when
`watch_marker` lies in it, or nothing came for `watch_quiet_seconds`; and it has `watch_min_photos` photos. A capture
that changes later starts another. What was complete before this DAG first ran is left to `reconstruct_batch`.

While `watch_captures` is empty nothing is watched, and this DAG has no schedule. It takes no conf: trigger
`reconstruct` for a capture by hand.
"""
UPLOADS = watched_uploads()


@dag(
    dag_id="reconstruct_on_upload",
    dag_display_name="Reconstruct each upload",
    description="Starts a run for each capture whose upload is complete.",
    doc_md=DOC,
    schedule=UPLOADS and [UPLOADS],
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
    catchup=False,
    tags=["e2e3d", "3d"],
)
def reconstruct_on_upload() -> None:
    """Complete uploads → a run of `reconstruct` for each."""
    reconstruct_uploads()


reconstruct_on_upload()
