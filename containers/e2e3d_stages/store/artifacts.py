"""The artifact store: what is committed, who is making what, and how to fetch it.

<root>/artifacts/<stage>/<key>/manifest.json               written last, create-only: the commit
<root>/artifacts/<stage>/<key>/read.json                   when somebody last reused it, to a day
<root>/artifacts/<stage>/<key>/generations/<n>.json        who asked by `force` for it to be made again
<root>/artifacts/<stage>/<key>/attempts/<n>/               claim, request, progress, failure, job, files/;
                                                           preview.jpg and curve.json while it trains
<root>/artifacts/<stage>/<key>/checkpoints/<step>-<n>/     complete when checkpoint.json is there
<root>/scenes/<scene>/<run>/                               what publish lays out for people, and the run's estimate
<root>/history/<profile>/<stage>/<machine>/                what stages took, for the next estimate
<root>/probed.json                                         that the store does what all this relies on
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import AwareDatetime, BaseModel, ValidationError

from e2e3d_stages.contract.messages import (
    Claim,
    Failure,
    Infrastructure,
    InvalidRequest,
    JobRecord,
    Manifest,
    Model,
    Overtaken,
    Progress,
    Reference,
    Request,
    StoredFile,
    StoredFiles,
    now,
)
from e2e3d_stages.contract.paths import inside
from e2e3d_stages.store.base import NotFound, Storage, file_digest
from e2e3d_stages.store.leases import LEASE_SECONDS, Watch
from e2e3d_stages.store.opening import open_storage
from e2e3d_stages.store.probe import probe

log = logging.getLogger("e2e3d")

PARALLEL_TRANSFERS = 8
READ_NOTED_EVERY = dt.timedelta(days=1)
# How the name of a clean-up's claim begins.
CLEAN_UP = "clean-up "
# The newest and, should that be damaged, one more.
CHECKPOINTS_KEPT = 2

AnyModel = TypeVar("AnyModel", bound=BaseModel)
Item = TypeVar("Item")
Result = TypeVar("Result")


class _Checkpoint(Model):
    step: int
    files: StoredFiles


class _Saved(NamedTuple):
    """A checkpoint by its name: `<step>-<attempt>`. The newest is the greatest."""

    step: int
    attempt: int

    @classmethod
    def of(cls, name: str) -> _Saved | None:
        step, _, attempt = name.partition("-")
        return cls(int(step), int(attempt)) if step.isdecimal() and attempt.isdecimal() else None

    def __str__(self) -> str:
        return f"{self.step}-{self.attempt}"


class Damaged(Infrastructure):
    """A file is missing, or is not what was stored."""


class _Generation(Model):
    owner: str


class _Probed(Model):
    found: list[str]


class _Read(Model):
    read: AwareDatetime


# Called with the bytes of a transfer in all; returns what is called with the size of each part that was moved.
TransferProgress = Callable[[int], Callable[[int], None]]


def unreported(_total: int) -> Callable[[int], None]:
    """Nobody asks how far it is."""
    return lambda _count: None


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Do the same with every item, a few at a time, keeping the order; the first error ends it."""
    with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
        return list(pool.map(work, items))


class ArtifactStore:
    """Artifacts below one root.

    :param storage: where the bytes lie.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @classmethod
    def open(cls, uri: str, environment: Mapping[str, str] | None = None) -> ArtifactStore:
        """Open the store at `file:///folder` or `s3://bucket/prefix`, as `open_storage` does."""
        return cls(open_storage(uri, environment))

    @staticmethod
    def folder(stage: str, key: str) -> str:
        """An artifact's place below the root."""
        return f"artifacts/{stage}/{key}"

    def attempt_folder(self, stage: str, key: str, attempt: int) -> str:
        """An attempt's place below the root."""
        return f"{self.folder(stage, key)}/attempts/{attempt}"

    def _load(self, path: str, model: type[AnyModel]) -> AnyModel | None:
        try:
            return self._read(path, model, self.storage.read(path))
        except NotFound:
            return None

    def _read(self, path: str, model: type[AnyModel], data: bytes) -> AnyModel:
        try:
            return model.model_validate_json(data)
        except ValidationError as error:
            raise InvalidRequest(
                f"{self.storage.uri_of(path)} is not a {model.__name__.lower()} of this version: {error}",
                hint="Use the provider and the images of one release; or clear the store's older attempt.",
            ) from error

    def _save(self, path: str, model: BaseModel) -> None:
        self.storage.write(path, model.model_dump_json(indent=1).encode())

    def _create(self, path: str, model: BaseModel) -> bool:
        return self.storage.create(path, model.model_dump_json(indent=1).encode())

    # Artifacts

    def manifest(self, stage: str, key: str, *, digest: str | None = None) -> Manifest | None:
        """The manifest, or None while there is no artifact.

        :param digest: SHA-256 that the manifest must have.
        :raises Infrastructure: when it has another.
        """
        path = f"{self.folder(stage, key)}/manifest.json"
        try:
            data = self.storage.read(path)
        except NotFound:
            return None
        if digest is not None and hashlib.sha256(data).hexdigest() != digest:
            raise Infrastructure(
                f"{self.storage.uri_of(path)} is not the manifest that was asked for.",
                hint="It was changed, which nobody may: restore it from a backup, or trigger again with its stage "
                "under Re-run stages (force).",
            )
        return self._read(path, Manifest, data)

    def reference(self, stage: str, key: str) -> Reference | None:
        """A small pointer to the artifact, or None while there is none."""
        folder = self.folder(stage, key)
        path = f"{folder}/manifest.json"
        try:
            data = self.storage.read(path)
        except NotFound:
            return None
        manifest = self._read(path, Manifest, data)
        return Reference(
            stage=manifest.stage,
            key=key,
            uri=self.storage.uri_of(folder),
            digest=hashlib.sha256(data).hexdigest(),
            metrics=manifest.metrics,
        )

    def commit(self, manifest: Manifest) -> bool:
        """Make the attempt the artifact; False when another attempt already is."""
        return self._create(f"{self.folder(manifest.stage, manifest.key)}/manifest.json", manifest)

    def note_read(self, stage: str, key: str) -> None:
        """Say that the artifact is used again, for retention; written at most once a day."""
        path = f"{self.folder(stage, key)}/read.json"
        last = self._load(path, _Read)
        if last is None or now() - last.read >= READ_NOTED_EVERY:
            self._save(path, _Read(read=now()))

    def use(self, stage: str, key: str) -> Reference | None:
        """The artifact, to be used again; None while there is none, or while a clean-up looks whether it may go.

        Who uses it says so before it looks for a clean-up's claim; a clean-up claims before it looks who uses it. So at
        least one of them sees the other.
        """
        if self.reference(stage, key) is None:
            return None
        self.note_read(stage, key)
        last = self.last_attempt(stage, key)
        claim = self.read_claim(stage, key, last)
        if claim and claim.owner.startswith(CLEAN_UP) and self.failure(stage, key, last) is None:
            return None
        return self.reference(stage, key)

    def file_path(self, manifest: Manifest, path: str) -> str:
        """An artifact's file below the root.

        :raises NotFound: when the manifest does not name it.
        """
        if all(file.path != path for file in manifest.files):
            raise NotFound(f"{manifest.stage} {manifest.key} has no {path}")
        return f"{self.attempt_folder(manifest.stage, manifest.key, manifest.attempt)}/files/{path}"

    def fetch(self, manifest: Manifest, into: Path, progress: TransferProgress = unreported) -> Path:
        """A local folder with the artifact's files, every digest verified; to be read only.

        A store on this machine's disk gives its own folder, without copies.

        :param progress: called with the bytes in all; what it returns is called with each part that was moved.
        :raises Damaged: when a file is missing or is not what the manifest says.
        """
        base = f"{self.attempt_folder(manifest.stage, manifest.key, manifest.attempt)}/files"
        return self._fetch(base, manifest.files, into, progress)

    def upload(
        self, source: Path, stage: str, key: str, attempt: int, progress: TransferProgress = unreported
    ) -> tuple[StoredFile, ...]:
        """Store every file below a folder as the attempt's files; `progress` as for `fetch`."""
        return self._upload(source, f"{self.attempt_folder(stage, key, attempt)}/files", progress)

    def _fetch(
        self, base: str, files: Sequence[StoredFile], into: Path, progress: TransferProgress = unreported
    ) -> Path:
        in_place = self.storage.local_path(base)
        folder = in_place or into
        moved = progress(sum(file.size for file in files))

        def fetch_one(file: StoredFile) -> None:
            target = inside(folder, file.path)
            try:
                if in_place is None:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self.storage.download(f"{base}/{file.path}", target)
                intact = target.stat().st_size == file.size and file_digest(target) == file.sha256
            except (NotFound, FileNotFoundError):
                raise Damaged(
                    f"{self.storage.uri_of(f'{base}/{file.path}')} is missing.",
                    hint="Trigger again with its stage under Re-run stages (force).",
                ) from None
            if not intact:
                raise Damaged(
                    f"{self.storage.uri_of(f'{base}/{file.path}')} is damaged: its digest is not the manifest's.",
                    hint="Clear the task to try again; if it stays so, trigger again with the stage that made it under "
                    "Re-run stages (force).",
                )
            moved(file.size)

        in_parallel(fetch_one, files)
        return folder

    def _upload(self, source: Path, base: str, progress: TransferProgress = unreported) -> tuple[StoredFile, ...]:
        found = sorted(file for file in source.rglob("*") if file.is_file())
        moved = progress(sum(file.stat().st_size for file in found))

        def upload_one(file: Path) -> StoredFile:
            path = file.relative_to(source).as_posix()
            stored = StoredFile(path=path, size=file.stat().st_size, sha256=file_digest(file))
            self.storage.upload(file, f"{base}/{path}")
            moved(stored.size)
            return stored

        return tuple(in_parallel(upload_one, found))

    # Attempts and claims

    def probe_once(self) -> None:
        """Try once, for all who share the store, whether claims can be relied on in it.

        :raises InvalidRequest: when they cannot.
        """
        if self._load("probed.json", _Probed) is None:
            found = probe(self.storage)
            log.info("%s was tried. %s", self.storage.uri, "; ".join(found))
            self._save("probed.json", _Probed(found=found))

    def last_attempt(self, stage: str, key: str) -> int:
        """Number of the newest attempt; 0 without any."""
        names = self.storage.folders(f"{self.folder(stage, key)}/attempts")
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def claim(self, stage: str, key: str, owner: str, watch: Watch) -> Claim | None:
        """Take the next attempt, before anything is submitted.

        :param owner: who takes it.
        :param watch: what the owner saw so far of the attempt that is there.
        :returns: the claim, or None while the newest attempt is somebody's; then ask again within seconds.
        """
        while True:
            last = self.last_attempt(stage, key)
            held = last == 0 or self.read_claim(stage, key, last) or self.failure(stage, key, last)
            if not held:
                # On a disk an attempt's folder is there a moment before its claim: then that number is still free. Or a
                # clean-up is removing it, which has claimed the next.
                if self.last_attempt(stage, key) != last:
                    continue
                last -= 1
            elif last and not self._is_over(stage, key, last, watch):
                return None
            if claim := self.claim_after(stage, key, owner, last):
                return claim

    def claim_after(self, stage: str, key: str, owner: str, attempt: int) -> Claim | None:
        """Take the attempt after this one; None when somebody else has it."""
        claim = Claim(owner=owner, attempt=attempt + 1, claimed=now())
        return claim if self._create(self._claim_path(stage, key, attempt + 1), claim) else None

    def _is_over(self, stage: str, key: str, attempt: int, watch: Watch) -> bool:
        """Whether the attempt has failed, or neither its owner nor its program was heard of for a lease."""
        if self.failure(stage, key, attempt) is not None:
            return True
        heard = self.read_claim(stage, key, attempt), self.progress(stage, key, attempt)
        return watch.is_over((stage, key, attempt, *heard))

    def read_claim(self, stage: str, key: str, attempt: int) -> Claim | None:
        """Who holds an attempt."""
        return self._load(self._claim_path(stage, key, attempt), Claim)

    def _claim_path(self, stage: str, key: str, attempt: int) -> str:
        return f"{self.attempt_folder(stage, key, attempt)}/claim.json"

    def heartbeat(self, stage: str, key: str, claim: Claim) -> None:
        """Say that the owner is alive.

        :raises Overtaken: when the attempt is its owner's no longer.
        """
        self.check_newest(stage, key, claim.attempt)
        last = self.read_claim(stage, key, claim.attempt)
        if last is None or (last.owner, last.claimed) != (claim.owner, claim.claimed):
            raise self._overtaken(claim.attempt, "Somebody else")
        self._save(self._claim_path(stage, key, claim.attempt), last.model_copy(update={"beats": last.beats + 1}))

    def check_newest(self, stage: str, key: str, attempt: int) -> None:
        """Go on only while no later attempt is claimed: before work that costs, and before what others would see.

        :raises Overtaken: when one is.
        """
        last = self.last_attempt(stage, key)
        if last > attempt and self.read_claim(stage, key, last) is not None:
            raise self._overtaken(attempt, f"Attempt {last}")

    @staticmethod
    def _overtaken(attempt: int, who: str) -> Overtaken:
        return Overtaken(
            f"{who} has taken over from attempt {attempt}, which was not heard of for {LEASE_SECONDS:g} s.",
            hint="Its machine was away or paused. The next try waits for the attempt that has taken over.",
        )

    def request_uri(self, stage: str, key: str, attempt: int) -> str:
        """Where an attempt's request is: the stage program's only argument."""
        return self.storage.uri_of(f"{self.attempt_folder(stage, key, attempt)}/request.json")

    def write_request(self, request: Request) -> None:
        """Store the request of an attempt."""
        self._save(f"{self.attempt_folder(request.stage, request.key, request.attempt)}/request.json", request)

    def read_request(self, path: str) -> Request | None:
        """The request at a path below the root."""
        return self._load(path, Request)

    def progress(self, stage: str, key: str, attempt: int) -> Progress | None:
        """How far an attempt is."""
        return self._load(f"{self.attempt_folder(stage, key, attempt)}/progress.json", Progress)

    def write_progress(self, key: str, progress: Progress) -> None:
        """Say how far an attempt is."""
        self._save(f"{self.attempt_folder(progress.stage, key, progress.attempt)}/progress.json", progress)

    def show(self, request: Request, name: str, data: bytes) -> None:
        """Leave a picture or figures of an attempt's work beside its progress; the next of that name replaces it."""
        self.storage.write(f"{self.attempt_folder(request.stage, request.key, request.attempt)}/{name}", data)

    def failure(self, stage: str, key: str, attempt: int) -> Failure | None:
        """Why an attempt failed, or None."""
        return self._load(f"{self.attempt_folder(stage, key, attempt)}/failure.json", Failure)

    def write_failure(self, stage: str, key: str, failure: Failure) -> None:
        """Say why an attempt failed."""
        self._save(f"{self.attempt_folder(stage, key, failure.attempt)}/failure.json", failure)

    def job(self, stage: str, key: str, attempt: int) -> JobRecord | None:
        """What the attempt's job took, or None while that is not known."""
        return self._load(f"{self.attempt_folder(stage, key, attempt)}/job.json", JobRecord)

    def write_job(self, stage: str, key: str, attempt: int, record: JobRecord) -> None:
        """Say what the attempt's job took."""
        self._save(f"{self.attempt_folder(stage, key, attempt)}/job.json", record)

    # Generations

    def generation(self, stage: str, key: str, owner: str) -> int:
        """The number that `force` gives to a run: the next one, and the same again for the same owner.

        :param key: the artifact's key at generation 0.
        """
        while True:
            latest = self.latest_generation(stage, key)
            entry = self._load(self._generation_path(stage, key, latest), _Generation) if latest else None
            if entry and entry.owner == owner:
                return latest
            if self._create(self._generation_path(stage, key, latest + 1), _Generation(owner=owner)):
                return latest + 1

    def latest_generation(self, stage: str, key: str) -> int:
        """The newest number that `force` has given out for this key; 0 without any."""
        names = (Path(entry.path).stem for entry in self.storage.list(f"{self.folder(stage, key)}/generations"))
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def _generation_path(self, stage: str, key: str, number: int) -> str:
        return f"{self.folder(stage, key)}/generations/{number}.json"

    # Checkpoints

    def save_checkpoint(self, stage: str, key: str, attempt: int, step: int, source: Path) -> None:
        """Store a folder as the checkpoint of a step, then drop what is older than the one before it.

        An attempt that was overtaken and knows nothing of it drops nothing that a later one made.
        """
        base = f"{self.folder(stage, key)}/checkpoints"
        ours = _Saved(step, attempt)
        files = self._upload(source, f"{base}/{ours}")
        self._save(f"{base}/{ours}/checkpoint.json", _Checkpoint(step=step, files=files))
        older = [each for each in self._saved(base) if each.step < step and each.attempt <= attempt]
        for each in sorted(older)[: 1 - CHECKPOINTS_KEPT]:
            self.storage.delete(f"{base}/{each}")

    def latest_checkpoint(self, stage: str, key: str, into: Path) -> tuple[int, Path] | None:
        """Fetch the newest whole checkpoint: its step and a local folder; None without any.

        One that is damaged or not complete is removed.
        """
        base = f"{self.folder(stage, key)}/checkpoints"
        for each in sorted(self._saved(base), reverse=True):
            place = f"{base}/{each}"
            try:
                entry = _Checkpoint.model_validate_json(self.storage.read(f"{place}/checkpoint.json"))
                return entry.step, self._fetch(place, entry.files, into / str(each))
            except (NotFound, ValidationError, Damaged) as error:
                why = error.message if isinstance(error, Damaged) else "It is not complete."
                log.warning("The checkpoint %s is passed over and removed. %s", self.storage.uri_of(place), why)
                self.storage.delete(place)
        return None

    def _saved(self, base: str) -> list[_Saved]:
        """Every checkpoint, complete or not."""
        return [saved for name in self.storage.folders(base) if (saved := _Saved.of(name))]

    def drop_checkpoints(self, stage: str, key: str) -> None:
        """Remove them all: nobody resumes what is committed."""
        self.storage.delete(f"{self.folder(stage, key)}/checkpoints")
