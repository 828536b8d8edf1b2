"""One seeded, deterministic model of a bucket and of all that goes wrong around it, under the code that ships.

Workers want one artifact, their jobs make it, clean-ups come by. All of them are greenlets that take turns at each
request to the bucket, by a clock that only their waiting moves; each machine's own clock tells another time. Requests
are slow, refused or done without an answer, the bucket is away, processes are paused or die, bytes rot. What goes wrong
is a `Plan`, which a seed draws and `shrunk` makes smaller. The first promise that is not kept ends a history.

Real are `Making`, `Attempt`, `ArtifactStore`, `S3Storage` and `retention`; the worker's loop stands for
`StageOperator`, the job's for `program.py`, and the bucket for S3.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import hashlib
import heapq
import io
import json
import logging
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from greenlet import GreenletExit, getcurrent, greenlet

from airflow_provider_e2e3d import metrics, retention
from airflow_provider_e2e3d.backends.base import Backend, Cursor, Handle, JobSpec, JobStatus
from airflow_provider_e2e3d.jobs import attempt as attempts
from airflow_provider_e2e3d.jobs import making
from airflow_provider_e2e3d.jobs.making import Making
from airflow_provider_e2e3d.profiles.profile import Profile
from e2e3d_stages.contract.messages import (
    Claim,
    Failure,
    FailureCode,
    Infrastructure,
    Interrupted,
    InvalidRequest,
    Manifest,
    Program,
    Progress,
    Request,
    StageError,
    StoredFile,
    Usage,
)
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store import artifacts, s3
from e2e3d_stages.store.artifacts import ArtifactStore

STAGE, KEY = "train", "0123456789abcdef" * 2
FOLDER = f"store/artifacts/{STAGE}/{KEY}"
EPOCH = dt.datetime(2026, 11, 1, tzinfo=dt.timezone.utc)
DAY = 86_400.0
# What a job has to do, and how long a step of it takes.
STEPS, STEP_SECONDS = 4, 20.0
BEAT_SECONDS, LOOK_SECONDS = 10.0, 15.0
# Less than any lease: who was heard of so lately lives.
LATELY_SECONDS = 45.0
# Longer than anybody is silent who lives, and shorter than a lease.
LONG_SECONDS = 60.0
# Between a look and what follows from it lie a few requests.
AT_ONCE_SECONDS = 15.0
# Who was overtaken may need so long to see it.
NOTICED_WITHIN_SECONDS = 60.0
TRIES = 12


SILENT = logging.getLogger("simulated")
SILENT.disabled = True


class Violation(Exception):
    """A promise that was not kept."""


class Crash(BaseException):
    """The process is gone."""


@dataclass(frozen=True)
class Fault:
    """What happens at the n-th request of a history, and for how long."""

    request: int
    kind: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A history before it happens.

    :param before: what lies under the key since ten days: nothing, a `failed` or a `silent` attempt, an `artifact`.
    :param starts: when each worker comes, in seconds.
    :param cleanings: when each clean-up comes.
    :param skews: what the machines' clocks are ahead, one after another.
    :param conditional: whether the bucket knows `If-None-Match`.
    """

    seed: int
    before: str = "nothing"
    starts: tuple[float, ...] = (0.0,)
    cleanings: tuple[float, ...] = ()
    skews: tuple[float, ...] = (0.0,)
    faults: tuple[Fault, ...] = ()
    conditional: bool = True


FAULTS: dict[str, tuple[float, float]] = {
    "pause": (20, 600),
    "crash": (0, 0),
    "crash after": (0, 0),
    "no answer": (0, 0),
    "busy": (0, 0),
    "away": (5, 180),
    "key stays": (0, 0),
    "rot": (0, 0),
}


def drawn(seed: int, **fixed: Any) -> Plan:
    """The plan of a seed."""
    draw = random.Random(seed)
    faults = []
    for _ in range(draw.choice([0, 1, 1, 2, 3, 5])):
        kind = draw.choice([*FAULTS])
        faults.append(Fault(int(draw.triangular(0, 160, 20)), kind, round(draw.uniform(*FAULTS[kind]), 1)))
    workers, cleaners = draw.choice([1, 2, 2, 3]), draw.choice([0, 0, 1, 1, 2])
    skew = draw.choice([0, 0, 120, 600, 3600])
    plan = Plan(
        seed=seed,
        before=draw.choice(["nothing", "nothing", "failed", "silent", "artifact"]),
        starts=tuple(round(draw.uniform(0, 40), 1) for _ in range(workers)),
        cleanings=tuple(round(draw.uniform(0, 30), 1) for _ in range(cleaners)),
        skews=tuple(round(draw.uniform(-skew, skew), 1) for _ in range(8)),
        faults=tuple(sorted(faults, key=lambda fault: fault.request)),
    )
    return replace(plan, **fixed)


def shrunk(plan: Plan, broken: str) -> Plan:
    """The plan with as little in it as still breaks the same promise."""

    def smaller(plan: Plan) -> Iterator[Plan]:
        for name in ("faults", "cleanings", "starts"):
            values = getattr(plan, name)
            for place in range(len(values)):
                yield replace(plan, **{name: values[:place] + values[place + 1 :]})
        if any(plan.skews):
            yield replace(plan, skews=(0.0,))
        if plan.before != "nothing":
            yield replace(plan, before="nothing")

    for candidate in smaller(plan):
        if (told := history(candidate)) and told.split(":")[0] == broken.split(":")[0]:
            return shrunk(candidate, told)
    return plan


def history(plan: Plan) -> str | None:
    """Let it happen; returns which promise was not kept, or nothing."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(plan)
        world.rule(patch.setattr)
        return world.run()


@cache
def scratch() -> Path:
    """Where jobs of every history put their files; nobody else gets a turn while one is written and read again."""
    folder = tempfile.TemporaryDirectory(prefix="e2e3d-histories-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def folder_with(name: str, text: str) -> Path:
    """A folder with one file in it, which jobs of many histories would write alike."""
    folder = scratch() / f"{name} {text}"
    folder.mkdir()
    (folder / name).write_text(text)
    return folder


@dataclass
class Actor:
    """A process on a machine.

    :param ahead: what the machine's clock tells more.
    """

    name: str
    ahead: float
    green: greenlet
    slept: float = 0.0
    woken: float = 0.0

    @property
    def alive(self) -> bool:
        return not self.green.dead


@dataclass
class Stored:
    """An object."""

    data: bytes
    arrived: float
    rotten: bool = False


class World:
    """Everything that there is."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.draw = random.Random(plan.seed)
        self.time = self.until = 0.0
        self.requests = 0
        self.faults = list(plan.faults)
        self.objects: dict[str, Stored] = {}
        self.away_until = 0.0
        self.outages: list[tuple[float, float]] = []
        self.sleepers: list[tuple[float, int, Actor]] = []
        self.actors: list[Actor] = []
        self.hub = getcurrent()
        self.nobody = self.turn = Actor("nobody", 0, self.hub)
        self.broken: str | None = None
        self.bucket = Bucket(self)
        self.place = Place(self)
        self.promises = Promises(self)
        self.got: dict[str, bool] = {}

    # The clock and whose turn it is

    def rule(self, put: Callable[[Any, str, Any], None]) -> None:
        """Let the code that ships live here."""
        clock = SimpleNamespace(monotonic=lambda: self.time + 1e6, sleep=self.sleep)
        modules = [s3, attempts]
        with contextlib.suppress(ImportError):
            from e2e3d_stages.store import leases

            modules.append(leases)
        for module in modules:
            put(module, "time", clock)
        put(artifacts, "now", self.now)
        # Asking Airflow's configuration for them is a third of a history's time.
        put(metrics, "is_on", lambda: False)
        # A job starts at once here, so nobody need be kept alive meanwhile.
        put(making, "kept_alive", lambda *_: contextlib.nullcontext())
        put(artifacts, "in_parallel", lambda work, items: [work(item) for item in items])
        put(retention, "in_parallel", lambda work, items: [work(item) for item in items])
        put(boto3, "client", lambda *_, **__: self.bucket)
        put(s3, "Config", lambda **_: None)
        put(s3, "random", SimpleNamespace(uniform=self.draw.uniform))
        if hasattr(s3, "answer_within"):
            put(s3, "answer_within", lambda _seconds, ask: ask())
        for logger in (s3.log, attempts.log):
            put(logger, "disabled", True)

    def now(self) -> dt.datetime:
        """What the clock of this machine tells."""
        return EPOCH + dt.timedelta(seconds=self.time + self.me.ahead)

    @property
    def me(self) -> Actor:
        """Whose turn it is."""
        return self.nobody if getcurrent() is self.hub else self.turn

    def sleep(self, seconds: float) -> None:
        """Let others go on for so long."""
        if getcurrent() is self.hub:
            self.time += seconds
            return
        me = self.turn
        moment, _, first = next_one = heapq.heappushpop(
            self.sleepers, (self.time + seconds, self.draw.getrandbits(30), me)
        )
        if first is me and not self.broken and self.time < self.until:
            # Nobody else comes before.
            self.time = max(self.time, moment)
            return
        heapq.heappush(self.sleepers, next_one)
        self.hub.switch()

    def start(self, name: str, work: Callable[[], object], *, after: float = 0.0) -> Actor:
        """A new process."""
        ahead = self.plan.skews[len(self.actors) % len(self.plan.skews)]

        def live() -> None:
            try:
                work()
            except Crash:
                pass
            except Violation as violation:
                self.broken = self.broken or str(violation)

        actor = Actor(name, ahead, greenlet(live, self.hub))
        self.actors.append(actor)
        heapq.heappush(self.sleepers, (self.time + after, self.draw.getrandbits(30), actor))
        return actor

    def run(self) -> str | None:
        """Until nobody is left, or a promise is broken."""
        try:
            self.prepare()
            for number, after in enumerate(self.plan.starts):
                self.start(f"worker {number}", Worker(self, f"run {number}"), after=after)
            for number, after in enumerate(self.plan.cleanings):
                self.start(f"clean-up {number}", lambda: clean_up(self), after=after)
            self.until = self.time + 3 * 3600
            while self.sleepers and not self.broken and self.time < self.until:
                moment, _, actor = heapq.heappop(self.sleepers)
                self.time, self.turn = max(self.time, moment), actor
                actor.green.switch()
            return self.broken or self.promises.in_the_end()
        finally:
            for actor in self.actors:
                if actor.alive and actor.green:
                    actor.green.throw(GreenletExit)

    def store(self) -> ArtifactStore:
        """The store, as a new process opens it."""
        return ArtifactStore.open("s3://bucket/store", {"AWS_ENDPOINT_URL_S3": "http://nowhere"})

    def prepare(self) -> None:
        """What lies there since ten days."""
        faults, self.faults = self.faults, []
        if self.plan.before != "nothing":
            path = f"{FOLDER}/attempts/1"
            claimed = (EPOCH + dt.timedelta(seconds=self.time)).isoformat()
            claim = {"owner": "an old run", "attempt": 1, "claimed": claimed}
            if "heartbeat" in Claim.model_fields:
                claim["heartbeat"] = claimed
            self.objects[f"{path}/claim.json"] = Stored(json.dumps(claim).encode(), self.time)
            request = request_of(1).model_dump_json().encode()
            self.objects[f"{path}/request.json"] = Stored(request, self.time)
            store = self.store()
            if self.plan.before == "artifact":
                self.objects[f"{path}/files/scene"] = Stored(b"a scene", self.time)
                store.commit(manifest_of(1, [file_of("scene", b"a scene")]))
            else:
                store.save_checkpoint(STAGE, KEY, 1, 2, folder_with("state", "2"))
            if self.plan.before == "failed":
                failure = Failure(code=FailureCode.CRASH, message="It fell over.", attempt=1)
                store.write_failure(STAGE, KEY, failure)
        self.promises = Promises(self)
        self.time += 10 * DAY
        self.faults, self.requests = faults, 0

    # What goes wrong

    def before_request(self) -> Fault | None:
        """Take a turn's time; returns what is to go wrong with the request's answer."""
        self.sleep(self.draw.choice([0.02, 0.1, 0.5, 2]))
        number = self.requests
        self.requests += 1
        fault = self.faults.pop(0) if self.faults and self.faults[0].request <= number else None
        if fault and fault.kind == "pause":
            self.me.slept = self.time
            self.sleep(fault.seconds)
            self.me.woken = self.time
        if fault and fault.kind == "away":
            # One ends the other: what lies between is counted once.
            self.outages.append((max(self.time, self.away_until), self.time + fault.seconds))
            self.away_until = max(self.away_until, self.time + fault.seconds)
        if fault and fault.kind == "crash":
            raise Crash
        if fault and fault.kind == "rot":
            self.promises.rot()
        if self.time < self.away_until:
            raise ConnectionClosedError(endpoint_url="http://nowhere")
        if fault and fault.kind == "busy":
            told = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
            raise ClientError(cast(Any, told), "any")
        return fault

    @staticmethod
    def after_request(fault: Fault | None) -> None:
        """The request was done, and its answer may be lost."""
        if fault and fault.kind == "no answer":
            raise ConnectionClosedError(endpoint_url="http://nowhere")
        if fault and fault.kind == "crash after":
            raise Crash


class Bucket:
    """What boto3's client for S3 does, as far as it is asked."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.meta = SimpleNamespace(endpoint_url="http://nowhere", region_name="nowhere")

    def _answer(self, work: Callable[[], Any]) -> Any:
        fault = self.world.before_request()
        answer = work()
        self.world.after_request(fault)
        return answer

    def _object(self, key: str) -> Stored:
        if key not in self.world.objects:
            raise refusal("NoSuchKey", 404)
        return self.world.objects[key]

    def head_bucket(self, **_: Any) -> dict[str, Any]:
        moment = EPOCH + dt.timedelta(seconds=self.world.time)
        told = {"date": moment.strftime("%a, %d %b %Y %H:%M:%S GMT")}
        return cast("dict[str, Any]", self._answer(lambda: {"ResponseMetadata": {"HTTPHeaders": told}}))

    def get_object(self, *, Key: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        return cast("dict[str, Any]", self._answer(lambda: {"Body": io.BytesIO(self._object(Key).data)}))

    def put_object(self, *, Key: str, Body: bytes, **asked: Any) -> None:  # noqa: N803
        def put() -> None:
            if asked.get("IfNoneMatch") and self.world.plan.conditional and Key in self.world.objects:
                raise refusal("PreconditionFailed", 412)
            self.world.promises.before_put(Key, Body)
            self.world.objects[Key] = Stored(Body, self.world.time)

        self._answer(put)

    def upload_file(self, source: str, _bucket: str, key: str, **_: Any) -> None:
        self.put_object(Key=key, Body=Path(source).read_bytes())

    def download_file(self, _bucket: str, key: str, target: str) -> None:
        Path(target).write_bytes(self.get_object(Key=key)["Body"].read())

    def list_objects_v2(self, *, Prefix: str = "", Delimiter: str = "", **_: Any) -> dict[str, Any]:  # noqa: N803
        def found() -> dict[str, Any]:
            keys = sorted(key for key in self.world.objects if key.startswith(Prefix))
            if Delimiter:
                folders = {Prefix + key[len(Prefix) :].split("/")[0] + "/" for key in keys if "/" in key[len(Prefix) :]}
                return {"CommonPrefixes": [{"Prefix": each} for each in sorted(folders)], "IsTruncated": False}
            contents = [
                {
                    "Key": key,
                    "Size": len(self.world.objects[key].data),
                    "LastModified": EPOCH + dt.timedelta(seconds=self.world.objects[key].arrived),
                    "ETag": hashlib.md5(self.world.objects[key].data).hexdigest(),
                }
                for key in keys
            ]
            return {"Contents": contents, "IsTruncated": False}

        return cast("dict[str, Any]", self._answer(found))

    def delete_objects(self, *, Delete: dict[str, Any], **_: Any) -> dict[str, Any]:  # noqa: N803
        fault = self.world.before_request()
        keys = [each["Key"] for each in Delete["Objects"]]
        stays = keys[-1:] if fault and fault.kind == "key stays" else []
        best = self.world.promises.best()
        for key in keys:
            if key not in stays:
                self.world.promises.before_removal(key)
                self.world.objects.pop(key, None)
        self.world.promises.after_removal(keys, best)
        self.world.after_request(fault)
        return {"Errors": [{"Key": key, "Code": "InternalError", "Message": "Again, please."} for key in stays]}


def refusal(code: str, status: int) -> ClientError:
    return ClientError(cast(Any, {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}), "any")


@dataclass
class Job:
    """A job in its place."""

    actor: Actor
    ended: int | None = None
    stopping: bool = False


class Place(Backend):
    """Runs jobs as processes of this world; a name is taken once."""

    deferrable = False

    def __init__(self, world: World) -> None:
        self.settings = cast(Any, SimpleNamespace(backend="simulated", poll_seconds=5, job_url=None, machine=None))
        self.world = world
        self.jobs: dict[str, Job] = {}

    def submit(self, job: JobSpec) -> Handle:
        if job.name not in self.jobs:
            self.jobs[job.name] = made = Job(cast(Any, None))
            made.actor = self.world.start(
                f"job {job.claim.attempt}", lambda: work_at(self.world, made, job.request_uri)
            )
        return {"name": job.name}

    def find(self, job: JobSpec) -> Handle | None:
        return {"name": job.name} if job.name in self.jobs else None

    def poll(self, handle: Handle) -> JobStatus:
        job = self.jobs[handle["name"]]
        return JobStatus(running=job.actor.alive, exit_code=None if job.actor.alive else job.ended)

    def logs(self, handle: Handle, cursor: Cursor) -> tuple[list[str], Cursor]:
        return [], cursor

    def cancel(self, handle: Handle) -> None:
        self.jobs[handle["name"]].stopping = True


@cache
def request_of(attempt: int) -> Request:
    params = STAGES[STAGE].resolve("draft", {}).model_dump(mode="json")
    return Request(stage=STAGE, stage_version=STAGES[STAGE].version, key=KEY, attempt=attempt, params=params)


def file_of(path: str, data: bytes) -> StoredFile:
    return StoredFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def manifest_of(attempt: int, files: list[StoredFile]) -> Manifest:
    usage = Usage(
        started=EPOCH, finished=EPOCH, wall_seconds=1, stage_seconds=1, cpu_seconds=1, peak_memory_bytes=attempt
    )
    asked = request_of(attempt)
    return Manifest(
        stage=STAGE,
        stage_version=asked.stage_version,
        key=KEY,
        attempt=attempt,
        params=asked.params,
        inputs={},
        files=tuple(files),
        metrics={},
        usage=usage,
        program=Program(version="1", python="3", platform="simulated"),
    )


# Who lives in it


@dataclass
class Worker:
    """A task: looks for the artifact, makes it or waits, and is tried again when that fails or its machine dies."""

    world: World
    owner: str
    tries: int = 0
    log: Any = SILENT

    def __call__(self) -> None:
        self.world.got.setdefault(self.owner, False)
        while self.tries < TRIES and not self.world.got[self.owner]:
            self.tries += 1
            try:
                self._execute(self.world.store())
            except InvalidRequest:
                return
            except StageError:
                self.world.sleep(10)
            except Crash:
                self.world.start(f"{self.owner} again", self, after=20)
                return

    def _execute(self, store: ArtifactStore) -> None:
        profile = cast(
            Profile, SimpleNamespace(backend=lambda *_: self.world.place, attempt_environment=lambda given, _: given)
        )
        making = Making(
            store=store, environment={}, profile=profile, profile_name="simulated", stage=STAGE, owner=self.owner,
            log=self.log,
        )  # fmt: skip
        request = request_of(0)
        reference = store.use(STAGE, KEY)
        while reference is None:
            attempt = making.start(request)
            if attempt is not None:
                while (status := attempt.follow(lambda _line: None)).running:
                    self.world.sleep(5)
                reference = store.reference(STAGE, KEY)
                if reference is None:
                    raise Infrastructure(attempt.failure(status).message)
            else:
                self.world.sleep(5)
                reference = store.use(STAGE, KEY)
        if store.manifest(STAGE, KEY, digest=reference.digest) is None:
            raise Infrastructure("It vanished.")
        self.world.got[self.owner] = True


def work_at(world: World, job: Job, uri: str) -> None:
    """A job's program."""
    store = world.store()
    path = "artifacts/" + uri.partition("/artifacts/")[2]
    try:
        request = store.read_request(path)
    except StageError as error:
        job.ended = error.code.exit_code
        return
    if request is None:
        raise Violation(f"a claim's request is gone: {path}")
    try:
        _train(world, job, store, request)
        job.ended = 0
    except StageError as error:
        job.ended = error.code.exit_code
        with contextlib.suppress(StageError):
            store.write_failure(STAGE, KEY, Failure.of(error, request.attempt))


def _train(world: World, job: Job, store: ArtifactStore, request: Request) -> None:
    number, looked = request.attempt, world.time
    check = getattr(store, "check_newest", lambda *_: None)
    check(STAGE, KEY, number)
    begun = world.promises.resume(store, scratch())
    for step in range(begun + 1, STEPS + 1):
        for _ in range(int(STEP_SECONDS / BEAT_SECONDS)):
            world.sleep(BEAT_SECONDS)
            told = Progress(stage=STAGE, attempt=number, done=step, total=STEPS, unit="steps", updated=world.now())
            # As the reporter does, which gives nothing up for a report that is lost.
            with contextlib.suppress(Infrastructure):
                store.write_progress(KEY, told)
                if world.time - looked >= LOOK_SECONDS:
                    check(STAGE, KEY, number)
                    looked = world.time
        store.save_checkpoint(STAGE, KEY, number, step, folder_with("state", str(step)))
        if job.stopping:
            raise Interrupted("It was stopped.")
    files = store.upload(folder_with("scene", f"made by attempt {number}"), STAGE, KEY, number)
    check(STAGE, KEY, number)
    store.commit(manifest_of(number, list(files)))
    store.drop_checkpoints(STAGE, KEY)


def clean_up(world: World) -> None:
    """As the DAG does."""
    store = world.store()
    with contextlib.suppress(StageError):
        for spare in retention.survey(store, at=world.now(), attempt_days=1, artifact_days=1):
            with contextlib.suppress(StageError):
                retention.remove(store, spare)


class Promises:
    """What is kept whatever happens."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.heard: dict[int, float] = {}
        self.revived: dict[int, float] = {}
        self.overtaken: dict[int, float] = {}
        self.saved: set[int] = set()
        self.rotten = False

    def _attempt(self, key: str) -> tuple[int, str]:
        """An attempt's number and which of its files, for a key of one."""
        parts = key.removeprefix(f"{FOLDER}/attempts/").split("/")
        return (int(parts[0]), parts[-1]) if key.startswith(f"{FOLDER}/attempts/") else (0, "")

    def _failed(self, number: int) -> bool:
        return f"{FOLDER}/attempts/{number}/failure.json" in self.world.objects

    def _since(self, number: int) -> float:
        """How long an attempt was silent though it could have been heard of."""
        heard = self.heard.get(number, -DAY)
        return self.world.time - heard - sum(max(0, until - max(heard, since)) for since, until in self.world.outages)

    def before_put(self, key: str, data: bytes) -> None:
        there = self.world.objects.get(key)
        if key == f"{FOLDER}/manifest.json" and there and there.data != data:
            raise Violation("a manifest was replaced")
        if key.startswith(f"{FOLDER}/checkpoints/") and key.endswith("/checkpoint.json"):
            self.saved.add(json.loads(data)["step"])
        number, name = self._attempt(key)
        if name == "claim.json":
            self._before_claim(number, there, json.loads(data))
        if name in ("claim.json", "progress.json"):
            ended = max(self.overtaken.get(number, self.world.time), self.world.me.woken, self.world.away_until)
            if name == "progress.json" and self.world.time - ended > NOTICED_WITHIN_SECONDS:
                raise Violation(f"two jobs at one time: attempt {number} goes on though it was overtaken")
            if number in self.heard and self._since(number) > LONG_SECONDS:
                self.revived[number] = self.world.time
            self.heard[number] = self.world.time

    def _before_claim(self, number: int, there: Stored | None, claim: dict[str, Any]) -> None:
        if there:
            before = json.loads(there.data)
            if (before["owner"], before["claimed"]) != (claim["owner"], claim["claimed"]):
                raise Violation(f"two owners of attempt {number}")
            return
        last = number - 1
        before = self.world.objects.get(f"{FOLDER}/attempts/{last}/claim.json")
        alive = last in self.heard and not self._failed(last) and self._since(last) < LATELY_SECONDS
        if alive and not self._just_woke(last) and before and json.loads(before.data)["owner"] != claim["owner"]:
            raise Violation(
                f"a living attempt was overtaken: {last} was heard of {self._since(last):.0f} s before {number}"
            )
        # One who slept may take a number that a clean-up has freed; that overtakes nobody, and starts nothing.
        for each in self.heard:
            if each < number:
                self.overtaken.setdefault(each, self.world.time)

    def _just_woke(self, number: int) -> bool:
        """Whether an attempt slept for longer than a lease, and so late before the claim that nobody could know."""
        looked = self.world.time - AT_ONCE_SECONDS
        if self.world.me.woken > looked:
            looked = self.world.me.slept
        return self.revived.get(number, -DAY) > looked

    def before_removal(self, key: str) -> None:
        number, name = self._attempt(key)
        held = name in ("claim.json", "request.json") and number in self.heard and not self._failed(number)
        claim = self.world.objects.get(f"{FOLDER}/attempts/{number}/claim.json")
        # A clean-up removes what an earlier one held.
        held = held and not (claim and json.loads(claim.data)["owner"].startswith("clean-up"))
        if held and self._since(number) < LATELY_SECONDS and key in self.world.objects:
            raise Violation(f"a run lost its {name}: attempt {number} was alive")

    def after_removal(self, keys: list[str], best: int) -> None:
        """:param best: the step of the newest whole checkpoint before."""
        steps = any(key.startswith(f"{FOLDER}/checkpoints/") for key in keys)
        made = f"{FOLDER}/manifest.json" in self.world.objects
        cleaning = self.world.me.name.startswith("clean-up")
        if steps and (made or cleaning):
            self.saved.clear()
        lost = steps and not made and not cleaning and self.best() < best
        # Two are kept, against one that is damaged. Nobody sees that both are when it drops what is older.
        if lost and len(self._damaged_since(best)) < 2:
            raise Violation(f"work was lost: step {best} was removed, and {self.best()} is left")

    def best(self) -> int:
        """The step of the newest checkpoint that is whole."""
        found = [0]
        base = f"{FOLDER}/checkpoints/"
        for key in self.world.objects:
            if key.startswith(base) and key.endswith("/checkpoint.json"):
                place = key.removesuffix("/checkpoint.json")
                both = [self.world.objects.get(f"{place}/{name}") for name in ("checkpoint.json", "state")]
                if all(each is not None and not each.rotten for each in both):
                    found.append(int(place.removeprefix(base).partition("-")[0]))
        return max(found)

    def _damaged_since(self, step: int) -> set[str]:
        """The newer checkpoints of which a file is damaged."""
        base = f"{FOLDER}/checkpoints/"
        rotten = {key for key, stored in self.world.objects.items() if key.startswith(base) and stored.rotten}
        places = {key.removeprefix(base).partition("/")[0] for key in rotten}
        return {place for place in places if int(place.partition("-")[0]) > step}

    def rot(self) -> None:
        """A file of the newest checkpoint loses its end."""
        step = self.best()
        files = [key for key in self.world.objects if key.startswith(f"{FOLDER}/checkpoints/{step}-")]
        for key in self.world.draw.sample(sorted(files), min(1, len(files))):
            there = self.world.objects[key]
            self.world.objects[key] = Stored(there.data[: len(there.data) // 2], there.arrived, rotten=True)
        self.saved.discard(step)
        before = max(self.saved, default=0)
        if self.best() < before and not self.rotten:
            raise Violation(f"work was lost: step {step} is damaged, and step {before} was not kept")
        self.rotten = True

    def resume(self, store: ArtifactStore, into: Path) -> int:
        """The step that a job goes on from."""
        best = self.best()
        try:
            step, _ = store.latest_checkpoint(STAGE, KEY, into) or (0, into)
        except StageError as error:
            if "damaged" in error.message or "missing" in error.message or "not a" in error.message:
                raise Violation(f"a damaged checkpoint stops who would go on: {error.message}") from None
            raise
        if step < min(best, self.best()):
            raise Violation(f"work was lost: step {best} was there, and step {step} is gone on from")
        return step

    def in_the_end(self) -> str | None:
        objects = self.world.objects
        if not self.world.plan.conditional and not self.heard:
            return None
        manifest = objects.get(f"{FOLDER}/manifest.json")
        if manifest:
            made = json.loads(manifest.data)
            for file in made["files"]:
                if f"{FOLDER}/attempts/{made['attempt']}/files/{file['path']}" not in objects:
                    return "an artifact lost its files: its manifest is there"
        if any(self.world.got.values()) and not manifest:
            return "an artifact that a run has is gone"
        if not all(self.world.got.values()):
            return f"a run never ended well: {self.world.got}"
        return None
