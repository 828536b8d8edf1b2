"""Which scenes a batch is asked for: every capture below a prefix, or the rows of a CSV or JSON manifest."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from airflow.sdk import Param

from airflow_provider_e2e3d.captures.listing import Capture, captures_below
from airflow_provider_e2e3d.pipelines.reconstruct import refuse_unknown
from airflow_provider_e2e3d.profiles.profile import Profile
from e2e3d_stages.contract.messages import InvalidRequest, StageError
from e2e3d_stages.store.base import NotFound, Storage

MANIFESTS = (".csv", ".json")
# What a manifest row says besides parameters.
_OWN_COLUMNS = ("capture", "scene")


@dataclass(frozen=True)
class SceneRequest:
    """One scene that a batch is asked for.

    :param address: of the capture.
    :param capture: as its folder's listing shows it; None while nothing is there.
    :param scene: its name, where somebody chose one.
    :param parameters: of `reconstruct`, for this scene only.
    :param problem: why it cannot be made, when that is known already.
    """

    address: str
    capture: Capture | None = None
    scene: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    problem: StageError | None = None


def requested_scenes(
    captures: str, profile: Profile, form: Mapping[str, Param], open_at: Callable[[str], Storage]
) -> Iterator[SceneRequest]:
    """Everything that a batch is asked for, by one paged listing of each folder that captures lie in.

    :param captures: a prefix, or a `.csv` or `.json` file, below a root of the profile.
    :param form: the Params of `reconstruct`.
    :param open_at: opens a folder of captures.
    :raises InvalidRequest: when none of it can be read; what is wrong with one row is told there.
    """
    address = profile.admit(captures, or_root=True)
    if not address.lower().endswith(MANIFESTS):
        for capture in captures_below(open_at(address)):
            yield _listed(capture, profile)
        return
    folder, name = _split(address)
    beside = open_at(folder)
    rows = [_wanted(row, beside, profile, form) for row in _rows(beside, name)]
    there = _captures_at([row.address for row in rows if row.problem is None], open_at)
    for row in rows:
        if row.problem is not None:
            yield row
        else:
            yield SceneRequest(row.address, there.get(row.address), row.scene, row.parameters)


def _listed(capture: Capture, profile: Profile) -> SceneRequest:
    """A capture that a listing shows; a zip may be a link to elsewhere."""
    try:
        return SceneRequest(profile.admit(capture.uri), capture)
    except StageError as error:
        return SceneRequest(capture.uri, capture, problem=error)


def _captures_at(addresses: list[str], open_at: Callable[[str], Storage]) -> dict[str, Capture]:
    """The captures at these addresses; one listing a folder, of which only they are kept."""
    names: dict[str, dict[str, str]] = defaultdict(dict)
    for address in addresses:
        folder, name = _split(address)
        names[folder][name] = address
    return {
        wanted[capture.name]: capture
        for folder, wanted in names.items()
        for capture in captures_below(open_at(folder))
        if capture.name in wanted
    }


def _split(address: str) -> tuple[str, str]:
    """An address's folder, and the name in it as a listing shows it."""
    folder, _, name = address.rpartition("/")
    return folder, unquote(name) if address.startswith("file:") else name


def _rows(storage: Storage, name: str) -> list[dict[str, Any]]:
    """The rows of a manifest file."""
    where = storage.uri_of(name)
    try:
        text = storage.read(name).decode("utf-8-sig")
        rows = json.loads(text) if name.lower().endswith(".json") else list(csv.DictReader(io.StringIO(text)))
    except NotFound:
        raise InvalidRequest(f"There is no manifest at {where}.", hint="Check the address.") from None
    except (ValueError, RecursionError, csv.Error) as error:
        raise InvalidRequest(f"{where} cannot be read: {error}.", hint="Write UTF-8, as CSV or JSON.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "capture" in row for row in rows):
        raise InvalidRequest(
            f"{where} is no list of captures.",
            hint="Write a CSV with a column `capture`, or a JSON list of objects that have a `capture`.",
        )
    return rows


def _wanted(row: dict[str, Any], folder: Storage, profile: Profile, form: Mapping[str, Param]) -> SceneRequest:
    """A row with its capture's full address and its values as their Params want them.

    :param folder: that the manifest lies in.
    """
    told = str(row["capture"] or "").strip().rstrip("/")
    # What is no address of its own lies beside the manifest.
    address = told if told.startswith("/") or "://" in told else folder.uri_of(told)
    try:
        if not told:
            raise InvalidRequest("A row of the manifest names no capture.", hint="Fill the column `capture`.")
        refuse_unknown(map(str, row), [name for name in form if name != "profile"])
        parameters = {
            name: _typed(value, form[name])
            for name, value in row.items()
            if name not in _OWN_COLUMNS and value not in ("", None)
        }
        return SceneRequest(profile.admit(address), scene=str(row.get("scene") or "") or None, parameters=parameters)
    except StageError as error:
        return SceneRequest(address, scene=str(row.get("scene") or "") or None, problem=error)


def _typed(value: Any, param: Param) -> Any:
    """A CSV cell as its Param's type; what is no such value stays text, which the Param refuses."""
    types = param.schema["type"]
    if not isinstance(value, str) or "string" in ([types] if isinstance(types, str) else types):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
