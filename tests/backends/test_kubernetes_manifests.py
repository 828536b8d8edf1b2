"""deploy/kubernetes: what a cluster would accept, and what the backend needs of it and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes.client import ApiClient

from airflow_provider_e2e3d.backends.base import JobSpec
from airflow_provider_e2e3d.backends.kubernetes.backend import KubernetesBackend
from airflow_provider_e2e3d.profiles.file import read_profiles
from e2e3d_stages.registry import STAGES
from tests.backends.places import KEY, never_claimed
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy" / "kubernetes"


def objects() -> Iterator[dict[str, Any]]:
    """Everything that `kubectl apply` reads."""
    for file in sorted(DEPLOY.glob("*.yaml")):
        yield from yaml.safe_load_all(file.read_text())


def one(kind: str) -> dict[str, Any]:
    """The object of a kind."""
    (found,) = (each for each in objects() if each["kind"] == kind)
    return found


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
@pytest.mark.parametrize("each", objects(), ids=lambda each: each["kind"])
def test_every_object_is_what_kubernetes_schemas_say(each: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(each, version, strict=True)


def test_the_role_holds_what_the_backend_calls_and_no_more() -> None:
    given = {
        (resource, verb) for rule in one("Role")["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    }
    assert given == {
        ("pods", "create"),
        ("pods", "get"),
        ("pods", "delete"),
        ("pods", "list"),
        ("pods/log", "get"),
        ("events", "list"),
        ("secrets", "create"),
    }


def test_the_network_policy_concerns_the_backend_s_pods_only() -> None:
    assert one("NetworkPolicy")["spec"]["podSelector"] == {
        "matchExpressions": [{"key": "e2e3d.stage", "operator": "Exists"}]
    }


def test_the_chart_s_values_name_the_bound_accounts_and_profiles_that_work(tmp_path: Path) -> None:
    values = yaml.safe_load((DEPLOY / "helm" / "values.yaml").read_text())
    bound = {subject["name"] for subject in one("RoleBinding")["subjects"]}
    assert bound == {values[part]["serviceAccount"]["name"] for part in ("scheduler", "triggerer")}
    for pod in pods(tmp_path, yaml.safe_load(values["extraConfigMaps"]["e2e3d-profiles"]["data"])["profiles.yaml"]):
        assert pod["metadata"]["namespace"] == one("Namespace")["metadata"]["name"]
        assert pod["spec"]["serviceAccountName"] == one("ServiceAccount")["metadata"]["name"]


@pytest.mark.slow
def test_the_page_s_profile_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    *_, last = pods(tmp_path, page.partition("```yaml\n")[2].partition("```")[0])
    assert last["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def pods(folder: Path, profiles: str) -> Iterator[dict[str, Any]]:
    """The pod of every stage of the profile `cluster`, as the API gets it."""
    file = folder / "profiles.yaml"
    file.write_text(profiles)
    for name, stage in STAGES.items():
        backend = read_profiles(file, {})["cluster"].backend(name)
        assert isinstance(backend, KubernetesBackend)
        uri = f"s3://scenes/e2e3d/artifacts/{name}/{KEY}/attempts/1/request.json"
        job = JobSpec(stage=name, key=KEY, claim=never_claimed(1), request_uri=uri)
        pod = ApiClient().sanitize_for_serialization(backend._cluster.pod_of(job, backend.settings.image_of(job)))
        kubernetes_validate.validate(pod, "1.33", strict=True)
        assert f"/e2e3d/{stage.container}:" in pod["spec"]["containers"][0]["image"]
        yield pod
