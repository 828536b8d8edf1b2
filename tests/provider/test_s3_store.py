"""A store and captures in a bucket, reached with an Airflow connection's credentials and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e3d_stages.store.opening import open_storage
from tests.airflow_runs import run_dag
from tests.provider.conftest import Script, told_profiles


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_told_without_a_retry(
    airflow_home: Path,
    s3_endpoint: str,
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "captures" / "statue").mkdir(parents=True)
    (tmp_path / "captures" / "statue" / "1.jpg").write_bytes(b"a photo")
    file = tmp_path / "profiles.yaml"
    told_profiles(file, tmp_path / "captures", script)
    file.write_text(file.read_text().replace((tmp_path / "store").as_uri(), "s3://no-such-bucket/store"))
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(file))
    outcome = run_dag("reconstruct", {"capture": str(tmp_path / "captures" / "statue")}, capfd)
    assert outcome.state == "failed"
    assert outcome.tries["ingest"] == 1
    assert "Bucket 'no-such-bucket' does not exist. Create it, or correct the address." in outcome.log
    assert script.calls == []


@pytest.mark.slow
def test_a_run_on_a_bucket_uses_the_connection_and_shows_no_secret(
    airflow_home: Path,
    s3_root: str,
    minio: dict[str, str],
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    secret = minio["AWS_SECRET_ACCESS_KEY"]
    open_storage(f"{s3_root}/captures/statue", minio).write("1.jpg", b"a photo")
    file = tmp_path / "profiles.yaml"
    told_profiles(file, tmp_path, script)
    text = file.read_text()
    text = text.replace((tmp_path / "store").as_uri(), f"{s3_root}/store").replace(
        tmp_path.as_uri(), f"{s3_root}/captures"
    )
    file.write_text(text.replace("  preset:", "  store_conn_id: minio\n  preset:"))
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(file))

    outcome = run_dag("reconstruct", {"capture": f"{s3_root}/captures/statue"}, capfd)
    assert outcome.state == "success", outcome.log[-3000:]
    assert secret not in outcome.log
    assert secret not in str(outcome.results)

    store = open_storage(f"{s3_root}/store", minio)
    paths = [entry.path for entry in store.list()]
    assert "scenes/statue/latest.json" in paths
    assert not any(secret.encode() in store.read(path) for path in paths)
