"""The way to one artifact: what is asked, and the job that makes it, of an earlier try or started now."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_e2e3d import metrics, traces
from airflow_provider_e2e3d.backends.base import Backend, Handle, JobSpec, Unavailable
from airflow_provider_e2e3d.jobs.attempt import Attempt, AttemptState, kept_alive, retry_while_unavailable
from airflow_provider_e2e3d.profiles.profile import CaptureSize, Profile
from e2e3d_stages.contract.formatting import as_size
from e2e3d_stages.contract.logs import LOG_FORMAT, LOG_RUN
from e2e3d_stages.contract.messages import (
    CaptureListing,
    Claim,
    Failure,
    FailureCode,
    Infrastructure,
    Input,
    InvalidRequest,
    Reference,
    Request,
    StageError,
    StageName,
    StageParams,
    artifact_key,
)
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.captures import list_capture_files
from e2e3d_stages.store.leases import Watch
from e2e3d_stages.store.opening import open_storage

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


@dataclass(frozen=True)
class Making:
    """One task that makes an artifact of a stage.

    :param store: where the artifact will lie.
    :param environment: the store's credentials, for the program.
    :param profile: where the stage runs.
    :param profile_name: what the profile is called.
    :param stage: whose artifact.
    :param owner: the task, as claims name it.
    :param log: the task's own log.
    """

    store: ArtifactStore
    environment: Mapping[str, str]
    profile: Profile
    profile_name: str
    stage: StageName
    owner: str
    log: Logger
    # Of the attempt of another run; what an earlier try of this task saw is not known.
    watch: Watch = field(default_factory=Watch)

    def request(
        self,
        *,
        parameters: Mapping[str, Any],
        inputs: Mapping[str, Any],
        capture: str | None,
        force: Collection[str],
    ) -> Request:
        """The artifact's key and what must be known to make it; the attempt's number is still open.

        After an earlier try of this task ran out of memory, less is asked.

        :param inputs: by stage, references to the artifacts that it reads.
        :param force: stages whose artifacts that are there do not count.
        :raises InvalidRequest: for inputs, parameters or a capture that cannot work.
        """
        references = self._references(inputs)
        place = self.profile.admit(capture) if capture else None
        listing = self._listing(place) if place else None
        spec = STAGES[self.stage]

        def key_of(params: StageParams, generation: int) -> str:
            return artifact_key(
                self.stage,
                spec.version,
                params.keyed(),
                {name: reference.key for name, reference in references.items()},
                capture_digest=listing.digest if listing else None,
                generation=generation,
            )

        def key(params: StageParams) -> str:
            first = key_of(params, 0)
            if self.stage not in force:
                return key_of(params, self.store.latest_generation(self.stage, first))
            return key_of(params, self.store.generation(self.stage, first, self.owner))

        asked = params = spec.validate(parameters)
        while self._ran_out_of_memory(key(params)) and (less := params.smaller()) is not None:
            self.log.warning("Memory ran out with %s: asking for %s", params, less)
            params = less
        return Request(
            stage=self.stage,
            stage_version=spec.version,
            key=key(params),
            attempt=0,
            params=params.model_dump(mode="json"),
            inputs={name: Input(key=value.key, digest=value.digest) for name, value in references.items()},
            capture=place,
            listing=listing,
            degraded_from=None if params == asked else key(asked),
        )

    def _listing(self, capture: str) -> CaptureListing:
        self.log.info("Reading %s: what is made of it is named by its contents", capture)
        listing = list_capture_files(open_storage(capture, self.environment))
        self.log.info("%d files, %s", len(listing.files), as_size(sum(file.size for file in listing.files)))
        return listing

    def _references(self, inputs: Mapping[str, Any]) -> dict[StageName, Reference]:
        spec = STAGES[self.stage]
        expected = (*spec.inputs, *(name for name in spec.optional_inputs if name in inputs))
        if set(inputs) != set(expected):
            raise InvalidRequest(
                f"{self.stage} reads what {', '.join(expected) or 'no stage'} made, and was given "
                f"{', '.join(sorted(inputs)) or 'nothing'}.",
                hint="Give the operator the outputs of these stages' operators.",
            )
        return {name: Reference.model_validate(inputs[name]) for name in expected}

    def _ran_out_of_memory(self, key: str) -> bool:
        """Whether an earlier try of this task ended so."""
        last = self.store.last_attempt(self.stage, key)
        claim = self.store.read_claim(self.stage, key, last) if last else None
        failure = self.store.failure(self.stage, key, last) if last else None
        return bool(claim and claim.owner == self.owner and failure and failure.code is FailureCode.OUT_OF_MEMORY)

    def start(self, request: Request) -> Attempt | None:
        """The job that an earlier try of this task left running, else a new one; None while another run makes it.

        :raises StageError: when it cannot be started.
        """
        size = self._size(request)
        backend = self.profile.backend(self.stage, size)
        claim, handle = self._own_job(backend, request)
        if claim and handle and not self._attempt(backend, request, size, claim, handle).is_judged():
            self.log.info("Reattached to attempt %d, which outlived its worker", claim.attempt)
            return self._attempt(backend, request, size, claim, handle)
        if handle:
            retry_while_unavailable(partial(backend.clean_up, handle, succeeded=False))
        self.store.probe_once()
        claim = self.store.claim(self.stage, request.key, self.owner, self.watch)
        if claim is None:
            return None
        if self.store.reference(self.stage, request.key) is not None:
            # It was made since this task looked, or who cleaned it up has died.
            there = Failure(code=FailureCode.INTERRUPTED, message="The artifact is there.", attempt=claim.attempt)
            self.store.write_failure(self.stage, request.key, there)
            return None
        self.log.info(
            "Attempt %d on backend %s of profile %s", claim.attempt, backend.settings.backend, self.profile_name
        )
        metrics.begin_attempt(self.stage, backend.settings.backend)
        longest = STAGES[self.stage].longest_seconds(request.params, size.photos if size else 0)
        request = request.model_copy(update={"attempt": claim.attempt, "longest_seconds": longest})
        handle = self._submit(backend, request, claim)
        return self._attempt(backend, request, size, claim, handle)

    def _submit(self, backend: Backend, request: Request, claim: Claim) -> Handle:
        self.store.write_request(request)
        # Whoever slept for long since its claim starts nothing; who does so from here on, its program stops.
        self.store.check_newest(self.stage, request.key, claim.attempt)
        try:
            environment = self.profile.attempt_environment(self.environment, request)
            job = self._job(request, claim, environment)
            with kept_alive(self.store, self.stage, request.key, claim):
                return retry_while_unavailable(lambda: backend.submit(job))
        except Unavailable:
            # It may run all the same: the next try looks for it.
            raise
        except StageError as error:
            # Nothing runs, so nobody need wait for this attempt.
            self.store.write_failure(self.stage, request.key, Failure.of(error, claim.attempt))
            raise

    def left_behind(self, request: Request, made: Reference) -> Attempt | None:
        """The attempt that made the artifact, if no earlier try of this task, whose it is, lived to tell its end.

        Of one whose end was told, what its backend keeps is removed.
        """
        size = self._size(request)
        backend = self.profile.backend(self.stage, size)
        claim, handle = self._own_job(backend, request)
        if claim is None:
            return None
        attempt = self._attempt(backend, request, size, claim, handle or {})
        manifest = self.store.manifest(self.stage, request.key, digest=made.digest)
        told = self.store.job(self.stage, request.key, claim.attempt)
        if manifest is not None and manifest.attempt == claim.attempt and told is None:
            return attempt
        attempt.clean_up(succeeded=True)
        return None

    def _size(self, request: Request) -> CaptureSize | None:
        """How large the capture is, as ingest counted it."""
        inputs = request.inputs
        while inputs:
            stage, wanted = next(iter(inputs.items()))
            manifest = self.store.manifest(stage, wanted.key, digest=wanted.digest)
            if manifest is None:
                raise Infrastructure(
                    f"What {stage} made ({wanted.key}) is no longer in the store.",
                    hint=f"Clear the run's task {stage}, and it is made again.",
                )
            if stage == "ingest":
                return CaptureSize.of(manifest.metrics)
            inputs = manifest.inputs
        return None

    def _own_job(self, backend: Backend, request: Request) -> tuple[Claim | None, Handle | None]:
        """The newest attempt, if an earlier try of this task made it, and its job, if that is still there."""
        last = self.store.last_attempt(self.stage, request.key)
        claim = self.store.read_claim(self.stage, request.key, last) if last else None
        if claim is None or claim.owner != self.owner:
            return None, None
        job = self._job(request, claim)
        return claim, retry_while_unavailable(lambda: backend.find(job))

    def _attempt(
        self, backend: Backend, request: Request, size: CaptureSize | None, claim: Claim, handle: Handle
    ) -> Attempt:
        state = AttemptState(
            profile=self.profile_name, size=size, stage=self.stage, key=request.key, claim=claim, handle=handle
        )
        return Attempt(self.store, backend, state)

    def _job(self, request: Request, claim: Claim, environment: Mapping[str, str] | None = None) -> JobSpec:
        """One attempt as a job; without an environment of its own where it is only looked for."""
        return JobSpec(
            stage=self.stage,
            key=request.key,
            claim=claim,
            request_uri=self.store.request_uri(self.stage, request.key, claim.attempt),
            capture=request.capture,
            longest_seconds=request.longest_seconds,
            environment=dict(self.environment if environment is None else environment),
            told={**traces.carrier(), **_of_logs(claim)},
        )


def _of_logs(claim: Claim) -> dict[str, str]:
    """How a program writes its log: as the worker's environment says, and with the run that it is for."""
    asked = os.environ.get(LOG_FORMAT)
    # The owner is the DAG, its run, and the task; see `owner_of`.
    return {LOG_FORMAT: asked, LOG_RUN: "/".join(claim.owner.split("/")[:2])} if asked else {}
