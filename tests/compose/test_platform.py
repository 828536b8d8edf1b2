"""The platform of docker-compose.yml with the shipped images, as `make up` starts it on a machine with an engine."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import docker
import pytest
import yaml
from botocore.exceptions import ClientError

from airflow_provider_e2e3d.pipelines.form import section_of
from e2e3d_stages.registry import STAGES
from tests.browser import colours, needed
from tests.compose.conftest import COMPOSE, Platform, clean_environment
from tests.conftest import ALWAYS, ROOT, until
from tests.stages.publish.test_viewer_in_browser import settled

pytestmark = pytest.mark.slow

CAPTURE = "s3://captures/caliterra"
TINY = {
    "ingest_max_size": 480,
    "sfm_max_features": 2048,
    "train_iterations": 120,
    "train_max_gaussians": 6000,
    "train_long_side": 200,
}


@pytest.fixture(scope="module")
def first_run(platform: Platform) -> str:
    """The sample's first run, triggered over REST right after `make up`."""
    run = platform.trigger(capture=CAPTURE, **TINY)
    until(lambda: platform.ended(run), 600, pause=1)
    return run


def test_without_secrets_compose_says_what_to_do(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    refused = subprocess.run(
        [*COMPOSE, "up"], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "run make up" in refused.stderr


@pytest.mark.browser
def test_the_sample_triggered_over_rest_becomes_a_page_that_the_store_serves(
    platform: Platform, first_run: str, tab: Any, screenshots: Path
) -> None:
    assert platform.state(first_run) == "success"
    address = platform.result(first_run, "publish", "page")
    assert address.startswith(f"{platform.s3}/e2e3d/scenes/caliterra/")
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert answer.status == 200
        assert answer.headers.get_content_type() == "text/html"
    for private in ("captures/caliterra/IMG_9371.jpg", f"e2e3d/{_manifest(platform, first_run, 'sfm')}"):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{platform.s3}/{private}", timeout=30)
        assert refusal.value.code == 403, private

    tab.goto(f"{address}?noanim")
    shown = settled(tab, lambda seen: colours(seen) > 2000)
    tab.screenshot(path=screenshots / "page.png")
    assert colours(shown) > 2000, "the page shows no scene"


def _manifest(platform: Platform, run: str, stage: str) -> str:
    """The manifest's address below the bucket."""
    return str(platform.result(run, stage)["uri"]).removeprefix("s3://e2e3d/") + "/manifest.json"


@pytest.mark.browser
def test_the_sample_triggered_by_the_form_reuses_everything(
    platform: Platform, first_run: str, tab: Any, screenshots: Path
) -> None:
    tab.goto(f"{platform.url}/dags/reconstruct")
    tab.fill("input[name=username]", "admin")
    tab.fill("input[name=password]", platform.secrets["ADMIN_PASSWORD"])
    tab.screenshot(path=screenshots / "login.png")
    tab.click("[type=submit]")
    tab.get_by_role("button", name="Trigger").first.click()
    form = tab.get_by_role("dialog")
    form.locator("[name=element_capture]").fill(CAPTURE)
    tab.screenshot(path=screenshots / "form.png")
    for name, value in TINY.items():
        field = form.locator(f"[name=element_{name}]")
        if not field.is_visible():
            form.get_by_role("button", name=section_of(STAGES[name.split("_")[0]])).click()
        field.fill(str(value))
    tab.screenshot(path=screenshots / "form-train.png")
    form.get_by_role("button", name="Trigger").last.click()

    def newest() -> str:
        runs = platform.call("GET", "/dags/reconstruct/dagRuns?order_by=-run_after&limit=1")["dag_runs"]
        return str(runs[0]["dag_run_id"])

    until(lambda: newest() != first_run, 60)
    run = newest()
    until(lambda: platform.ended(run), 300, pause=1)
    tab.screenshot(path=screenshots / "run.png")
    assert platform.state(run) == "success"
    assert [stage for stage in ALWAYS if not platform.result(run, stage)["reused"]] == []


def test_every_service_is_healthy(platform: Platform) -> None:
    states = {
        container["Labels"]["com.docker.compose.service"]: container["Status"] for container in platform.containers()
    }
    assert states.pop("airflow-init").startswith("Exited (0)")
    assert set(states) == {"postgres", "minio", "api-server", "scheduler", "dag-processor", "triggerer"}
    assert all(state.endswith("(healthy)") for state in states.values()), states


def test_only_services_that_start_containers_reach_the_engine_and_none_is_root(platform: Platform) -> None:
    services = {
        container["Labels"]["com.docker.compose.service"]: platform.engine.inspect_container(container["Id"])
        for container in platform.containers()
    }
    reach = {name for name, found in services.items() if any("docker.sock" in bind for bind in _binds(found))}
    assert reach == {"scheduler", "triggerer"}
    airflow = [found for found in services.values() if found["Config"]["Image"].startswith("e2e3d/airflow:")]
    assert len(airflow) == 5
    assert not {found["Config"]["User"] for found in airflow} & {"", "0", "root"}


def test_the_stores_root_is_known_to_the_store_and_the_init_job_alone(platform: Platform) -> None:
    root = platform.secrets["MINIO_ROOT_PASSWORD"]
    inspected = [platform.engine.inspect_container(found["Id"]) for found in platform.containers()]
    knows = {
        found["Config"]["Labels"]["com.docker.compose.service"] for found in inspected if root in json.dumps(found)
    }
    assert knows == {"minio", "airflow-init"}


def _binds(container: dict[str, Any]) -> list[str]:
    return list(container["HostConfig"]["Binds"] or [])


def test_secrets_are_written_once_and_for_their_owner_only(platform: Platform) -> None:
    file = platform.folder / ".env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_text()
    printed = platform.make("up")
    assert file.read_text() == before
    assert platform.url in printed
    assert not [name for name, value in platform.secrets.items() if value in printed]


@pytest.fixture
def log_keeper(platform: Platform) -> Any:
    """The store, for the user by whom Airflow keeps tasks' logs."""
    return boto3.client(
        "s3",
        endpoint_url=platform.s3,
        region_name="us-east-1",
        aws_access_key_id=platform.secrets["LOGS_ACCESS_KEY"],
        aws_secret_access_key=platform.secrets["LOGS_SECRET_KEY"],
    )


def test_tasks_logs_lie_in_a_bucket_of_their_own(platform: Platform, first_run: str, log_keeper: Any) -> None:
    place = f"dag_id=reconstruct/run_id={first_run}/task_id=train/"
    kept = log_keeper.list_objects_v2(Bucket="e2e3d-logs", Prefix=place)["Contents"]
    logs = [log_keeper.get_object(Bucket="e2e3d-logs", Key=each["Key"])["Body"].read().decode() for each in kept]
    # The triggerer's, too, which waited for the stage's container.
    assert "120/120 steps" in "".join(logs)


def test_who_keeps_the_logs_can_do_nothing_else(platform: Platform, first_run: str, log_keeper: Any) -> None:
    answer = log_keeper.list_objects_v2(Bucket="e2e3d-logs")
    if not answer["ResponseMetadata"]["HTTPHeaders"].get("server", "").startswith("MinIO"):
        pytest.skip("the store of this engine, which stands in for MinIO, asks nobody for rights")
    for refused in (
        lambda: log_keeper.list_objects_v2(Bucket="e2e3d"),
        lambda: log_keeper.get_object(Bucket="e2e3d", Key="scenes/caliterra/latest.json"),
        lambda: log_keeper.delete_object(Bucket="e2e3d-logs", Key=answer["Contents"][0]["Key"]),
        lambda: log_keeper.put_object(Bucket="captures", Key="caliterra/1.jpg", Body=b""),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            refused()


def test_no_secret_is_told_anywhere(platform: Platform, first_run: str) -> None:
    run = f"/dags/reconstruct/dagRuns/{first_run}"
    tasks = platform.call("GET", f"{run}/taskInstances")
    log = json.dumps(platform.call("GET", f"{run}/taskInstances/train/logs/1"))
    assert "120/120 steps" in log, "the training's log cannot be read"
    results = [platform.result(first_run, task) for task in ("plan", *ALWAYS)]
    store = boto3.client(
        "s3",
        endpoint_url=platform.s3,
        region_name="us-east-1",
        aws_access_key_id=platform.secrets["MINIO_ROOT_USER"],
        aws_secret_access_key=platform.secrets["MINIO_ROOT_PASSWORD"],
    )
    written = [
        store.get_object(Bucket=bucket, Key=found["Key"])["Body"].read().decode()
        for bucket in ("e2e3d", "e2e3d-logs")
        for page in store.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        for found in page["Contents"]
        if found["Key"].endswith((".json", "report.html", ".log"))
    ]
    assert {name.split("-")[1] for name in platform.inspected} == set(ALWAYS)
    environments = [found["Config"].pop("Env") for found in platform.inspected.values()]
    told = {
        "the API": json.dumps([tasks, results, log, platform.call("GET", run)]),
        "the store": "\n".join(written),
        "the services' logs": platform.compose("logs", "--no-color"),
        "the stages' containers": json.dumps(platform.inspected),
    }
    for name, value in platform.secrets.items():
        assert [place for place, text in told.items() if value in text] == [], name
        # A stage has a session of its own.
        assert value not in json.dumps(environments), name
    assert all(any(each.startswith("AWS_SESSION_TOKEN=") for each in found) for found in environments)

    logs = subprocess.run(
        ["docker", "exec", "--interactive", platform.container("api-server")["Id"]]
        + ["grep", "--recursive", "--files-with-matches", "--fixed-strings", "--file=-", "/opt/airflow/logs"],
        input="\n".join(platform.secrets.values()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (logs.returncode, logs.stdout, logs.stderr) == (1, "", ""), "a log tells a secret"


@contextmanager
def starts_of(prefix: str) -> Iterator[list[str]]:
    """The names of containers that the engine starts meanwhile; complete when the block is left."""
    command = ["docker", "events", "--filter", "type=container", "--filter", "event=start"]
    watcher = subprocess.Popen(
        [*command, "--format", "{{.Actor.Attributes.name}}"], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    names: list[str] = []
    try:
        yield names
    finally:
        watcher.terminate()
        assert watcher.stdout is not None
        names += [name for name in watcher.stdout.read().split() if name.startswith(prefix)]


def kill_hard(platform: Platform, service: str) -> None:
    """End a service's main process as a crash does; the engine starts it again, unlike after `docker kill`."""
    before = platform.container(service)
    subprocess.run(
        ["docker", "run", "--rm", "--pid=host", "--user=0", "--entrypoint=python", before["Image"]]
        + ["-c", f"import os; os.kill({before['State']['Pid']}, 9)"],
        check=True,
    )
    until(lambda: platform.container(service)["RestartCount"] == before["RestartCount"] + 1, 30)


def training_only(platform: Platform, iterations: int) -> str:
    """A run of the sample that trains anew; what would follow the training counts as done."""
    run = platform.trigger(capture=CAPTURE, **{**TINY, "train_iterations": iterations})
    path = f"/dags/reconstruct/dagRuns/{run}/taskInstances/compress"
    platform.call("PATCH", path, {"new_state": "success", "include_downstream": True})
    return run


def trainings_of(platform: Platform, run: str, started: list[str]) -> list[str]:
    """Those of the started containers that trained for a run."""
    key = platform.result(run, "train")["uri"].split("/")[-1]
    return [name for name in started if key in name]


def test_a_killed_scheduler_comes_back_and_the_training_is_not_started_again(
    platform: Platform, first_run: str
) -> None:
    with starts_of("e2e3d-train-") as started:
        run = training_only(platform, 800)
        until(lambda: platform.task(run, "train")["state"] == "deferred", 180, pause=1)
        until(lambda: any(found["State"] == "running" for found in platform.stages()), 60)
        kill_hard(platform, "scheduler")
        assert [found["State"] for found in platform.stages()] == ["running"], "the training ended too early to tell"
        until(lambda: platform.ended(run), 300, pause=1)
    assert platform.state(run) == "success"
    assert platform.task(run, "train")["try_number"] == 1
    assert len(trainings_of(platform, run, started)) == 1, started


def test_a_scheduler_killed_with_the_task_that_waits_in_it_finds_the_training_again(
    platform: Platform, first_run: str
) -> None:
    platform.override(
        {
            "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": "False",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            # When the next scheduler sees that the last one is dead, and takes over its tasks.
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
        }
    )
    platform.compose("up", "--detach", "--no-deps", "scheduler")
    with starts_of("e2e3d-train-") as started:
        run = training_only(platform, 1200)
        until(lambda: platform.task(run, "train")["state"] == "running", 180, pause=1)
        until(lambda: any(found["State"] == "running" for found in platform.stages()), 60)
        kill_hard(platform, "scheduler")
        until(lambda: platform.ended(run), 300, pause=1)
    assert platform.state(run) == "success"
    assert len(trainings_of(platform, run, started)) == 1, started
    assert platform.stages() == []


def test_the_tutorials_commands_bring_photos_into_the_bucket_and_trigger_their_run(
    platform: Platform, first_run: str
) -> None:
    needed(shutil.which("aws"), "AWS' command line (apt install awscli)")
    tutorials = [(ROOT / "docs" / "tutorials" / f"{name}.md").read_text() for name in ("own-bucket", "nightly-batch")]
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", tutorials[0], re.MULTILINE | re.DOTALL))
    script += "\n" + next(line for line in tutorials[1].splitlines() if "pools set" in line).strip()
    for told, here in {
        "http://localhost:8080": platform.url,
        "http://localhost:9000": platform.s3,
        "path/to/photos": "sample/caliterra/images",
        # The same photos and parameters as before, which needs no time.
        '"s3://captures/town-hall"}': json.dumps({"capture": "s3://captures/town-hall", **TINY})[12:],
        "docker compose exec": f"{' '.join(COMPOSE)} exec -T",
    }.items():
        assert told in script
        script = script.replace(told, here)
    shell = ["sh", "-euc", script]
    done = subprocess.run(shell, cwd=platform.folder, env=platform.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = re.search(r'"dag_run_id":"([^"]+)"', done.stdout)
    assert run, done.stdout
    until(lambda: platform.ended(run[1]), 300, pause=1)
    assert platform.state(run[1]) == "success"
    page = platform.result(run[1], "publish", "page")
    assert page.startswith(f"{platform.s3}/e2e3d/scenes/town-hall/")
    assert [stage for stage in ALWAYS[:-1] if not platform.result(run[1], stage)["reused"]] == []


def test_the_documentation_is_served_where_it_is_asked_for(platform: Platform) -> None:
    try:
        assert f"Docs:     {platform.docs}" in platform.make("up", "DOCS=1")
        with urllib.request.urlopen(f"{platform.docs}/tutorials/first-scene.html", timeout=30) as answer:
            assert "<h1>Your first scene" in answer.read().decode()
    finally:
        platform.compose("rm", "--stop", "--force", "docs", COMPOSE_PROFILES="docs")


def test_workers_come_with_a_profile_and_a_variable(platform: Platform) -> None:
    config = yaml.safe_load(platform.compose("config", COMPOSE_PROFILES="distributed", E2E3D_EXECUTOR="CeleryExecutor"))
    assert {"redis", "worker"} <= set(config["services"])
    executors = {
        service["environment"]["AIRFLOW__CORE__EXECUTOR"]
        for service in config["services"].values()
        if service["image"].startswith("e2e3d/airflow:")
    }
    assert executors == {"CeleryExecutor"}


def test_a_lost_platform_comes_back_from_its_backup(platform: Platform, first_run: str, tmp_path: Path) -> None:
    page = platform.result(first_run, "publish", "page")
    for _ in range(2):
        platform.make("backup", f"TO={tmp_path / 'backup'}")
    assert stat.S_IMODE((tmp_path / "backup" / "env").stat().st_mode) == 0o600
    platform.compose("down", "--volumes", "--timeout", "5")
    (platform.folder / ".env").unlink()
    platform.make("restore", f"BACKUP={tmp_path / 'backup'}")
    with pytest.raises(AssertionError, match="there are data already"):
        platform.make("restore", f"BACKUP={tmp_path / 'backup'}")
    platform.log_in()
    assert platform.state(first_run) == "success"
    with urllib.request.urlopen(page, timeout=30) as answer:
        assert answer.headers.get_content_type() == "text/html"
    run = platform.trigger(capture=CAPTURE, **TINY)
    until(lambda: platform.ended(run), 300, pause=1)
    assert platform.state(run) == "success"
    assert [stage for stage in ALWAYS if not platform.result(run, stage)["reused"]] == []


def test_down_keeps_the_data(platform: Platform) -> None:
    platform.make("down")
    assert platform.containers() == []
    for volume in ("postgres", "minio", "logs"):
        platform.engine.inspect_volume(f"{platform.project}_{volume}")
    with pytest.raises(docker.errors.NotFound):
        platform.engine.inspect_network(f"{platform.project}_stages")
