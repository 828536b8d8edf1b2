"""A run's record, `run.json`: who asked for what, what it was made of, what each stage took, how good it became.

Galleries and comparisons read nothing else. Times are in UTC, sizes in bytes, durations in seconds, prices in US
dollars; what nobody knows is null.
"""

from __future__ import annotations

import datetime as dt
import json
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import AwareDatetime, BaseModel, FiniteFloat, model_validator
from typing_extensions import Self

from e2e3d_stages.contract.figures import FIGURES, key_metrics
from e2e3d_stages.contract.messages import Infrastructure, JobRecord, Manifest, StoredFile
from e2e3d_stages.publish.spec import REPORT
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import Storage

# A record of a thousand deliverables has a tenth of it.
MOST_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Run:
    """What Airflow knows of a run.

    :param scene: a slug.
    :param id: the DAG run's id.
    :param owner: whose run it is; two Airflows on one store may have runs of the same id.
    :param started: with a time zone.
    :param ended: when everything but its layout was done.
    :param dag_id: the DAG that ran.
    :param bundle: name and version of the bundle that the DAG came in; most bundles have no version.
    :param profile: where its stages were to run.
    :param preset: what filled in the parameters that nobody gave, where the DAG has presets.
    :param conf: what it was triggered with, without what the DAG itself suggests.
    :param approval: what a person answered before training: `choice`, `by` and `at`; None where nobody was asked.
    :param capture: its photos' address, where the run was asked for one; a reused artifact was made of equal photos,
        which may have lain elsewhere.
    :param reused: stages whose artifacts were there before this run.
    """

    scene: str
    id: str
    owner: str
    started: dt.datetime
    ended: dt.datetime
    dag_id: str
    profile: str
    preset: str | None = None
    bundle: Mapping[str, str | None] | None = None
    conf: Mapping[str, Any] = field(default_factory=dict)
    approval: Mapping[str, Any] | None = None
    capture: str | None = None
    reused: Collection[str] = ()


def record_of(
    store: ArtifactStore, run: Run, manifests: Mapping[str, Manifest], *, folder: str, files: Mapping[str, StoredFile]
) -> dict[str, Any]:
    """The record as JSON.

    :param manifests: by stage.
    :param folder: where the run's results lie below the root.
    :param files: those that are laid out, by name.
    """
    stages = {stage: _stage(store, manifest, run) for stage, manifest in manifests.items()}
    return {
        "scene": run.scene,
        "run": folder.rpartition("/")[2],
        "uri": store.storage.uri_of(folder),
        "dag_id": run.dag_id,
        "run_id": run.id,
        "bundle": run.bundle and dict(run.bundle),
        "profile": run.profile,
        "preset": run.preset,
        "capture": run.capture or (manifests["ingest"].capture if "ingest" in manifests else None),
        "conf": dict(run.conf),
        "approval": run.approval and dict(run.approval),
        "command": _command(run),
        "started": _utc(run.started),
        "ended": _utc(run.ended),
        "seconds": round((run.ended - run.started).total_seconds(), 3),
        "price": _total([each["price"] for each in stages.values() if not each["reused"]]),
        "files": {name: file.size for name, file in sorted(files.items())},
        "sha256": {name: file.sha256 for name, file in sorted(files.items()) if name != REPORT},
        "metrics": key_metrics({stage: manifest.metrics for stage, manifest in manifests.items()}),
        "stages": stages,
    }


def _stage(store: ArtifactStore, manifest: Manifest, run: Run) -> dict[str, Any]:
    """A stage's artifact, with what the run knows of it, and what making it took and cost, whichever run that was."""
    jobs = _jobs(store, manifest)
    last = jobs[-1] if jobs else None
    return {
        **manifest.facts(),
        "reused": manifest.stage in run.reused,
        "changed": _changed(manifest, run.preset),
        "profile": last.profile if last else None,
        "backend": last.backend if last else None,
        "machine": last.machine if last else None,
        "billed_seconds": _total([job.billable_seconds for job in jobs]) if jobs else None,
        "price": _total([job.price for job in jobs]) if jobs else None,
    }


def _changed(manifest: Manifest, preset: str | None) -> dict[str, Any]:
    """The parameters that are not the preset's, with the preset's values."""
    if preset is None:
        return {}
    spec = STAGES[manifest.stage]
    usual = spec.resolve(preset, {}).model_dump(mode="json")
    asked = {name: value for name, value in manifest.params.items() if name not in spec.filled}
    return {name: usual.get(name) for name, value in asked.items() if value != usual.get(name)}


def _command(run: Run) -> str:
    """What a person types to have the run again."""
    # What a profile's owner may change until then.
    usual = {"profile": run.profile, "preset": run.preset} if run.preset else {}
    asked = {**run.conf, **usual}
    return f"airflow dags trigger {shlex.quote(run.dag_id)} --conf {shlex.quote(json.dumps(asked, ensure_ascii=False))}"


def _jobs(store: ArtifactStore, manifest: Manifest) -> list[JobRecord]:
    """Of the attempt that became the artifact, last, and of those that the same task lost before: all were billed."""
    stage, key = manifest.stage, manifest.key
    made = store.read_claim(stage, key, manifest.attempt)
    numbers = [
        number
        for number in range(1, manifest.attempt)
        if made and (claim := store.read_claim(stage, key, number)) and claim.owner == made.owner
    ]
    jobs = [store.job(stage, key, number) for number in (*numbers, manifest.attempt)]
    return [job for job in jobs if job] if jobs[-1] else []


def _total(parts: list[float | None]) -> float | None:
    """The sum; nobody knows it where nobody knows one of its parts."""
    known = [part for part in parts if part is not None]
    return round(sum(known), 6) if len(known) == len(parts) else None


class MalformedRecord(Infrastructure):
    """Something that is no run's record lies where one should be."""


class _Stage(BaseModel):
    key: str | None = None
    params: dict[str, Any] = {}
    warnings: list[dict[str, Any]] = []


class _Record(BaseModel):
    """What readers of a record rely on; what else it has is shown and not reckoned with."""

    started: AwareDatetime
    run_id: str = ""
    profile: str | None = None
    preset: str | None = None
    capture: str | None = None
    conf: dict[str, Any] = {}
    seconds: FiniteFloat | None = None
    price: FiniteFloat | None = None
    files: dict[str, int] = {}
    metrics: dict[str, Any] = {}
    stages: dict[str, _Stage] = {}

    @model_validator(mode="after")
    def _figures_are_numbers(self) -> Self:
        for figure in FIGURES:
            value = self.metrics.get(figure.name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(f"its {figure.name} is no number")
        return self


def read_record(storage: Storage, path: str) -> dict[str, Any]:
    """A `run.json` or `latest.json`; whoever may write to the store may have written it.

    :raises NotFound: when there is none.
    :raises MalformedRecord: when it cannot be what `record_of` made.
    """
    data = storage.read_part(path, 0, MOST_BYTES + 1)
    try:
        if len(data) > MOST_BYTES:
            raise ValueError("it is too large")
        record: dict[str, Any] = json.loads(data)
        checked = _Record.model_validate(record)
        # An endless number or half a character can be read, and told to no browser.
        json.dumps(record, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise MalformedRecord(
            f"{storage.uri_of(path)} is no record of a run: {str(error).splitlines()[0]}",
            hint="Find out who wrote it; the scene's next run replaces it.",
        ) from None
    return {"files": {}, "metrics": {}, "stages": {}, **record, "started": _utc(checked.started)}


def _utc(moment: dt.datetime) -> str:
    return moment.astimezone(dt.timezone.utc).isoformat()
