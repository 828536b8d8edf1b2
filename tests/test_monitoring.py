"""`deploy/monitoring` asks for what is told, and says the same to Compose, Kubernetes and the documentation."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from airflow_provider_e2e3d.metrics import METRICS
from tests.conftest import ROOT

MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))


def rules() -> list[dict[str, Any]]:
    """The alert rules."""
    (group,) = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    return list(group["rules"])


def panels() -> Iterator[tuple[str, str]]:
    """Dashboard and panel, with what it asks Prometheus."""
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.stem}: {panel['title']}", target["expr"]


def asked() -> dict[str, str]:
    """Every question of every dashboard and alert, by what asks it."""
    return {**dict(panels()), **{rule["alert"]: rule["expr"] for rule in rules()}}


@pytest.mark.parametrize("who", asked())
def test_a_question_asks_for_metrics_that_are_told_and_for_labels_that_they_have(who: str) -> None:
    declared = {}
    for metric in METRICS:
        endings = ("_bucket", "_sum", "_count") if metric.kind == "duration" else ("",)
        declared |= {f"{metric.prometheus}{ending}": {*metric.labels, "le"} for ending in endings}
    question = asked()[who]
    known = {name: declared[name] for name in re.findall(r"airflow_e2e3d_\w+", question)}
    labels = {
        label for inside in re.findall(r"\{(.*?)\}", question) for label in re.findall(r"(\w+)\s*(?:=|!)", inside)
    }
    labels |= {label for by in re.findall(r"by \((.*?)\)", question) for label in by.split(", ")}
    if known:
        assert labels <= set.union(*known.values())


def test_every_metric_of_ours_is_looked_at_by_a_dashboard() -> None:
    looked_at = " ".join(expression for _, expression in panels())
    assert [metric.prometheus for metric in METRICS if metric.prometheus not in looked_at] == []


def test_dashboards_are_what_grafana_reads_and_lie_where_it_looks() -> None:
    provider = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/e2e3d.yaml").read_text())
    (folder,) = (each["options"]["path"] for each in provider["providers"])
    mounts = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]["volumes"]
    assert f"./deploy/monitoring/grafana/dashboards:{folder}:ro" in mounts
    uids = set()
    for file in DASHBOARDS:
        dashboard = json.loads(file.read_text())
        uids.add(dashboard["uid"])
        numbers = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(numbers)) == len(numbers)
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            assert {each["datasource"]["uid"] for each in panel["targets"]} <= {"${source}"}
    assert len(uids) == len(DASHBOARDS) == 3


def test_an_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "todo"}


def test_a_cluster_gets_the_same_rules_mappings_and_dashboards() -> None:
    made = runpy.run_path(str(MONITORING / "kubernetes.py"))["manifests"]()["items"]
    by_kind: dict[str, list[Any]] = {}
    for each in made:
        by_kind.setdefault(each["kind"], []).append(each)
    (rule,) = by_kind["PrometheusRule"]
    assert rule["spec"]["groups"][0]["rules"] == rules()
    assert {name: text for each in by_kind["ConfigMap"] for name, text in each["data"].items()} == {
        file.name: file.read_text() for file in DASHBOARDS
    }
    values = yaml.safe_load((ROOT / "deploy/kubernetes/helm/values.yaml").read_text())
    mappings = yaml.safe_load((MONITORING / "statsd.yml").read_text())["mappings"]
    assert values["statsd"] == {"enabled": True, "extraMappings": mappings}


def test_the_platform_s_prometheus_scrapes_services_that_are_there_at_their_ports() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    monitored = {name for name, service in services.items() if service.get("profiles") == ["monitoring"]}
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in scraped for each in job["static_configs"] for target in each["targets"]}
    assert {target.partition(":")[0] for target in targets} | {"prometheus", "grafana"} == monitored
    assert all(re.search(r":v?\d+\.\d+", services[name]["image"]) for name in monitored), "images are pinned"
    told = services["scheduler"]["environment"] | services["triggerer"]["environment"]
    assert f"{told['AIRFLOW__METRICS__STATSD_HOST']}:9102" in targets
