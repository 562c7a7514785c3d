"""What a document describes, as a model; and one clear line for what is wrong with it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any
from typing import TypeVar
from typing import get_args

import pydantic
from pydantic import BaseModel

from optuna_wnn.errors import InputError


class Mismatch(InputError):
    """Values that are right by themselves, but out of range or not made for each other."""


Model = TypeVar("Model", bound=BaseModel)


def parse_as(model: type[Model], document: Mapping[str, Any]) -> Model:
    """Return what a mapping describes, as a model.

    Raises:
        Mismatch: If values do not go together; the line names the path of a key.
        InputError: If something else in it is wrong; the line names the path of the key.
    """
    try:
        return model.model_validate(dict(document))
    except pydantic.ValidationError as error:
        text, is_mismatch = _reason(error, model)
        raise (Mismatch if is_mismatch else InputError)(text) from error


def _reason(error: pydantic.ValidationError, model: type[BaseModel]) -> tuple[str, bool]:
    """Return one line for the first thing that is wrong, and whether it is a mismatch."""
    problems = error.errors(include_url=False)
    # What a wrong ``search`` key does to every phase is said once, where it stands.
    problems.sort(key=lambda problem: problem["loc"][:1] == ("phases",))
    first = problems[0]
    location = first["loc"]
    if location[:1] == ("memory",):  # what follows names members of unions
        location = location[:2]
    path = ".".join(map(str, location))
    kind, given = first["type"], first.get("input")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return str(cause), True
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        text = f"{path}: there is no such key{_suggestion(first['loc'], model)}"
    elif kind == "missing":
        text = f"{path}: this key is needed; add it"
    elif kind == "string_pattern_mismatch":
        text = f"{path}: {_shown(given)} is no name; use up to 100 letters, digits, '.', '_', '-'"
    else:
        wanted = _WANTED.get(kind, first["msg"].removeprefix("Value error, "))
        text = f"{path}: {wanted[:1].lower()}{wanted[1:]} (it is {_shown(given)})"
        if kind == "float_type" and isinstance(given, str) and _EXPONENT.fullmatch(given):
            text += "; YAML wants a point and a sign in it, as in 1.0e-3"
    return text, False


_WANTED = {
    "tuple_type": "a list is needed",
    "dict_type": "a mapping of keys is needed",
    "model_type": "a mapping of keys is needed",
    "dataclass_type": "a mapping of keys is needed",
    "too_short": "at least one is needed",
    "string_type": "text is needed; put it in quotes",
    "int_type": "a whole number is needed",
    "float_type": "a number is needed",
}

_EXPONENT = re.compile(r"[-+]?[\d.]+[eE][-+]?\d+")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _suggestion(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """Return the key that was probably meant."""
    known = _names(model)
    for name in location[:-1]:
        if isinstance(name, str) and (inner := section_of(model, name)) is not None:
            model, known = inner, _names(inner)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(known)}"


def _names(section: type[Any]) -> list[str]:
    """Return the keys of a section as a file has them."""
    return [getattr(field, "alias", None) or name for name, field in fields_of(section).items()]


def fields_of(section: type[Any]) -> Mapping[str, Any]:
    """Return the fields of a model or a dataclass by name."""
    fields: Mapping[str, Any] = getattr(section, "model_fields", None) or getattr(
        section, "__dataclass_fields__", {}
    )
    return fields


def section_of(section: type[Any], name: str) -> type[Any] | None:
    """Return the model or dataclass that a key of a section holds, or a list of such."""
    field = getattr(section, "model_fields", {}).get(name)
    pending = [] if field is None else [field.annotation]
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and fields_of(kind):
            return kind
        pending += get_args(kind)
    return None
