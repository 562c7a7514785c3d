"""What every task checks of its options and of the file it reads."""

from __future__ import annotations

import itertools
import math
import operator
import os
from pathlib import Path
from typing import Any

from optuna_wnn.errors import InputError


def whole_number(name: str, value: Any, lowest: int) -> int:
    """Return ``value`` as an integer of at least ``lowest``.

    Raises:
        InputError: If it is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = lowest - 1
    if number < lowest or isinstance(value, bool):
        raise InputError(f"task.{name}: {value!r} is not a whole number of at least {lowest}")
    return number


def shares(value: Any) -> tuple[float, float, float]:
    """Return the shares of train, validation and test: three numbers above 0 that sum to 1.

    Raises:
        InputError: If ``value`` is something else.
    """
    try:
        train, validation, test = (float(share) for share in value)
    except (TypeError, ValueError):
        train = validation = test = math.nan
    if not (min(train, validation, test) > 0 and math.isclose(train + validation + test, 1)):
        raise InputError(
            f"task.split: {value!r} are not three shares above 0 that sum to 1; "
            "give train, validation and test, such as [0.8, 0.1, 0.1]"
        )
    return train, validation, test


def cut_points(n: int, *parts: float) -> list[int]:
    """Return where ``n`` things in a row are cut, so that each of ``parts`` gets its share.

    What is left after the last part is the rest, so there is one cut per part.
    """
    slack = 1e-6  # 0.7 + 0.2 is a little less than 0.9, but of 10 things it is 9
    return [int(n * share + slack) for share in itertools.accumulate(parts)]


def file_cuts(place: str, unit: str, n: int, split: Any) -> list[int]:
    """Return where a file of ``n`` things is cut into train, validation, test and the rest.

    Args:
        place: The file, for the message.
        unit: What the things are called there.
        n: How many there are.
        split: Three shares that sum to 1, or three numbers of things; to validate there may be
            none.

    Raises:
        InputError: If it is neither, or there are too few things.
    """
    numbers = list(split) if isinstance(split, list | tuple) else []
    least = (1, 0, 1)
    if len(numbers) != 3 or not all(
        type(n) is int and n >= low for n, low in zip(numbers, least, strict=True)
    ):
        return [*cut_points(n, *shares(split)[:2]), n]
    if sum(numbers) > n:
        raise InputError(
            f"{place}: task.split wants {sum(numbers)} of {n} {unit}; lower its numbers"
        )
    return list(itertools.accumulate(numbers))


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Check that an option is one of some words.

    Raises:
        InputError: If it is not.
    """
    if value not in choices:
        raise InputError(f"task.{name}: {value!r} is not one of {', '.join(choices)}")


def read_file(path: Any, option: str = "path") -> bytes:
    """Return the content of the file at ``path``, at least one byte.

    Args:
        path: The file.
        option: The option of the task that names it, for the message.

    Raises:
        InputError: If there is none that can be read.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"task.{option}: {path!r} is not the path of a file")
    try:
        file = Path(path)
        if file.exists() and not file.is_file() and not file.is_dir():  # it may have no end
            raise InputError(f"{path}: it is no ordinary file; correct task.{option}")
        content = file.read_bytes()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read ({reason}); correct task.{option}") from error
    if not content:
        raise InputError(f"{path}: the file is empty; correct task.{option}")
    return content
