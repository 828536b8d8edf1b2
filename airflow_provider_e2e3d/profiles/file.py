"""The file of profiles: found, filled in from the environment, read, and its mistakes told with their lines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml
from airflow.sdk.configuration import conf
from pydantic import ValidationError

from airflow_provider_e2e3d.profiles.profile import Problem, Profile, problems_in
from e2e3d_stages.contract.messages import InvalidRequest


def load_profiles() -> dict[str, Profile]:
    """Every profile by name; the first is the default.

    :raises InvalidRequest: naming the file and the value that cannot work.
    """
    configured = conf.get("e2e3d", "profiles_file", fallback="")
    file = Path(configured).expanduser() if configured else Path(__file__).with_name("default.yaml")
    home = os.environ.get("AIRFLOW_HOME", str(Path("~/airflow").expanduser()))
    return read_profiles(file, {**os.environ, "AIRFLOW_HOME": home})


def read_profiles(file: Path, variables: Mapping[str, str]) -> dict[str, Profile]:
    """Every profile in a file.

    :param variables: what stands for `${NAME}`.
    """
    content, tree = _parsed(file, variables)
    profiles: dict[str, Profile] = {}
    problems: list[Problem] = []
    for name, values in content.items():
        try:
            profiles[name] = Profile.model_validate(values)
        except ValidationError as error:
            problems += problems_in(error, name)
        else:
            for stage in profiles[name].stages:
                # What is wrong with every size is told once.
                told = dict.fromkeys(profiles[name].problems(stage))
                problems += [((name, "stages", stage, *place), words) for place, words in told]
    if problems:
        raise InvalidRequest(
            "; ".join(f"{file}:{_line(tree, place)}: {'.'.join(map(str, place))}: {told}" for place, told in problems),
            hint="Correct the file there; deploy/profiles.example.yaml explains every setting.",
        )
    return profiles


def _parsed(file: Path, variables: Mapping[str, str]) -> tuple[dict[Any, Any], yaml.Node | None]:
    """What a file says by name, and where it says so."""
    try:
        text = Template(file.read_text(encoding="utf-8")).substitute(variables)
    except FileNotFoundError:
        raise InvalidRequest(f"There is no profile file {file}.", hint="Set [e2e3d] profiles_file.") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file} is not UTF-8: {error}.", hint="Save it as UTF-8.") from None
    except (KeyError, ValueError) as error:
        raise InvalidRequest(
            f"{file}: the environment lacks {error}.", hint="Set it, or write the value itself."
        ) from None
    try:
        content, tree = yaml.safe_load(text) or {}, yaml.compose(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # What looks like a date or a number and is none is no YAMLError.
        raise InvalidRequest(f"{file} is not YAML: {error}", hint="Correct the file there.") from None
    if not isinstance(content, dict):
        raise InvalidRequest(
            f"{file} names no profiles.", hint="Write profiles by their names, as deploy/profiles.example.yaml does."
        )
    return content, tree


def _line(node: yaml.Node | None, place: tuple[str | int, ...]) -> int:
    """The line of a value, or of the nearest thing around it that is written down."""
    line = 1
    for step in place:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
            continue
        found = [pair for pair in node.value if pair[0].value == step] if isinstance(node, yaml.MappingNode) else []
        if not found:
            break
        key, node = found[0]
        line = key.start_mark.line + 1
    return line


def profile_named(name: str) -> Profile:
    """One profile.

    :raises InvalidRequest: when there is none of that name.
    """
    profiles = load_profiles()
    if name not in profiles:
        raise InvalidRequest(f"There is no profile {name!r}.", hint=f"Choose one of {', '.join(profiles)}.")
    return profiles[name]
