"""What a profile's runs of one day may cost together, whoever triggers them.

budget/<profile>/<day>/<run>_<price>

Each run is an empty object whose name says everything, as in `history`: it puts its own there first and adds up
afterwards, so that of two that begin at once neither overlooks the other.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from urllib.parse import quote

from e2e3d_stages.contract.formatting import as_dollars
from e2e3d_stages.contract.messages import InvalidRequest, now
from e2e3d_stages.store.base import Storage

# Days that are kept, for whoever wants to look.
KEPT = 31


def reserve(storage: Storage, profile: str, run: str, price: float, budget: float) -> None:
    """Count a run into the day's sum; doing it again counts it once.

    :param run: names it among all runs of the profile.
    :param price: what it may cost, in US dollars.
    :param budget: what all of a day (in UTC) may cost.
    :raises InvalidRequest: when the day's runs would cost more; then it is not counted.
    """
    days = f"budget/{quote(profile, safe='')}"
    day = f"{days}/{now():%Y-%m-%d}"
    mark = hashlib.sha256(run.encode()).hexdigest()[:32]
    own = f"{day}/{mark}_{price:.4f}"
    storage.write(own, b"")
    spent = 0.0
    for entry in storage.list(day):
        with suppress(ValueError):
            name, _, cost = entry.path.rpartition("/")[2].partition("_")
            spent += 0.0 if name == mark else float(cost)
    for old in sorted(storage.folders(days))[:-KEPT]:
        storage.delete(f"{days}/{old}")
    if spent + price > budget:
        storage.delete(own)
        raise InvalidRequest(
            f"The run may cost {as_dollars(price)}, and of the {as_dollars(budget)} that the profile {profile} may "
            f"spend a day {as_dollars(max(0.0, budget - spent))} are left.",
            hint="Trigger it tomorrow (UTC), choose a smaller preset, or have the profile's owner raise "
            "max_cost_per_day.",
        )
