"""Three stages one after the other, bare: what StageOperator promises of each."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG

from airflow_provider_e2e3d.operators.stage import StageOperator

with DAG("three_stages", schedule=None, params={"capture": "", "profile": ""}):
    common: dict[str, Any] = {"profile": "{{ params.profile }}"}
    ingest = StageOperator(task_id="ingest", stage="ingest", capture="{{ params.capture }}", **common)
    sfm = StageOperator(task_id="sfm", stage="sfm", inputs={"ingest": ingest.output}, **common)
    StageOperator(task_id="train", stage="train", inputs={"sfm": sfm.output}, **common)
