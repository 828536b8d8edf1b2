"""The artifact stores that the profiles name, as the API server opens them, and what may be read there."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import anyio
import anyio.to_thread

from airflow_provider_e2e3d.profiles.file import load_profiles
from airflow_provider_e2e3d.profiles.profile import Profile
from airflow_provider_e2e3d.scenes.names import SLUG
from e2e3d_stages.contract.messages import InvalidRequest
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import NotFound
from e2e3d_stages.store.file import FileStorage

Result = TypeVar("Result")

# A person waits: a store that is away is told after this, where a stage would wait for minutes.
PATIENCE_SECONDS = 4.0
# How long what a profile file and a connection say is taken as known.
PROFILES_SECONDS, STORE_SECONDS = 10.0, 300.0
# Threads of its own, so that a store that hangs never takes those of Airflow's API.
THREADS = 16
# One step of a path: no `..`, nothing hidden, nothing that a URL or another system reads in a way of its own.
_STEP = re.compile(r"[\w(][\w .,()+@=~-]*")

_limiter = anyio.CapacityLimiter(THREADS)
_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="e2e3d-store")
_lock = threading.Lock()
_profiles: tuple[float, dict[str, Profile]] = (0.0, {})
_stores: dict[tuple[str, str | None], tuple[float, ArtifactStore]] = {}


@dataclass(frozen=True)
class ProfileStore:
    """A store by the name of the first profile that has it."""

    profile: str
    store: ArtifactStore


async def in_thread(work: Callable[..., Result], *what: object) -> Result:
    """Do something that blocks, away from the event loop."""
    return await anyio.to_thread.run_sync(work, *what, limiter=_limiter)


def side_by_side(*works: Callable[[], Result]) -> list[Result]:
    """Ask a store several things at once; the answers in the same order."""
    return list(_pool.map(lambda work: work(), works))


def forget() -> None:
    """Read profiles and connections anew."""
    global _profiles
    with _lock:
        _profiles = (0.0, {})
        _stores.clear()


def profiles() -> dict[str, Profile]:
    """Every profile, as the file said a moment ago."""
    global _profiles
    with _lock:
        read, found = _profiles
        if not found or time.monotonic() - read > PROFILES_SECONDS:
            found = load_profiles()
            _profiles = (time.monotonic(), found)
        return found


def _open(profile: Profile) -> ArtifactStore:
    name = (profile.store.rstrip("/"), profile.store_conn_id)
    with _lock:
        opened, store = _stores.get(name, (0.0, None))
    if store is None or time.monotonic() - opened > STORE_SECONDS:
        store = profile.open_store()
        store.storage.patience_seconds = PATIENCE_SECONDS
        with _lock:
            _stores[name] = (time.monotonic(), store)
    return store


def store_of(profile: str) -> ProfileStore:
    """The store of a profile.

    :raises NotFound: when there is no such profile.
    """
    known = profiles()
    if profile not in known:
        raise NotFound(f"There is no profile {profile!r}.")
    return ProfileStore(profile, _open(known[profile]))


def stores(profile: str | None = None) -> list[ProfileStore]:
    """Every store once, or only that of a profile."""
    if profile is not None:
        return [store_of(profile)]
    first: dict[tuple[str, str | None], str] = {}
    for name, values in profiles().items():
        first.setdefault((values.store.rstrip("/"), values.store_conn_id), name)
    return [store_of(name) for name in first.values()]


def scene_folder(scene: str, run: str = "") -> str:
    """The folder of a scene or of one of its runs below a store's root.

    :raises NotFound: for names that no scene and no run can have.
    """
    if not re.fullmatch(SLUG, scene):
        raise NotFound(f"{scene!r} is no scene's name.")
    return below(f"scenes/{scene}", run) if run else f"scenes/{scene}"


def below(folder: str, path: str) -> str:
    """A path below a folder of a store, and never beside it.

    :raises NotFound: for a path with a step such as `..`, an absolute one, or one with signs that could become such.
    """
    steps = path.split("/")
    if not all(_STEP.fullmatch(step) and not step.endswith((".", " ")) for step in steps):
        raise NotFound(f"{path!r} is no path of a store.")
    return f"{folder}/{path}"


def refuse_link(store: ArtifactStore, path: str) -> None:
    """On a disk a link could lead out of the folders of scenes and artifacts.

    :raises NotFound: when it does.
    """
    storage = store.storage
    if not isinstance(storage, FileStorage):
        return
    root = storage.root.resolve()
    try:
        real = storage.local_path(path).resolve()
    except InvalidRequest:
        raise NotFound(storage.uri_of(path)) from None
    if not any(real.is_relative_to(root / prefix) for prefix in ("scenes", "artifacts")):
        raise NotFound(storage.uri_of(path))
