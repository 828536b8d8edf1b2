"""What stages took in former runs, so that the next run knows before it starts.

history/<profile>/<stage>/<machine>/<when>_<expected>_<took>_<billed>_<key>

Each measurement is an empty object whose name says everything: one listing reads them all, and two that write at once
never meet. Seconds; `-` stands for what is not known.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote, unquote

from e2e3d_stages.contract.messages import now
from e2e3d_stages.store.base import Storage

# Of each stage and machine; older ones are removed.
KEPT = 24
_UNKNOWN = "-"


@dataclass(frozen=True)
class Measurement:
    """What one attempt took.

    :param machine: by its name in the profile's `prices`; None where the profile names none.
    :param expected: seconds that the rough reckoning gives for the same work.
    :param took: seconds from the request read to the files uploaded.
    :param billed: seconds that its backend bills, where that is known.
    """

    stage: str
    machine: str | None
    expected: float
    took: float
    billed: float | None = None


def remember(storage: Storage, profile: str, measured: Measurement, key: str) -> None:
    """Add a measurement and remove the oldest beyond those that are kept.

    :param key: of the artifact; tells measurements of the same second apart.
    """
    folder = f"{_folder(profile)}/{measured.stage}/{_name(measured.machine)}"
    billed = _UNKNOWN if measured.billed is None else f"{measured.billed:.1f}"
    name = f"{now():%Y%m%dT%H%M%S}_{measured.expected:.1f}_{measured.took:.1f}_{billed}_{key}"
    storage.write(f"{folder}/{name}", b"")
    for old in [entry.path for entry in storage.list(folder)][:-KEPT]:
        storage.delete(old)


def remembered(storage: Storage, profile: str) -> list[Measurement]:
    """Every measurement of a profile, by one listing; strange names are passed over."""
    found = []
    for entry in storage.list(_folder(profile)):
        with suppress(ValueError):
            *_, stage, machine, name = entry.path.split("/")
            _, expected, took, billed, _ = name.split("_")
            found.append(
                Measurement(
                    stage=stage,
                    machine=None if machine == _UNKNOWN else unquote(machine),
                    expected=float(expected),
                    took=float(took),
                    billed=None if billed == _UNKNOWN else float(billed),
                )
            )
    return found


def _folder(profile: str) -> str:
    return f"history/{quote(profile, safe='')}"


def _name(machine: str | None) -> str:
    return _UNKNOWN if machine is None else quote(machine, safe="")
