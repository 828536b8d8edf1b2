"""What waiting costs: deferred stages followed by one triggerer's process, on a cluster whose pods wait for a node.

python bench/waiting.py
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SECONDS = 30
COUNTS = (1, 50, 200)


def main() -> None:
    """Measure some numbers of deferred stages, each in a process of its own, and print the growth as JSON."""
    spawn = multiprocessing.get_context("spawn")
    figures = []
    for count in COUNTS:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=measure, args=(count, theirs))
        process.start()
        figures.append(ours.recv())
        process.join()
    first, last = figures[0], figures[-1]
    growth = (last["resident_bytes"] - first["resident_bytes"]) / (last["stages"] - first["stages"])
    print(json.dumps({"poll_seconds": 2, "counts": figures, "bytes_a_waiting_stage": round(growth)}, indent=1))


def serve(folder: str, pipe: Connection) -> None:
    """The cluster: its node has not what the pods want, so that they stay."""
    from tests.backends.kubernetes_api import Cluster

    cluster = Cluster(None)  # type: ignore[arg-type]
    cluster.kubeconfig(Path(folder) / "kubeconfig")
    pipe.send("up")
    while pipe.recv() == "count":
        pipe.send(len(cluster.calls))
    os._exit(0)


def measure(count: int, answer: Connection) -> None:
    """Follow that many jobs for a while."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipe, theirs = spawn.Pipe()
        server = spawn.Process(target=serve, args=(folder, theirs))
        server.start()
        pipe.recv()

        def calls() -> int:
            pipe.send("count")
            return int(pipe.recv())

        answer.send(asyncio.run(follow(count, Path(folder), calls)))
        pipe.send("end")
        server.join()


async def follow(count: int, folder: Path, calls: Any) -> dict[str, Any]:
    """Submit, let the triggers run, and look at this process."""
    states = submitted(count, folder)
    from airflow_provider_e2e3d.triggers.job import JobTrigger

    async def watch(state: dict[str, Any]) -> None:
        async for _event in JobTrigger(state).run():
            pass

    tasks = [asyncio.create_task(watch(state)) for state in states]
    # Every one has made its client and looked once.
    await asyncio.sleep(10 + count / 10)
    this = psutil.Process()
    began, before, busy = time.monotonic(), calls(), sum(this.cpu_times()[:2])
    await asyncio.sleep(SECONDS)
    seconds = time.monotonic() - began
    figures = {
        "stages": count,
        "resident_bytes": this.memory_info().rss,
        "calls_a_second": round((calls() - before) / seconds, 1),
        "share_of_a_core": round((sum(this.cpu_times()[:2]) - busy) / seconds, 3),
    }
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks)
    return figures


def submitted(count: int, folder: Path) -> list[dict[str, Any]]:
    """That many attempts at different artifacts, their pods created."""
    settings = {
        "backend": "kubernetes",
        "config_file": str(folder / "kubeconfig"),
        "namespace": "splats",
        "node_selector": {"gpu": "none here"},
        "schedule_timeout_seconds": 86_400,
        "volumes": [{"name": "store", "hostPath": {"path": str(folder)}}],
        "volume_mounts": [{"name": "store", "mountPath": str(folder)}],
    }
    store = (folder / "store").as_uri()
    profile = {"store": store, "captures": [folder.as_uri()], "stages": {"default": settings}}
    (folder / "profiles.yaml").write_text(yaml.safe_dump({"cluster": profile}))
    os.environ["AIRFLOW__E2E3D__PROFILES_FILE"] = str(folder / "profiles.yaml")
    os.environ["AIRFLOW_HOME"] = str(folder)
    # Each pod that is built tells so.
    os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"

    from airflow_provider_e2e3d.backends.base import JobSpec
    from airflow_provider_e2e3d.jobs.attempt import Attempt, AttemptState
    from airflow_provider_e2e3d.profiles.file import profile_named
    from e2e3d_stages.store.artifacts import ArtifactStore
    from e2e3d_stages.store.leases import Watch

    artifacts, backend = ArtifactStore.open(store), profile_named("cluster").backend("train")
    states = []
    for number in range(count):
        key = f"{number:032x}"
        claim = artifacts.claim("train", key, "bench", Watch(0))
        assert claim is not None
        uri = artifacts.request_uri("train", key, 1)
        handle = backend.submit(JobSpec(stage="train", key=key, claim=claim, request_uri=uri))
        state = AttemptState(profile="cluster", stage="train", key=key, claim=claim, handle=handle)
        states.append(Attempt(artifacts, backend, state).serialize())
    return states


if __name__ == "__main__":
    main()
