"""What nobody needs any more goes: dead attempts, artifacts without a scene, what jobs left behind."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import dag
from airflow.sdk.configuration import conf

from airflow_provider_e2e3d.pipelines.cleanup import clean_up, cleanup_params

DOC = """
### What nobody needs any more goes

It says in its log what it would remove, how large that is and why; with **dry_run** off it removes it:

- attempts that made no artifact, their checkpoints, and scratch on this worker, after **attempt_days**;
- artifacts that no scene's run is made of and nobody made or reused for **artifact_days**;
- containers and pods of jobs that nobody will come back for.

Never captures, scenes, or what a live run holds. `[e2e3d] cleanup_schedule` says when it runs by itself,
`cleanup_dry_run` whether it then removes anything. By hand, remove what this would be:

    {"dry_run": false}

The same sooner:

    {"dry_run": false, "attempt_days": 2, "artifact_days": 14}
"""


@dag(
    dag_id="reconstruct_cleanup",
    dag_display_name="Clean up",
    description="Dead attempts, artifacts without a scene, and what jobs left behind.",
    doc_md=DOC,
    schedule=conf.get("e2e3d", "cleanup_schedule", fallback="@weekly") or None,
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
    catchup=False,
    max_active_runs=1,
    params=cleanup_params(),
    tags=["e2e3d", "3d"],
)
def reconstruct_cleanup() -> None:
    """One look at every store and place."""
    clean_up()


reconstruct_cleanup()
