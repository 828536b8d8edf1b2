"""What the gallery shows: every scene's newest result, and what Airflow is doing about it.

Results are read from the stores, all of them once and then again in the background whenever somebody looks and they
are old: a look never waits for a store that was read before.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_provider_e2e3d.scenes.names import scene_of, title_of
from airflow_provider_e2e3d.scenes.outcome import DAG_ID
from airflow_provider_e2e3d.scenes.record import MalformedRecord, read_record
from airflow_provider_e2e3d.ui.stores import ProfileStore, below, scene_folder, side_by_side
from e2e3d_stages.contract.figures import CARD
from e2e3d_stages.contract.messages import StageError, canonical
from e2e3d_stages.publish.spec import THUMBNAIL
from e2e3d_stages.registry import STAGES
from e2e3d_stages.render.spec import POSTER
from e2e3d_stages.store.base import NotFound

log = logging.getLogger(__name__)

FRESH_SECONDS = 10.0
# Runs of a scene that are listed, and runs of the DAG whose states the gallery asks for; the newest of them.
MOST_RUNS, MOST_STATES = 200, 300

Record = dict[str, Any]


def record(source: ProfileStore, path: str) -> Record | None:
    """A `run.json` or `latest.json`, with the profile whose store it is in and a mark of its content; None without.

    :raises MalformedRecord: when it is none.
    """
    try:
        found = read_record(source.store.storage, path)
    except NotFound:
        return None
    return {**found, "profile_of_store": source.profile, "mark": hashlib.sha256(canonical(found)).hexdigest()[:12]}


def run_record(source: ProfileStore, scene: str, run: str) -> Record | None:
    """What is known of one run, by the names of its folders, whatever the record says.

    :raises MalformedRecord: when it says nothing that can be understood.
    """
    try:
        path = below(scene_folder(scene, run), "run.json")
    except NotFound:
        return None
    found = record(source, path)
    return found and {**found, "scene": scene, "run": run, "title": title(scene, found.get("capture"))}


def _latest(source: ProfileStore, scene: str) -> Record | None:
    """A scene's newest result; where its record cannot be read, why."""
    try:
        found = record(source, f"scenes/{scene}/latest.json")
    except MalformedRecord as error:
        log.warning("%s", error)
        return {"scene": scene, "problem": f"{error.message} {error.hint}"}
    return found and {**found, "scene": scene}


def title(scene: str, capture: Any) -> str:
    """What people call a scene; a record may say anything of its capture."""
    return title_of(scene, capture) if isinstance(capture, str) else scene


def first_record(stores: Iterable[ProfileStore], scene: str, run: str) -> tuple[ProfileStore, Record]:
    """A run of a scene in the first store that has it.

    :raises NotFound: when none has.
    """
    for source in stores:
        found = run_record(source, scene, run)
        if found is not None:
            return source, found
    raise NotFound(f"There is no run {run} of the scene {scene}.")


def runs_of(stores: Iterable[ProfileStore], scene: str) -> list[Record]:
    """The runs of a scene that ended well, newest first."""
    found: list[Record | None] = []
    for source in stores:
        names = list(source.store.storage.folders(scene_folder(scene)))[-MOST_RUNS:]
        found += side_by_side(*(partial(_readable, source, scene, name) for name in names))
    return sorted(filter(None, found), key=lambda each: str(each.get("started")), reverse=True)


def _readable(source: ProfileStore, scene: str, run: str) -> Record | None:
    try:
        return run_record(source, scene, run)
    except MalformedRecord as error:
        log.warning("%s", error)
        return None


class SceneCache:
    """The newest result of every scene of one store, as it was a moment ago."""

    def __init__(self, source: ProfileStore) -> None:
        self.source = source
        self._scenes: dict[str, Record] | None = None
        self._problem = ""
        self._read = 0.0
        self._reading = threading.Lock()

    def scenes(self) -> tuple[dict[str, Record], str]:
        """By name; and why they are not to be had, where the store was never reached."""
        if self._scenes is None:
            with self._reading:
                # One that was away is not asked again at once by everybody who waited.
                if self._scenes is None and (not self._read or time.monotonic() - self._read > FRESH_SECONDS):
                    self._look()
        elif time.monotonic() - self._read > FRESH_SECONDS and self._reading.acquire(blocking=False):
            threading.Thread(target=self._look_again, name="e2e3d-gallery", daemon=True).start()
        return self._scenes or {}, self._problem

    def _look_again(self) -> None:
        try:
            self._look()
        finally:
            self._reading.release()

    def _look(self) -> None:
        try:
            names = list(self.source.store.storage.folders("scenes"))
            read = side_by_side(*(partial(_latest, self.source, name) for name in names))
            self._scenes = {name: found for name, found in zip(names, read, strict=True) if found is not None}
            self._problem = ""
        except StageError as error:
            log.warning("The scenes of %s could not be read: %s", self.source.store.storage.uri, error.message)
            self._problem = f"{error.message} {error.hint}".strip()
        except Exception as error:  # a thread that ends without a word would leave the gallery stale for good
            log.exception("The scenes of %s could not be read", self.source.store.storage.uri)
            self._problem = f"{self.source.store.storage.uri} could not be read ({type(error).__name__})."
        self._read = time.monotonic()


_caches: dict[str, SceneCache] = {}
_caches_lock = threading.Lock()


def cache_of(source: ProfileStore) -> SceneCache:
    """The one cache of a store."""
    with _caches_lock:
        cache = _caches.setdefault(source.store.storage.uri, SceneCache(source))
        # Credentials may have been renewed since.
        cache.source = source
        return cache


def under_way() -> dict[str, Record]:
    """By scene, the newest run of `reconstruct` that is not done or failed: one query by the index on DAG and state."""
    query = (
        select(DagRun.run_id, DagRun.state, DagRun.conf, DagRun.start_date, DagRun.queued_at)
        .where(DagRun.dag_id == DAG_ID, DagRun.state.in_(("queued", "running", "failed")))
        .order_by(DagRun.id.desc())
        .limit(MOST_STATES)
    )
    with create_session(scoped=False) as session:
        rows = session.execute(query).all()
    found: dict[str, Record] = {}
    for run_id, state, conf, started, queued in rows:
        scene = scene_asked(conf or {})
        if scene is not None:
            moment = started or queued
            told = {"dag_id": DAG_ID, "run_id": run_id, "state": state, "started": moment and moment.isoformat()}
            found.setdefault(scene, {**told, "title": title(scene, (conf or {}).get("capture"))})
    return found


def scene_asked(conf: Record) -> str | None:
    """The scene that a run's conf names, or that its capture gives its name to."""
    if conf.get("scene"):
        return str(conf["scene"])
    return scene_of(str(conf["capture"])) if conf.get("capture") else None


def cards(stores: Iterable[ProfileStore]) -> tuple[list[Record], list[str]]:
    """A card for every scene, and what could not be read."""
    running = under_way()
    found: list[Record] = []
    problems: list[str] = []
    for source in stores:
        scenes, problem = cache_of(source).scenes()
        found += [card(latest, running.get(scene)) for scene, latest in scenes.items()]
        problems += [problem] if problem else []
    shown = {each["scene"] for each in found}
    for scene, run in running.items():
        if scene not in shown:
            told = {name: run[name] for name in ("title", "state", "started")}
            found.append({"scene": scene, **told, "under_way": run})
    return found, problems


def card(latest: Record, run: Record | None) -> Record:
    """What a card of the gallery tells; None for what nobody knows. Its figures are where a run's record has them."""
    if "problem" in latest:
        known = {name: latest["scene"] for name in ("scene", "title")}
        return {**known, "state": "unreadable", "problem": latest["problem"], "under_way": run}
    newer = run if run and _moment(run["started"]) > _moment(latest.get("started")) else None
    return {
        "scene": latest["scene"],
        "title": title(latest["scene"], latest.get("capture")),
        "run": latest.get("run"),
        "profile": latest["profile_of_store"],
        "mark": latest["mark"],
        "picture": next((name for name in (POSTER, THUMBNAIL) if name in (latest.get("files") or {})), None),
        "started": latest.get("started"),
        "state": newer["state"] if newer else "success",
        "under_way": newer,
        "preset": latest.get("preset"),
        "metrics": latest.get("metrics", {}),
        **{figure.name: figure.of_record(latest) for figure in CARD if figure.stage is None},
    }


def _moment(told: str | None) -> dt.datetime:
    long_ago = dt.datetime.min.replace(tzinfo=dt.timezone.utc)
    return dt.datetime.fromisoformat(told) if told else long_ago


SORTS: dict[str, Callable[[Record], Any]] = {
    "started": lambda each: _moment(each.get("started")),
    "scene": lambda each: each["title"].casefold(),
    "state": lambda each: each.get("state"),
    **{figure.name: figure.of_record for figure in CARD},
}


def page_of(found: list[Record], *, search: str, state: str, sort: str, page: int, size: int) -> Record:
    """One page of the cards that fit.

    :param search: every word of it is in the scene's name, or in what people call it.
    :param sort: a name of `SORTS`, with `-` before it for the largest first; what is not known goes last.
    """
    words = search.casefold().split()
    fitting = [each for each in found if all(word in f"{each['scene']} {each['title'].casefold()}" for word in words)]
    if state:
        fitting = [each for each in fitting if each["state"] == state]
    key = SORTS[sort.removeprefix("-")]
    known = sorted((each for each in fitting if key(each) is not None), key=lambda each: each["scene"])
    known.sort(key=key, reverse=sort.startswith("-"))
    ordered = known + [each for each in fitting if key(each) is None]
    start = (page - 1) * size
    return {"total": len(fitting), "all": len(found), "page": page, "size": size, "scenes": ordered[start:][:size]}


def differences(left: Record, right: Record) -> list[Record]:
    """Where two nested values differ: the path to each, and both values; what one lacks is None."""
    one, other = _flat(left), _flat(right)
    names = list(dict.fromkeys((*one, *other)))
    return [{"name": n, "left": one.get(n), "right": other.get(n)} for n in names if one.get(n) != other.get(n)]


def _flat(value: Record, start: str = "") -> Record:
    found: Record = {}
    for name, each in value.items():
        found |= _flat(each, f"{start}{name}.") if isinstance(each, dict) else {f"{start}{name}": each}
    return found


def _told_elsewhere(name: str) -> bool:
    """Whether a comparison shows what a run was asked under another name."""
    return name in ("profile", "preset", "capture") or name.partition("_")[0] in STAGES


def comparison(left: Record, right: Record) -> Record:
    """Two runs of a scene side by side: what they were asked, and what came of it."""
    asked = [
        {
            "profile": each.get("profile"),
            "preset": each.get("preset"),
            "capture": each.get("capture"),
            "conf": {name: value for name, value in (each.get("conf") or {}).items() if not _told_elsewhere(name)},
        }
        for each in (left, right)
    ]
    params = [{stage: made.get("params", {}) for stage, made in each["stages"].items()} for each in (left, right)]
    return {
        "left": left,
        "right": right,
        "asked": differences(*asked),
        "parameters": differences(*params),
        "same_artifacts": [
            stage
            for stage, each in left.get("stages", {}).items()
            if each.get("key") == right.get("stages", {}).get(stage, {}).get("key")
        ],
    }
