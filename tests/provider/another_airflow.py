"""Another Airflow: `python another_airflow.py SECONDS CONF` runs the reconstruct DAG in AIRFLOW_HOME.

The run's name is always the same, as that of a scheduled run is. SECONDS is how long a silent attempt is waited for.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path

from airflow.dag_processing.dagbag import DagBag

from airflow_provider_e2e3d.operators import stage

DAGS = Path(__file__).parent.parent.parent / "dags"
WHEN = dt.datetime(2026, 11, 1, tzinfo=dt.timezone.utc)


def main(seconds: str, conf: str) -> int:
    """Run it."""
    stage.STALE_AFTER = dt.timedelta(seconds=float(seconds))
    bag = DagBag(DAGS, collect_dags=False)
    bag.collect_dags(DAGS)
    run = bag.dags["reconstruct"].test(run_after=WHEN, run_conf=json.loads(conf))
    print(run.run_id, "ended:", run.state, flush=True)
    return 0 if run.state == "success" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
