"""Profiles: where each stage runs and where artifacts lie, written by whoever runs Airflow, chosen by a run's conf.

A profile file is YAML: names of profiles, and for each the store, the roots that captures may come from, and the
backend of each stage. `${NAME}` is replaced from the environment; nothing else is a template. The file is the one
that Airflow's `[e2e3d] profiles_file` names, else the one in this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError, model_validator

from airflow_provider_e2e3d.backends.base import Backend, BackendSettings, ImageSettings, merged
from airflow_provider_e2e3d.hooks.session import session_environment, session_policy
from airflow_provider_e2e3d.hooks.store import StoreHook
from e2e3d_stages.contract.messages import InvalidRequest, Model, Request
from e2e3d_stages.contract.paths import path_problem, shown
from e2e3d_stages.contract.spec import Preset
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import Storage
from e2e3d_stages.store.opening import open_storage

# By module and name, so that no backend's client library is imported before it is used.
BACKENDS = {
    "local": ("airflow_provider_e2e3d.backends.local.backend", "LocalBackend"),
    "docker": ("airflow_provider_e2e3d.backends.docker.backend", "DockerBackend"),
    "kubernetes": ("airflow_provider_e2e3d.backends.kubernetes.backend", "KubernetesBackend"),
    "sagemaker": ("airflow_provider_e2e3d.backends.sagemaker.backend", "SageMakerBackend"),
    "ecs": ("airflow_provider_e2e3d.backends.ecs.backend", "EcsBackend"),
}

ANY_STAGE = "default"

# An amount of an estimate, in US dollars or minutes.
ASK_ABOVE = r"^\d{1,9}(\.\d{1,9})? (USD|min)$"

# Where in the file, by names from the top, and what is wrong there.
Problem = tuple[tuple[str | int, ...], str]


def backend_class(name: str | None) -> type[Backend]:
    """The class that runs stages on that backend.

    :raises InvalidRequest: for an unknown name.
    """
    if name not in BACKENDS:
        told = f"There is no backend {name!r}." if name else "No backend is named."
        raise InvalidRequest(told, hint=f"Choose one of {', '.join(BACKENDS)}.")
    module, attribute = BACKENDS[name]
    return cast("type[Backend]", getattr(import_module(module), attribute))


class CaptureSize(Model):
    """What `ingest` counted: how much the later stages have to do.

    :param photos: that were taken in.
    :param long_side: of the largest, in px.
    """

    photos: int
    long_side: int

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> CaptureSize:
        """As ingest's metrics tell it."""
        return cls(photos=metrics["photos"], long_side=metrics["long_side"])


class _Size(BaseModel):
    """One of a stage's `sizes`: other settings for captures up to a limit."""

    model_config = ConfigDict(extra="allow")

    up_to: dict[Literal["photos", "long_side"], PositiveInt] = Field(
        default_factory=dict, description="Largest capture that it is for; none is too large when empty."
    )

    def fits(self, size: CaptureSize | None) -> bool:
        """Whether a capture is small enough; nobody knows how large it is before ingest."""
        return size is None or all(getattr(size, name) <= limit for name, limit in self.up_to.items())


class Profile(Model):
    """One named choice."""

    store: str = Field(description="Root of the artifact store: file:///folder or s3://bucket/prefix.")
    store_conn_id: str | None = Field(default=None, description="Airflow connection with the store's credentials.")
    store_role: str | None = Field(
        default=None,
        description="ARN of a role, of which STS makes credentials for each attempt: they read captures and artifacts, "
        "and write the attempt's own artifact. Without it a program has the connection's.",
    )
    url: str | None = Field(default=None, description="Where browsers find the store's root, as http://host/bucket.")
    preset: Preset = Field(default="standard", description="Preset of a run that names none.")
    captures: tuple[str, ...] = Field(min_length=1, description="Roots that a capture may come from.")
    image: str | None = Field(default=None, description="`image` of every stage that names none.")
    prices: dict[str, float] = Field(default_factory=dict, description="US dollars an hour, by machine.")
    max_cost: float | None = Field(
        default=None, ge=0, description="US dollars that one run may cost; a run's own max_cost can only be lower."
    )
    max_cost_per_day: float | None = Field(
        default=None, ge=0, description="US dollars that all runs of a day (UTC) may cost, by their estimates."
    )
    ask_above: str | None = Field(
        default=None,
        pattern=ASK_ABOVE,
        description="`2.50 USD` or `30 min`: a run that may take more after structure from motion waits there for a "
        "person's word; a run's own ask_above only asks sooner.",
    )
    ask_hours: float = Field(
        default=24, gt=0, le=24 * 365, description="How long such a run waits; then it stops before training."
    )
    stages: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {ANY_STAGE: {"backend": "local"}},
        description="Backend and its settings by stage; `default` stands for every stage not named. A stage's `sizes` "
        "is a list of other values for some settings, each with `up_to`: the first that fits the capture is taken.",
    )

    @model_validator(mode="after")
    def _every_stage_has_a_backend(self) -> Profile:
        if unknown := sorted(set(self.stages) - set(STAGES) - {ANY_STAGE}):
            raise ValueError(f"there is no stage {', '.join(unknown)}; stages are {', '.join(STAGES)}")
        if (missing := sorted(set(STAGES) - set(self.stages))) and ANY_STAGE not in self.stages:
            raise ValueError(f"{', '.join(missing)} is not there, and neither is `{ANY_STAGE}`")
        return self

    def settings(self, stage: str, size: CaptureSize | None = None) -> BackendSettings:
        """The backend's settings for a stage, or for `default`.

        :param size: of the capture, once ingest has told it; the first of `sizes` is taken before.
        :raises InvalidRequest: when there is no such backend, or the capture is too large for every one of `sizes`.
        :raises ValidationError: when the backend cannot work with them.
        """
        values, sizes = self._settings_and_sizes(stage)
        fitting = next((each for each in sizes if each.fits(size)), None)
        if fitting is None and sizes:
            assert size is not None
            units = {"photos": "photos", "long_side": "px"}
            limits = " and ".join(f"{limit} {units[name]}" for name, limit in sizes[-1].up_to.items())
            raise InvalidRequest(
                f"{size.photos} photos of up to {size.long_side} px are too many or too large for this profile, whose "
                f"largest machine for {stage} is for up to {limits}.",
                hint="Take fewer photos, choose a smaller preset or another profile, or have the profile's owner add a "
                "larger machine to its `sizes`.",
            )
        return self._validated(merged(values, fitting.model_extra or {}) if fitting else values)

    def problems(self, stage: str) -> Iterator[Problem]:
        """What cannot work in a stage's settings, whichever of its sizes is taken; places are below the stage."""
        try:
            values, sizes = self._settings_and_sizes(stage)
        except ValidationError as error:
            yield from problems_in(error, "sizes")
            return
        for number, each in enumerate(sizes or [_Size()]):
            others = each.model_extra or {}
            try:
                self._validated(merged(values, others))
            except ValidationError as error:
                for place, told in problems_in(error):
                    yield (("sizes", number, *place) if place[:1] and place[0] in others else place), told
            except InvalidRequest as error:
                yield (), f"{error.message} {error.hint}"

    def _settings_and_sizes(self, stage: str) -> tuple[dict[str, Any], list[_Size]]:
        values = dict(self.stages.get(stage, self.stages.get(ANY_STAGE, {})))
        sizes = values.pop("sizes", [])
        return values, TypeAdapter(list[_Size]).validate_python(sizes)

    def _validated(self, values: dict[str, Any]) -> BackendSettings:
        settings = backend_class(values.get("backend")).Settings
        if self.image and issubclass(settings, ImageSettings):
            values = {"image": self.image, **values}
        return settings.model_validate(values)

    def backend(self, stage: str, size: CaptureSize | None = None) -> Backend:
        """The backend that runs a stage for a capture of that size."""
        settings = self.settings(stage, size)
        return backend_class(settings.backend)(settings)

    def price(self, backend: Backend, seconds: float | None) -> float | None:
        """What a job costs in US dollars, where `prices` knows its machine."""
        if backend.machine is None and backend.own_machine:
            # Airflow's own machines are paid for whether they work or not.
            return 0.0
        if backend.machine not in self.prices or seconds is None:
            return None
        return round(self.prices[backend.machine] * seconds / 3600, 6)

    def environment(self) -> dict[str, str]:
        """The store's credentials as the environment variables that boto3 reads; secret, for private channels only."""
        return StoreHook(self.store_conn_id).environment()

    def attempt_environment(self, environment: Mapping[str, str], request: Request) -> dict[str, str]:
        """What a program is given to open the store with: the store's own credentials, or some of the attempt's own.

        :param environment: what `environment` gave.
        :raises StageError: when there are to be some, and are none.
        """
        if self.store_role is None or not self.store.startswith("s3://"):
            return dict(environment)
        return session_environment(
            environment,
            self.store_role,
            session_policy(self.store, ArtifactStore.folder(request.stage, request.key), request.capture),
            name=f"e2e3d-{request.stage}-{request.key}",
            seconds=request.longest_seconds,
        )

    def open_store(self) -> ArtifactStore:
        """The artifact store, with its credentials."""
        return ArtifactStore.open(self.store, self.environment())

    def open_capture(self, uri: str) -> Storage:
        """What lies at a capture's address, read with the store's credentials."""
        return open_storage(uri, self.environment())

    def budgets(self, name: str) -> dict[str, float | None]:
        """What one run may cost, by whose word; no run's conf raises it.

        :param name: the profile's.
        """
        return {f"the profile {name}'s {field}": getattr(self, field) for field in ("max_cost", "max_cost_per_day")}

    def address(self, uri: str) -> str:
        """Where a person opens a file of the store: on the web, if the profile says where that is."""
        root = self.store.rstrip("/")
        return self.url.rstrip("/") + uri[len(root) :] if self.url and uri.startswith(root) else uri

    def admit(self, capture: str, *, or_root: bool = False) -> str:
        """The address of a capture, if it lies below one of the roots.

        :param capture: file://, s3:// or an absolute path.
        :param or_root: whether a root itself will do: it holds captures, and is none.
        :raises InvalidRequest: when it does not; nothing is read before.
        """
        uri, roots = _normal(capture), [_normal(root) for root in self.captures]
        if any(uri.startswith(root.rstrip("/") + "/") for root in roots if uri != root) or (or_root and uri in roots):
            return uri
        if uri in roots:
            raise InvalidRequest(
                f"{capture} is a place that holds captures, and no capture itself.",
                hint="Name one folder, zip or film in it; reconstruct_batch takes all of them.",
            )
        raise InvalidRequest(
            f"The capture {capture} is outside the places that this profile may read.",
            hint=f"Put the photos below one of {', '.join(self.captures)}, or have the profile's owner add a root.",
        )


def _normal(uri: str) -> str:
    """One spelling for every way to write the same place; links and `..` are followed, so they cannot escape."""
    if uri.startswith("s3://"):
        # No URL: a key may hold `#`, `?` and `%` as they are.
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        key = key.strip("/")
        if problem := path_problem(key) if key else "":
            raise InvalidRequest(f"{shown(uri)} is no address of a capture: {problem}.", hint="Correct the address.")
        return f"s3://{bucket}/{key}".rstrip("/")
    parts = urlsplit(uri)
    path = Path(unquote(parts.path) if parts.scheme == "file" else uri)
    if problem := next(filter(None, (path_problem(step) for step in path.parts[1:] if step != "..")), ""):
        raise InvalidRequest(f"{shown(uri)} is no address of a capture: {problem}.", hint="Correct the address.")
    if parts.scheme not in ("", "file") or not path.is_absolute():
        raise InvalidRequest(
            f"{uri!r} is no place a capture can be.", hint="Write s3://bucket/prefix or an absolute path."
        )
    return path.resolve().as_uri()


def problems_in(error: ValidationError, *place: str | int) -> list[Problem]:
    """Pydantic's errors as problems at a place in the file."""
    return [
        ((*place, *item["loc"]), item["msg"].removeprefix("Value error, ")) for item in error.errors(include_url=False)
    ]
