"""What a pod's status means for the stage in it.

The state of its own container decides, not the pod's phase: a service mesh's sidecar may go on for ever.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from airflow_provider_e2e3d.backends.base import TRANSIENT, JobStatus
from e2e3d_stages.contract.messages import Failure, FailureCode, now

# The name that KubernetesPodOperator gives to its container.
MAIN = "base"
# How long a pod may miss the Secret that is made right after it, and a node be silent after its pod's last moment.
_PATIENCE = 60.0
_PULL = {
    *("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "ImageInspectError", "InvalidImageName"),
    "RegistryUnavailable",
}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
# Pulls that end the same way each time.
_NO_SUCH_IMAGE = re.compile(
    r"InvalidImageName|ErrImageNeverPull|not found|manifest unknown|denied|unauthorized|authorization failed"
    r"|no such image|invalid reference|authentication required|no basic auth",
    re.IGNORECASE,
)
# Why the cluster itself ends a pod, by the pod's reason; newer clusters also say it by a condition.
_TAKEN_AWAY = {"Evicted", "NodeLost", "DeadlineExceeded", "Preempting", "Preempted", "Shutdown", "NodeShutdown"}
_TAKEN_AWAY |= {"Terminated"}


def vanished(name: str) -> JobStatus:
    """The status of a pod that is not there."""
    return _failed(
        FailureCode.INFRASTRUCTURE,
        f"The pod {name} is gone from the cluster before its end was seen.",
        "Somebody deleted it, or the cluster cleaned up. The next try goes on from the newest checkpoint.",
    )


def is_over(pod: Any) -> bool:
    """Whether the stage in a pod has ended: one that still waits for its image may yet begin."""
    state = _state(pod)
    return pod.status.phase in ("Succeeded", "Failed") or bool(state and state.terminated)


def job_status(
    pod: Any,
    *,
    schedule_seconds: float = math.inf,
    startup_seconds: float = math.inf,
    last_warning: Callable[[], str | None] = lambda: None,
) -> JobStatus:
    """How the stage in a pod is.

    :param pod: as the cluster describes it.
    :param schedule_seconds: how long it may wait for a node.
    :param startup_seconds: how long it may take there to start.
    :param last_warning: asks the cluster for what it last said about the pod.
    """
    state = _state(pod)
    taken = _taken_away(pod)
    if state and state.terminated:
        exit_code = state.terminated.exit_code
        failure = None if exit_code == 0 else _failure_of_container(state.terminated) or taken
        began, ended = state.terminated.started_at, state.terminated.finished_at
        seconds = (ended - began).total_seconds() if began and ended else None
        return JobStatus(running=False, exit_code=exit_code, failure=failure, billable_seconds=seconds)
    if taken:
        return JobStatus(running=False, failure=taken)
    if pod.status.phase in ("Succeeded", "Failed"):
        return _never_began(pod)
    if state and state.running:
        return JobStatus(running=True)
    return _starting(pod, schedule_seconds, startup_seconds, last_warning)


def _state(pod: Any) -> Any:
    """The state of the stage's own container, once it has one."""
    return next((each.state for each in pod.status.container_statuses or [] if each.name == MAIN), None)


def _failed(code: FailureCode, message: str, hint: str) -> JobStatus:
    return JobStatus(running=False, failure=Failure(code=code, message=message, hint=hint))


def _failure_of_container(ended: Any) -> Failure | None:
    """What the node says of the container, where it says more than an exit status."""
    if ended.reason == "OOMKilled":
        return Failure(
            code=FailureCode.OUT_OF_MEMORY,
            message="The container was killed because it needed more memory than its limit.",
            hint="Raise limits.memory in the stage's container_resources, or choose a smaller preset.",
        )
    if ended.reason in ("StartError", "ContainerCannotRun"):
        return Failure(
            code=FailureCode.INFRASTRUCTURE,
            message=f"The node could not start the container: {ended.message}",
            hint="Check the node's container runtime (for a GPU: its driver and runtime_class_name) and the image.",
        )
    if ended.reason == "ContainerStatusUnknown":
        return _interrupted("The node lost the container", ended.message)
    return None


def _taken_away(pod: Any) -> Failure | None:
    """Why the cluster ended the pod, if it did."""
    condition = next(
        (each for each in pod.status.conditions or [] if each.type == "DisruptionTarget" and each.status == "True"),
        None,
    )
    if condition and pod.status.phase == "Failed":
        return _interrupted(f"The cluster took the pod away ({condition.reason})", condition.message)
    if pod.status.reason in _TAKEN_AWAY:
        return _interrupted(f"The cluster took the pod away ({pod.status.reason})", pod.status.message)
    gone = pod.metadata.deletion_timestamp
    # The time of deletion has the grace period in it: what is still there now has no node that could end it.
    if gone and _age(gone) > _PATIENCE:
        return _interrupted(f"The pod's node {pod.spec.node_name} does not answer any more", None)
    return None


def _interrupted(what: str, message: str | None) -> Failure:
    return Failure(
        code=FailureCode.INTERRUPTED,
        message=f"{what}: {message}" if message else f"{what}.",
        hint="The next try goes on from the newest checkpoint. If it happens again and again, give the stage requests "
        "that match its need, a priority_class_name, or nodes that are not reclaimed.",
    )


def _never_began(pod: Any) -> JobStatus:
    """A pod that is over, and its own container did not even start."""
    others = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    ends = [
        f"{each.name} ended with exit status {each.state.terminated.exit_code}"
        for each in others
        if each.state and each.state.terminated and each.state.terminated.exit_code
    ]
    said = "; ".join(filter(None, [pod.status.reason, pod.status.message, *ends])) or "no reason is given"
    return _failed(
        FailureCode.INFRASTRUCTURE,
        f"The pod failed before the stage began: {said}.",
        "Look at the pod (kubectl describe) with on_finish_action: keep_pod in the profile.",
    )


def _starting(
    pod: Any, schedule_seconds: float, startup_seconds: float, last_warning: Callable[[], str | None]
) -> JobStatus:
    """A pod that waits for a node, an image or a Secret: perhaps in vain."""
    for reason, message in _waiting(pod):
        if reason in _PULL and (failed := _pull_failed(reason, last_warning() or message)):
            return failed
        if reason in _CONFIG and (failed := _config_failed(pod, reason, message)):
            return failed
    scheduled = next((each for each in pod.status.conditions or [] if each.type == "PodScheduled"), None)
    if not pod.spec.node_name and not (scheduled and scheduled.status == "True"):
        if _age(pod.metadata.creation_timestamp) <= schedule_seconds:
            return JobStatus(running=True)
        said = last_warning() or (scheduled and scheduled.message) or "the scheduler says nothing"
        return _failed(
            FailureCode.INFRASTRUCTURE,
            f"The cluster found no node for the pod within {schedule_seconds:g} s: {said}",
            "Add nodes that fit, or correct container_resources, node_selector, affinity or tolerations in the "
            "profile; schedule_timeout_seconds says how long to wait.",
        )
    if _age(pod.status.start_time or pod.metadata.creation_timestamp) <= startup_seconds:
        return JobStatus(running=True)
    return _failed(
        FailureCode.INFRASTRUCTURE,
        f"The pod did not start within {startup_seconds:g} s: {last_warning() or 'the node says nothing'}",
        "If its image is still being pulled, raise startup_timeout_seconds; else look at the node and the volumes.",
    )


def _waiting(pod: Any) -> Iterator[tuple[str, str]]:
    """What containers wait for: the stage's own, and all that must start before it."""
    for each in [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]:
        if each.state and each.state.waiting and each.state.waiting.reason:
            yield each.state.waiting.reason, each.state.waiting.message or ""


def _pull_failed(reason: str, said: str) -> JobStatus | None:
    if _NO_SUCH_IMAGE.search(f"{reason} {said}") and not TRANSIENT.search(said):
        return _failed(
            FailureCode.INVALID_REQUEST,
            f"The image cannot be pulled ({reason}): {said}",
            "Push it (see docs/kubernetes.md), correct `image` in the profile, or name image_pull_secrets there.",
        )
    # The first failure may be a hiccup; nodes try again before they back off.
    if reason != "ImagePullBackOff":
        return None
    return _failed(
        FailureCode.INFRASTRUCTURE,
        f"The image cannot be pulled for now ({reason}): {said}",
        "Check the registry and the node's way to it.",
    )


def _config_failed(pod: Any, reason: str, said: str) -> JobStatus | None:
    # A node that is slow, as with the profile's Secrets and ConfigMaps, tries again by itself.
    if TRANSIENT.search(said):
        return None
    if pod.metadata.name in said:
        if _age(pod.metadata.creation_timestamp) <= _PATIENCE:
            return None
        return _failed(
            FailureCode.INFRASTRUCTURE,
            "The worker died before it gave the pod its credentials.",
            "The next try gives them to a new pod.",
        )
    return _failed(
        FailureCode.INVALID_REQUEST,
        f"The pod cannot start as the profile describes it ({reason}): {said}",
        "Correct the stage's settings in the profile, or make what they name.",
    )


def _age(moment: dt.datetime) -> float:
    return (now() - moment).total_seconds()
