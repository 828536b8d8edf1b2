"""What a cluster with the Prometheus operator reads: what to scrape, the rules, and dashboards for Grafana's sidecar.

    python deploy/monitoring/kubernetes.py | kubectl apply --namespace monitoring --filename -

The labels are those that kube-prometheus-stack looks for where it was installed under the name `prometheus`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


def manifests() -> dict[str, Any]:
    """A ServiceMonitor of the StatsD exporter of Airflow's chart, a PrometheusRule, and a ConfigMap a dashboard."""
    scraped = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": "airflow", "labels": {"release": "prometheus"}},
        "spec": {
            "namespaceSelector": {"matchNames": ["airflow"]},
            "selector": {"matchLabels": {"tier": "airflow", "component": "statsd"}},
            "endpoints": [{"port": "statsd-scrape", "interval": "15s"}],
        },
    }
    rules = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "e2e3d", "labels": {"release": "prometheus"}},
        "spec": yaml.safe_load((HERE / "rules.yml").read_text()),
    }
    dashboards = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"e2e3d-{file.stem}", "labels": {"grafana_dashboard": "1"}},
            "data": {file.name: file.read_text()},
        }
        for file in sorted((HERE / "grafana" / "dashboards").glob("*.json"))
    ]
    return {"apiVersion": "v1", "kind": "List", "items": [scraped, rules, *dashboards]}


if __name__ == "__main__":
    print(json.dumps(manifests()))
