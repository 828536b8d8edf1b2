"""What `deploy/` says, checked without running it."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from botocore.exceptions import ClientError, EndpointConnectionError

from airflow_provider_e2e3d.hooks.session import session_policy
from e2e3d_stages.publish.spec import REPORT
from e2e3d_stages.registry import STAGES
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def init() -> dict[str, Any]:
    """The names of the platform's init job."""
    return runpy.run_path(str(ROOT / "deploy" / "compose" / "init.py"))


@pytest.fixture(scope="module")
def public(init: dict[str, Any]) -> list[str]:
    """Patterns of what anybody may read in the platform's store."""
    (statement,) = init["PAGES_ARE_PUBLIC"]["Statement"]
    assert statement["Action"] == ["s3:GetObject"]
    return [resource.removeprefix("arn:aws:s3:::e2e3d/") for resource in statement["Resource"]]


def test_airflow_reads_captures_and_keeps_the_store_and_changes_neither_bucket(init: dict[str, Any]) -> None:
    may = {
        (action, resource.removeprefix("arn:aws:s3:::"))
        for statement in init["AIRFLOW_MAY"]["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
    }
    reads = {("s3:ListBucket", "captures"), ("s3:GetObject", "captures/*")}
    assert {each for each in may if each[1].startswith("captures")} == reads
    in_store = {("s3:ListBucket", "e2e3d")} | {
        (f"s3:{does}", "e2e3d/*") for does in ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload")
    }
    assert may - reads == in_store
    # An attempt's session is cut out of this, so it must not ask for more.
    for capture in (None, "s3://captures/town"):
        asked = {
            (action, resource.removeprefix("arn:aws:s3:::"))
            for statement in session_policy("s3://e2e3d", "artifacts/train/key", capture)["Statement"]
            for action in statement["Action"]
            for resource in statement["Resource"]
        }
        assert all(
            any(does == action and fnmatchcase(path, allowed) for does, allowed in may) for action, path in asked
        )


def test_who_keeps_the_logs_adds_to_them_and_reads_them_where_airflow_is_told_to(
    init: dict[str, Any],
) -> None:
    may = {(action, *each["Resource"]) for each in init["LOGS_MAY"]["Statement"] for action in each["Action"]}
    bucket = f"arn:aws:s3:::{init['LOGS']}"
    assert may == {("s3:ListBucket", bucket), ("s3:GetObject", f"{bucket}/*"), ("s3:PutObject", f"{bucket}/*")}
    told = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["x-airflow"]["environment"]
    assert told["AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER"] == f"s3://{init['LOGS']}"
    assert f"AIRFLOW_CONN_{told['AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID'].upper()}" in told


@pytest.mark.parametrize("server", ["MinIO", "something else"])
def test_minio_is_told_airflows_user_by_root_and_another_store_is_not(
    init: dict[str, Any], server: str, minio: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    told: list[tuple[Any, ...]] = []
    admin = SimpleNamespace(
        policy_add=lambda name, policy: told.append(("policy", name, policy)),
        user_add=lambda *words: told.append(("user", *words)),
        policy_set=lambda name, user: told.append(("may", name, user)),
    )
    monkeypatch.setitem(sys.modules, "minio", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "minio.credentials", SimpleNamespace(StaticProvider=lambda *words: words))
    monkeypatch.setitem(
        sys.modules,
        "minio.minioadmin",
        SimpleNamespace(MinioAdmin=lambda **values: told.append(tuple(values.values())) or admin),
    )
    endpoint = minio["AWS_ENDPOINT_URL_S3"]
    extra = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    monkeypatch.setenv("AIRFLOW_CONN_MINIO", json.dumps({"login": "airflow", "password": "less", "extra": extra}))
    monkeypatch.setenv("AIRFLOW_CONN_LOGS", json.dumps({"login": "logs", "password": "least", "extra": extra}))
    monkeypatch.setenv("AIRFLOW__LOGGING__REMOTE_LOGGING", "True")
    monkeypatch.setenv("MINIO_ROOT_USER", "root")
    monkeypatch.setenv("MINIO_ROOT_PASSWORD", "all")
    prepare, real = init["prepare_store"], init["client"]
    globals_of: dict[str, Any] = prepare.__globals__
    monkeypatch.setitem(globals_of, "SAMPLE", SimpleNamespace(iterdir=lambda: []))
    users: list[str] = []

    def client(user: str, password: str, connection: dict[str, Any]) -> Any:
        users.append(user)
        made = real(user, password, connection)
        made.meta.events.register("after-call", lambda http_response, parsed, **_: _signed(parsed, server))
        return made

    monkeypatch.setitem(globals_of, "client", client)
    prepare()
    assert users == ["root", "airflow", "logs"], "who may do less must be tried"
    if server == "MinIO":
        by_root = (endpoint.removeprefix("http://"), ("root", "all"), False)
        assert told == [
            by_root,
            ("policy", "e2e3d", init["AIRFLOW_MAY"]),
            ("user", "airflow", "less"),
            ("may", "e2e3d", "airflow"),
            by_root,
            ("policy", "e2e3d-logs", init["LOGS_MAY"]),
            ("user", "logs", "least"),
            ("may", "e2e3d-logs", "logs"),
        ]
    else:
        assert told == []
        assert "is no MinIO" in capsys.readouterr().out


def _signed(parsed: dict[str, Any], server: str) -> None:
    parsed["ResponseMetadata"]["HTTPHeaders"]["server"] = server


def test_a_scene_is_public_and_where_it_is_and_of_what_photos_is_not(public: list[str]) -> None:
    def is_public(path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in public)

    formats = {each.path for spec in STAGES.values() for each in spec.deliverables if each.format_of_scene}
    others = {each.path for spec in STAGES.values() for each in spec.deliverables} - formats
    page = {"index.html", "streamed.html", "streamed/", "streamed/lod-meta.json", REPORT, "thumbnail.jpg"}
    page |= {"mesh.html", "flight.mp4", "flight.jpg"}
    assert all(is_public(f"scenes/barn/run-1/{name}") for name in {*formats, *page})
    private = others - page | {"run.json", "estimate.json", "owner"}
    assert {"georef.json", "photos.json", "sparse/0/"} <= private
    assert not [name for name in private if is_public(f"scenes/barn/run-1/{name}x" if name[-1] == "/" else name)]
    assert not [name for name in private if is_public(f"scenes/barn/run-1/{name}")]
    assert not is_public("artifacts/train/key/attempts/1/files/scene.ply")
    assert not is_public("scenes/barn/latest.json")


def test_stages_join_a_network_with_the_store_and_nothing_else() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    joined = {
        service: networks
        for service, networks in re.findall(r"^  ([\w-]+):\n(?:    .*\n)*?    networks: \[(.*)\]", text, re.MULTILINE)
    }
    assert [service for service, networks in joined.items() if "stages" in networks.split(", ")] == ["minio"]
    profiles = (ROOT / "deploy" / "compose" / "profiles.yaml").read_text()
    assert 'network_mode: "${E2E3D_NETWORK}"' in profiles
    assert "_stages" in re.findall(r"E2E3D_NETWORK: (.*)", text)[0]


def merged(base: Any, overlay: Any) -> Any:
    """Two Compose files as Compose merges them, as far as these need it."""
    if isinstance(base, dict) and isinstance(overlay, dict):
        return base | {name: merged(base[name], value) if name in base else value for name, value in overlay.items()}
    return base + overlay if isinstance(base, list) and isinstance(overlay, list) else overlay


def test_in_production_nothing_speaks_to_or_waits_for_a_database_or_a_store_that_is_not_there() -> None:
    base, overlay = (
        yaml.safe_load((ROOT / file).read_text()) for file in ("docker-compose.yml", "deploy/compose/production.yaml")
    )
    whole = merged(base, overlay)
    absent = {name for name, service in whole["services"].items() if service.get("profiles") == ["unused"]}
    assert absent == {"postgres", "minio"}
    for name in whole["services"].keys() - absent:
        service = whole["services"][name]
        assert absent.isdisjoint(service.get("depends_on", {})), name
        told = service.get("environment", {})
        if "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" in told:
            assert told["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("${E2E3D_DATABASE"), name
            assert "postgres/" not in told["AIRFLOW__CELERY__RESULT_BACKEND"]
            assert "9000" not in told["E2E3D_STORE_URL"]
    assert not any(network and network.get("internal") for network in whole["networks"].values())


def test_the_init_job_waits_for_a_store_that_is_not_up_yet_and_ends_where_its_root_is_refused(
    init: dict[str, Any], minio: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        """Passes where it is slept through."""

        at = 0.0

        def monotonic(self) -> float:
            return self.at

        def sleep(self, seconds: float) -> None:
            self.at += seconds

    clock = Clock()
    ask: Callable[..., Any] = init["first_answer"]
    monkeypatch.setitem(ask.__globals__, "time", clock)
    connection = {"extra": {"endpoint_url": "http://minio:9000"}}
    down = EndpointConnectionError(endpoint_url="http://minio:9000")

    def answer(code: str, status: int) -> ClientError:
        told: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        return ClientError(told, "ListBuckets")

    busy, refused = answer("XMinioServerNotInitialized", 503), answer("InvalidAccessKeyId", 403)

    def store(*answers: Any) -> Any:
        return SimpleNamespace(list_buckets=Mock(side_effect=answers))

    assert ask(store(down, busy, down, {"Buckets": []}), connection) == {"Buckets": []}
    assert clock.at == 3
    with pytest.raises(SystemExit, match="refuses its root user"):
        ask(store(refused), connection)
    with pytest.raises(SystemExit, match="http://minio:9000 does not answer"):
        ask(store(*[down] * 1000), connection)
    assert clock.at < 300


def test_with_https_every_service_that_tells_addresses_tells_those_and_caddy_reaches_what_it_serves() -> None:
    base, overlay = (
        yaml.safe_load((ROOT / file).read_text())["services"]
        for file in ("docker-compose.yml", "deploy/compose/tls.yaml")
    )
    told = {
        name
        for name, service in base.items()
        if "E2E3D_STORE_URL" in service.get("environment", {}) and service.get("restart") != "no"
    }
    assert told == overlay.keys() - {"caddy"}
    for name in told:
        addresses = overlay[name]["environment"]
        assert addresses["E2E3D_STORE_URL"].startswith("https://")
        assert addresses["AIRFLOW__API__BASE_URL"].startswith("https://")
    served = re.findall(r"reverse_proxy ([\w-]+):", (ROOT / "deploy/compose/Caddyfile").read_text())
    assert served == ["api-server", "minio"]
    assert all("edge" in base[name]["networks"] for name in [*served])
    assert overlay["caddy"]["networks"] == ["edge"]
