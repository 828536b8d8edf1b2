"""A stage in ECS's words: the task definition that jobs of one kind share, and the request that runs one of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_e2e3d.backends.base import JobSpec
from e2e3d_stages.registry import STAGES

if TYPE_CHECKING:
    from airflow_provider_e2e3d.backends.ecs.settings import EcsSettings

# The stage's own container.
MAIN = "stage"
_SCRATCH = "/tmp"
# Fargate's maximum, and more than a program takes to save a checkpoint.
_STOP_SECONDS = 120
# What a tag's value may not hold.
_UNCLEAN = re.compile(r"[^\w\s+\-=.:/@]")


def definition_of(settings: EcsSettings, job: JobSpec, region: str) -> dict[str, Any]:
    """What RegisterTaskDefinition takes; the same for every job of a container image on one profile.

    Its family's name has a hash of it, so that it changes when the profile does.
    """
    given = settings.container
    # An empty volume: what ECS gives it of owner and rights is what the image's VOLUME says.
    own_scratch = not any(each.get("containerPath") == _SCRATCH for each in given.get("mountPoints", []))
    scratch = {"sourceVolume": "e2e3d-scratch", "containerPath": _SCRATCH, "readOnly": False}
    container = {
        "readonlyRootFilesystem": True,
        "stopTimeout": _STOP_SECONDS,
        "logConfiguration": _logs(region),
        **given,
        "linuxParameters": {
            # The program hears SIGTERM itself.
            "initProcessEnabled": False,
            "capabilities": {"drop": ["ALL"]},
            **given.get("linuxParameters", {}),
        },
        "mountPoints": [*given.get("mountPoints", []), *([scratch] if own_scratch else [])],
        "name": MAIN,
        "image": settings.image_of(job),
        "essential": True,
    }
    volumes = [*settings.task_definition.get("volumes", []), *([{"name": "e2e3d-scratch"}] if own_scratch else [])]
    fargate = {"networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"]} if settings.on_fargate else {}
    definition = {**fargate, **settings.task_definition, "volumes": volumes, "containerDefinitions": [container]}
    mark = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:16]
    return {"family": f"e2e3d-{STAGES[job.stage].container}-{mark}", **definition}


def _logs(region: str) -> dict[str, Any]:
    options = {
        "awslogs-group": "/e2e3d",
        "awslogs-region": region,
        "awslogs-stream-prefix": "e2e3d",
        "awslogs-create-group": "true",
    }
    return {"logDriver": "awslogs", "options": options}


def request_of(settings: EcsSettings, job: JobSpec, definition: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """What RunTask takes.

    :param definition: the ARN of the task definition.
    :param environment: of the program; anybody who may describe tasks can read it.
    """
    given = settings.request
    own = {
        "name": MAIN,
        "command": ["run", job.request_uri],
        "environment": [{"name": name, "value": value} for name, value in sorted(environment.items())],
    }
    about = {
        "e2e3d.stage": job.stage,
        "e2e3d.key": job.key,
        "e2e3d.attempt": str(job.claim.attempt),
        "e2e3d.owner": _UNCLEAN.sub("_", job.claim.owner)[:256],
    }
    tags = {each["key"]: each.get("value", "") for each in given.get("tags", [])} | about
    return {
        **given,
        "taskDefinition": definition,
        "overrides": {**given.get("overrides", {}), "containerOverrides": [own]},
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
        "startedBy": job.name,
        # The same request again is answered with the same task.
        "clientToken": job.name,
    }
