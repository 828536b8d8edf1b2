"""What may go from an artifact store, and its removal. Captures, scenes and ledgers are no part of it.

It goes by one listing, whose times are the store's own; of what it may remove it reads only what it must. Who holds an
attempt writes to it every few seconds, so that what was silent for days is nobody's, whatever a clock says.

What a run could come back to is removed under a claim of the clean-up's own, on the attempt after the last: a run that
claims at the same time has it first or waits, and one that slept finds itself overtaken.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any
from uuid import uuid4

from airflow_provider_e2e3d.backends.base import Orphan
from e2e3d_stages.contract.messages import Failure, FailureCode, Infrastructure, InvalidRequest, Overtaken
from e2e3d_stages.store.artifacts import CLEAN_UP, READ_NOTED_EVERY, ArtifactStore, in_parallel
from e2e3d_stages.store.base import Entry, NotFound

# How long nothing was written to an attempt when what its job left may go: much longer than a store is away, and than
# the clocks of Airflow and the store are apart.
SILENT = dt.timedelta(hours=1)

# A stage and an artifact's key.
_Name = tuple[str, str]


@dataclass(frozen=True)
class Garbage:
    """Something that nobody needs any more.

    :param what: the whole `artifact`, an `attempt` or the `checkpoints` below a key, or a `file` of a killed writer.
    :param path: its folder, below the store's root.
    :param reason: why nobody needs it.
    :param size: in bytes.
    :param age: since it was last written or read.
    """

    what: str
    stage: str
    key: str
    path: str
    reason: str
    size: int
    age: dt.timedelta
    # What lay there, as the survey saw it, and for whom it is removed.
    seen: int = field(repr=False)
    owner: str = field(repr=False)
    # The key's last attempt, where a run could come back to what is removed; None where nobody can.
    last: int | None = field(repr=False)


@dataclass
class _Files:
    """What lies in a folder, without keeping the list: a store may have millions of files."""

    size: int = 0
    newest: dt.datetime = dt.datetime.min.replace(tzinfo=dt.timezone.utc)
    seen: int = 0

    def add(self, entry: Entry) -> None:
        self.size += entry.size
        self.newest = max(self.newest, entry.arrived)
        self.seen = hash((self.seen, entry.path, entry.tag))


@dataclass
class _Key:
    """What lies below one key.

    :param manifest: when the artifact was made.
    :param read: when it was made or last reused.
    :param rest: everything but the manifest, and the generations that `force` counts on.
    """

    stage: str
    key: str
    manifest: dt.datetime | None = None
    read: dt.datetime = dt.datetime.min.replace(tzinfo=dt.timezone.utc)
    rest: _Files = field(default_factory=_Files)
    attempts: dict[int, _Files] = field(default_factory=dict)
    checkpoints: _Files = field(default_factory=_Files)

    @property
    def name(self) -> _Name:
        return self.stage, self.key

    @property
    def last(self) -> int:
        """Number of the newest attempt."""
        return max(self.attempts, default=0)

    def add(self, entry: Entry, part: str, number: str) -> None:
        """Count one file in."""
        if part in ("manifest.json", "read.json"):
            self.read = max(self.read, entry.arrived)
        if part == "manifest.json":
            self.manifest = entry.arrived
        elif part != "generations":
            self.rest.add(entry)
        if part == "attempts" and number.isdecimal():
            self.attempts.setdefault(int(number), _Files()).add(entry)
        if part == "checkpoints":
            self.checkpoints.add(entry)


def survey(store: ArtifactStore, *, at: dt.datetime, attempt_days: int, artifact_days: int) -> list[Garbage]:
    """Everything that nobody needs.

    An attempt that did not become its artifact goes when it is old enough; checkpoints when they are
    committed or as old. An artifact goes when no scene names it, nothing that stays was or is being made of it, and
    nobody has made or reused it for long enough, which stands for runs as well: a run says what it reuses.

    :param at: the time that ages are counted to.
    :param attempt_days: how old an attempt may become.
    :param artifact_days: how long an artifact may be of no use to anybody; a day more, since that is how exactly it is
        known.
    :raises InvalidRequest: when a scene cannot be read; then nothing is known to be spare.
    """
    keys = {found.name: found for found in _keys(store)}
    old, unused = dt.timedelta(days=attempt_days), dt.timedelta(days=artifact_days) + READ_NOTED_EVERY
    working = {name for name, found in keys.items() if _works(found, at - old)}
    young = {name for name, found in keys.items() if found.manifest and at - found.read < unused}
    needed = _with_inputs(store, {*_of_scenes(store), *working, *young}, keys)
    see = partial(_spare, store, f"{CLEAN_UP}{uuid4().hex[:8]}")
    spare: list[Garbage] = []
    for name, found in keys.items():
        if found.manifest and name not in needed:
            spare.append(
                see(found, "artifact", "", found.rest, at - found.read, "nothing points at it", last=found.last)
            )
        else:
            spare += _spare_parts(store, see, found, at, old, works=name in working)
    return [*spare, *_unfinished(store, at, old)]


def remove(store: ArtifactStore, spare: Garbage) -> bool:
    """Remove exactly what the survey saw, unless somebody came back to it since.

    An artifact loses its manifest first, so that nobody trusts half of it. `ArtifactStore.use` says how a run that uses
    it at that moment is seen; should the clean-up have slept for a lease just then, the manifest comes back.

    :returns: whether it is gone.
    :raises Infrastructure: when something may still be there.
    """
    if spare.last is None:
        return _remove_files(store, spare)
    with _held(store, spare, spare.last) as held:
        if not held:
            return False
        with suppress(Overtaken):
            return _remove_artifact(store, spare, held) if spare.what == "artifact" else _remove_files(store, spare)
    return False


@contextmanager
def _held(store: ArtifactStore, spare: Garbage, last: int) -> Iterator[int]:
    """Have the key to oneself, unless somebody took it up since the survey; what stays is an attempt that is over.

    Gives the attempt's number, 0 for none.
    """
    newest = store.last_attempt(spare.stage, spare.key)
    claim = store.read_claim(spare.stage, spare.key, newest) if newest > last else None
    ours = claim is not None and claim.owner == spare.owner
    held = store.claim_after(spare.stage, spare.key, spare.owner, newest) if newest == last or ours else None
    if held is None:
        yield 0
        return
    if ours:
        store.storage.remove(_record(store, spare, newest))
    try:
        yield held.attempt
    finally:
        message = "The clean-up held it for a moment."
        store.write_failure(
            spare.stage,
            spare.key,
            Failure(code=FailureCode.INTERRUPTED, message=message, attempt=held.attempt),
        )


def _record(store: ArtifactStore, spare: Garbage, number: int) -> list[str]:
    """What an attempt of the clean-up's consists of."""
    folder = store.attempt_folder(spare.stage, spare.key, number)
    return [f"{folder}/claim.json", f"{folder}/failure.json"]


def _remove_files(store: ArtifactStore, spare: Garbage) -> bool:
    found = _as_seen(store, spare)
    store.storage.remove(found)
    return bool(found)


def _remove_artifact(store: ArtifactStore, spare: Garbage, held: int) -> bool:
    manifest = f"{spare.path}/manifest.json"
    try:
        data = store.storage.read(manifest)
    except NotFound:
        return False
    if not _as_seen(store, spare):
        return False
    store.check_newest(spare.stage, spare.key, held)
    store.storage.remove([manifest])
    if store.manifest(spare.stage, spare.key):
        raise Infrastructure(
            f"{store.storage.uri_of(manifest)} was removed and is still there.",
            hint="Its files are kept. Look at the store: perhaps the bucket keeps objects for a time (object lock).",
        )
    found = _as_seen(store, spare)
    if not found:
        store.storage.create(manifest, data)
        return False
    store.storage.remove(found)
    return True


def _as_seen(store: ArtifactStore, spare: Garbage) -> list[str]:
    """The files of something that may go, if they are what the survey saw; else none."""
    files, found = _Files(), []
    attempts = f"{store.folder(spare.stage, spare.key)}/attempts/"
    for entry in store.storage.list(spare.path):
        number = entry.path.removeprefix(attempts).partition("/")[0]
        held = spare.last is not None and number.isdecimal() and int(number) > spare.last
        if not held and not entry.path.startswith((f"{spare.path}/manifest.json", f"{spare.path}/generations/")):
            files.add(entry)
            found.append(entry.path)
    return found if files.seen == spare.seen else []


def _keys(store: ArtifactStore) -> Iterator[_Key]:
    """Every key with what lies below it, one after the other as a listing shows them."""
    found = _Key("", "")
    for entry in store.storage.list("artifacts"):
        _, stage, key, part, number, *_ = [*entry.path.split("/"), "", "", ""]
        if (stage, key) != found.name:
            if found.key:
                yield found
            found = _Key(stage, key)
        found.add(entry, part, number)
    if found.key:
        yield found


def _works(found: _Key, since: dt.datetime) -> bool:
    """Whether somebody makes the artifact, or tried to so lately that a retry may follow."""
    if found.manifest and len(found.attempts) == 1:
        return False
    return any(files.newest > since for files in found.attempts.values())


def _chosen(store: ArtifactStore, stage: str, key: str) -> int | None:
    """The number of the attempt that is the artifact."""
    path = f"{store.folder(stage, key)}/manifest.json"
    manifest = _json(store, path)
    if manifest is None:
        return None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("attempt"), int):
        raise InvalidRequest(
            f"{store.storage.uri_of(path)} does not say which attempt it is of.",
            hint="Remove or mend it: until then nobody knows which of the attempts is needed.",
        )
    return int(manifest["attempt"])


def _of_scenes(store: ArtifactStore) -> set[_Name]:
    """The artifacts that a scene's runs are made of."""
    records = [
        entry.path for entry in store.storage.list("scenes") if entry.path.endswith(("/run.json", "/latest.json"))
    ]

    def names(path: str) -> list[_Name]:
        record = _json(store, path)
        return [] if record is None else _names(store, path, record, "stages")

    return set(chain.from_iterable(in_parallel(names, records)))


def _names(store: ArtifactStore, path: str, record: Any, where: str) -> list[_Name]:
    """The artifacts that a record names, by stage."""
    with suppress(KeyError, TypeError, AttributeError):
        names = [(stage, made["key"]) for stage, made in record[where].items()]
        if all(isinstance(key, str) for _, key in names):
            return names
    raise InvalidRequest(
        f"{store.storage.uri_of(path)} does not say what it is made of.",
        hint="Remove or mend it: until then nobody knows which artifacts it needs.",
    )


def _with_inputs(store: ArtifactStore, names: set[_Name], keys: dict[_Name, _Key]) -> set[_Name]:
    """These artifacts, what they were or are being made of, and so on."""
    needed: set[_Name] = set()
    frontier = names & set(keys)
    while frontier:
        needed |= frontier
        inputs = in_parallel(lambda name: _inputs(store, keys[name]), sorted(frontier))
        frontier = (set(chain.from_iterable(inputs)) & set(keys)) - needed
    return needed


def _inputs(store: ArtifactStore, found: _Key) -> list[_Name]:
    """What an artifact was made of, or what its newest attempt reads."""
    places = [f"{store.attempt_folder(*found.name, number)}/request.json" for number in sorted(found.attempts)[::-1]]
    if found.manifest:
        places = [store.folder(*found.name) + "/manifest.json"]
    # An attempt of the clean-up's own, or one that was only just claimed, has none.
    there = ((place, told) for place in places if (told := _json(store, place)) is not None)
    return next((_names(store, place, told, "inputs") for place, told in there), [])


def _json(store: ArtifactStore, path: str) -> Any:
    """A record of any version, or nothing where it was removed meanwhile."""
    try:
        return json.loads(store.storage.read(path))
    except NotFound:
        return None
    except (ValueError, RecursionError):
        raise InvalidRequest(
            f"{store.storage.uri_of(path)} is no JSON.", hint="Remove or mend it: nobody knows what it needs."
        ) from None


def _spare_parts(
    store: ArtifactStore, see: Callable[..., Garbage], found: _Key, at: dt.datetime, old: dt.timedelta, *, works: bool
) -> Iterator[Garbage]:
    """Attempts that came to nothing, and checkpoints that nobody goes on from."""
    past = {number: files for number, files in found.attempts.items() if at - files.newest >= old}
    # One attempt alone is the artifact. Without one, who is at work goes on from all that is there.
    chosen = _chosen(store, *found.name) if found.manifest and len(found.attempts) > 1 and past else None
    if works or (found.manifest and chosen is None):
        past = {}
    for number, files in past.items():
        if number != chosen:
            reason = f"attempt {chosen} became the artifact" if chosen else "it made no artifact"
            nobody_comes = (chosen and number < found.last) or _is_own(store, found, number)
            last = None if nobody_comes else found.last
            yield see(found, "attempt", f"/attempts/{number}", files, at - files.newest, reason, last=last)
    if found.checkpoints.size and (found.manifest or (not works and at - found.checkpoints.newest >= old)):
        reason = "the artifact is there" if found.manifest else "nobody went on from it"
        age, last = at - found.checkpoints.newest, None if found.manifest else found.last
        yield see(found, "checkpoints", "/checkpoints", found.checkpoints, age, reason, last=last)


def _unfinished(store: ArtifactStore, at: dt.datetime, old: dt.timedelta) -> Iterator[Garbage]:
    """What killed writers left beside what they wrote."""
    for entry in store.storage.unfinished():
        if at - entry.arrived >= old:
            files = _Files()
            files.add(entry)
            yield Garbage(
                what="file",
                stage="",
                key="",
                path=entry.path,
                reason="its writer did not finish it",
                size=entry.size,
                age=at - entry.arrived,
                seen=files.seen,
                owner="",
                last=None,
            )


def _is_own(store: ArtifactStore, found: _Key, number: int) -> bool:
    """Whether it is an attempt of a clean-up: it keeps who slept for days from going on, and then goes itself."""
    claim = store.read_claim(*found.name, number)
    return claim is not None and claim.owner.startswith(CLEAN_UP)


def _spare(
    store: ArtifactStore,
    owner: str,
    found: _Key,
    what: str,
    below: str,
    files: _Files,
    age: dt.timedelta,
    reason: str,
    *,
    last: int | None,
) -> Garbage:
    return Garbage(
        what=what,
        stage=found.stage,
        key=found.key,
        path=store.folder(*found.name) + below,
        reason=reason,
        size=files.size,
        age=age,
        seen=files.seen,
        owner=owner,
        last=last,
    )


def why_orphan(store: ArtifactStore, left: Orphan, *, at: dt.datetime, attempt_days: int) -> str | None:
    """Why nobody will come for what a job left on its backend, or None where somebody may."""
    old = at - left.since >= dt.timedelta(days=attempt_days)
    if left.attempt is None:
        return "nobody uses it" if old else None
    stage, key, number = left.attempt
    written = [entry.arrived for entry in store.storage.list(store.attempt_folder(stage, key, number))]
    # Its owner may just be about to collect the result.
    if written and at - max(written) < SILENT:
        return None
    if _chosen(store, stage, key) is not None:
        return "the artifact is there"
    if store.failure(stage, key, number) is not None:
        return "its attempt failed"
    return "nobody came back for it" if old else None
