"""Another Airflow: `python another_airflow.py SECONDS LAST CONF` runs the reconstruct DAG in AIRFLOW_HOME.

The run's name is always the same, as that of a scheduled run is. SECONDS is how long a silent attempt is waited for,
and LAST the stage after which the others are taken as done.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path

from airflow.dag_processing.dagbag import DagBag

from airflow_provider_e2e3d.operators import stage
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store import leases

DAG = Path(__file__).parent.parent.parent / "dags" / "reconstruct.py"
WHEN = dt.datetime(2026, 11, 1, tzinfo=dt.timezone.utc)


def main(seconds: str, last: str, conf: str) -> int:
    """Run it."""
    leases.LEASE_SECONDS = float(seconds)
    stage.WAIT_SECONDS = 0.5
    bag = DagBag(DAG, collect_dags=False)
    bag.collect_dags(DAG)
    skipped = "|".join(list(STAGES)[list(STAGES).index(last) + 1 :])
    run = bag.dags["reconstruct"].test(run_after=WHEN, run_conf=json.loads(conf), mark_success_pattern=skipped or None)
    print(run.run_id, "ended:", run.state, flush=True)
    return 0 if run.state == "success" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
