"""What a profile says in AWS's own names, checked against botocore's description of AWS's API when it is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel
from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

# Where in the values, by names and numbers from the top, and what is wrong there.
Problem = tuple[tuple[str | int, ...], str]
# A shape of botocore's: a structure has members, a list a member, a map a key and a value.
Shape = Any

_KINDS: dict[str, tuple[Any, str]] = {
    "structure": (dict, "a mapping"),
    "map": (dict, "a mapping"),
    "list": (list, "a list"),
    "string": (str, "text: put it in quotes"),
    "boolean": (bool, "true or false"),
    "integer": (int, "a whole number"),
    "long": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "double": ((int, float), "a number"),
}


def problems(
    service: str, shape: str, values: Mapping[str, Any], owned: Iterable[str], beside: Iterable[str] = ()
) -> list[Problem]:
    """What AWS would not accept, and what is not the profile's to say.

    :param service: in botocore's name, as ecs.
    :param shape: what the values are part of, as RunTaskRequest.
    :param owned: fields that are the stage's own, with dots for those inside others: overrides.containerOverrides.
    :param beside: other names that the profile may write in the same place; a misspelt one is one of them.
    """
    owned = set(owned)
    return [
        *_of_names(values, _model(service).shape_for(shape), (), owned, set(beside)),
        *_of_parts(values, _model(service).shape_for(shape), (), owned),
    ]


def refuse(settings: type, found: Iterable[Problem]) -> None:
    """Say in pydantic's way what is wrong where.

    :raises ValidationError: when anything is.
    """
    # Braces would be pydantic's placeholders.
    details = [
        InitErrorDetails(type=PydanticCustomError("refused", "{told}", {"told": told}), loc=place, input=None)
        for place, told in found
    ]
    if details:
        raise ValidationError.from_exception_data(settings.__name__, details)


@lru_cache
def _model(service: str) -> ServiceModel:
    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


def _of(value: Any, shape: Shape, place: tuple[str | int, ...], owned: set[str]) -> Iterator[Problem]:
    """What is wrong with a value and everything in it."""
    kind, called = _KINDS.get(shape.type_name, (object, ""))
    if not isinstance(value, kind) or (isinstance(value, bool) and shape.type_name != "boolean"):
        yield place, f"must be {called}"
        return
    if shape.type_name == "structure":
        yield from _of_names(value, shape, place, owned, set())
        missing = set(shape.required_members) - set(value) - {_below(name, place) for name in owned}
        yield from ((place, f"{name} is missing") for name in sorted(missing))
    yield from _of_parts(value, shape, place, owned)
    if told := _limit(value, shape):
        yield place, told


def _of_names(
    value: Mapping[str, Any], shape: Shape, place: tuple[str | int, ...], owned: set[str], beside: set[str]
) -> Iterator[Problem]:
    """Names that AWS does not know, or that are the stage's."""
    kept = {_below(name, place) for name in owned}
    for name in value:
        if name in kept:
            yield (*place, name), f"{name!r} is the stage's own and cannot be set"
        elif name not in shape.members:
            near = get_close_matches(str(name), [*(set(shape.members) - kept), *beside], n=1)
            yield (*place, name), f"{shape.name} has no {name!r}" + (f"; did you mean {near[0]}?" if near else "")


def _of_parts(value: Any, shape: Shape, place: tuple[str | int, ...], owned: set[str]) -> Iterator[Problem]:
    if shape.type_name == "structure":
        kept = {_below(name, place) for name in owned}
        for name in value:
            if name in shape.members and name not in kept:
                yield from _of(value[name], shape.members[name], (*place, name), owned)
    elif shape.type_name == "map":
        for name in value:
            yield from _of(value[name], shape.value, (*place, name), owned)
    elif shape.type_name == "list":
        for number, item in enumerate(value):
            yield from _of(item, shape.member, (*place, number), owned)


def _below(name: str, place: tuple[str | int, ...]) -> str | None:
    """A dotted name as it is written at a place, if it belongs there."""
    above, _, last = name.rpartition(".")
    return last if above == ".".join(map(str, place)) else None


def _limit(value: Any, shape: Shape) -> str | None:
    """Which choice, pattern, length or range a value does not keep to."""
    limits = shape.metadata
    if isinstance(value, str):
        if shape.enum and value not in shape.enum:
            near = get_close_matches(value, shape.enum, n=1)
            told = f"did you mean {near[0]}? " if near else ""
            return f"this boto3 knows no {shape.name} {value!r}; {told}If AWS has it, upgrade boto3"
        if (pattern := limits.get("pattern")) and not re.fullmatch(in_python(pattern), value):
            return f"must match {pattern}"
    size = value if isinstance(value, (int, float)) else len(value) if hasattr(value, "__len__") else None
    low, high = limits.get("min"), limits.get("max")
    if size is not None and ((low is not None and size < low) or (high is not None and size > high)):
        what = "" if isinstance(value, (int, float)) else "of a length "
        bounds = f"at least {low}" if high is None else f"{low or 0} to {high}"
        return f"must be {what}{bounds}, not {size}"
    return None


def in_python(pattern: str) -> str:
    r"""A pattern of AWS's for Python, which has no \p{L}."""
    return re.sub(r"\\p\{[LN]\}", r"\\w", pattern).replace(r"\p{Z}", r"\s")
