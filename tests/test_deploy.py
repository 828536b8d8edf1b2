"""What `deploy/` says, checked without running it."""

from __future__ import annotations

import re
import runpy
from fnmatch import fnmatchcase

import pytest
import yaml

from e2e3d_stages.publish.spec import REPORT
from e2e3d_stages.registry import STAGES
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def public() -> list[str]:
    """Patterns of what anybody may read in the platform's store."""
    policy = runpy.run_path(str(ROOT / "deploy" / "compose" / "init.py"))["PAGES_ARE_PUBLIC"]
    (statement,) = policy["Statement"]
    assert statement["Action"] == ["s3:GetObject"]
    return [resource.removeprefix("arn:aws:s3:::e2e3d/") for resource in statement["Resource"]]


def test_a_scene_is_public_and_where_it_is_and_of_what_photos_is_not(public: list[str]) -> None:
    def is_public(path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in public)

    formats = {each.path for spec in STAGES.values() for each in spec.deliverables if each.format_of_scene}
    others = {each.path for spec in STAGES.values() for each in spec.deliverables} - formats
    assert all(is_public(f"scenes/barn/run-1/{name}") for name in {*formats, "index.html", REPORT, "thumbnail.jpg"})
    private = others - {"index.html", REPORT, "thumbnail.jpg"} | {"run.json", "estimate.json", "owner"}
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
