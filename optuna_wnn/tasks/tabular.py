"""Tables and small pictures: thermometer-coded features, one output cluster per class."""

from __future__ import annotations

import csv
import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.baselines import unigram
from optuna_wnn.tasks.checks import cut_points
from optuna_wnn.tasks.checks import one_of
from optuna_wnn.tasks.checks import read_file
from optuna_wnn.tasks.checks import shares
from optuna_wnn.tasks.checks import whole_number
from optuna_wnn.tasks.encoding import ENCODINGS
from optuna_wnn.tasks.encoding import learn_encoding
from optuna_wnn.tasks.encoding import packed


Array = NDArray[Any]
Rows = tuple[Array, Array]  # features [E, F] and labels [E]
Shape = tuple[int, ...]  # of a row as it was given
_DAMAGED: Final = (
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


def tabular_task(
    path: Any,
    *,
    thresholds: Any = 8,
    encoding: Any = "quantile",
    split: Any = (0.7, 0.15, 0.15),
    seed: Any = 0,
) -> Task:
    """Return the task of telling the classes of a table's rows apart.

    A ``.csv`` file has one row per example: numbers, and the label in the column that a header
    calls ``target``, else in the last. A first row without any number is a header too.
    A ``.npz`` file has the arrays ``x`` (a row, or a picture, per example) and ``y``; or
    ``x_train``, ``y_train``, ``x_test`` and ``y_test``, whose test part is kept as it is.

    Every feature becomes ``thresholds`` bits. Of a thermometer, bit ``t`` says that the value is
    above the ``t``-th threshold, thresholds ascending.

    Args:
        path: The file.
        thresholds: Input bits per feature.
        encoding: Where the thresholds lie: ``quantile`` cuts the training values of each
            feature into equally many, ``uniform`` cuts their range into equal lengths; or
            ``binary``: no thermometer, but the value's place in that range as a binary number.
        split: Shares of train, validation and test, drawn at random; of a file with a test
            part of its own, the first two divide the rest.
        seed: What decides which row goes where.

    Raises:
        InputError: If an option is wrong, or the file holds no such table.
    """
    thresholds = whole_number("thresholds", thresholds, 1)
    seed = whole_number("seed", seed, 0)
    train_share, validation_share, _ = shares(split)
    one_of("encoding", encoding, ENCODINGS)

    table, own_test, shape = _read(path)
    features = np.concatenate([table[0], own_test[0]]) if own_test else table[0]
    labels = np.concatenate([table[1], own_test[1]]) if own_test else table[1]
    classes, targets = np.unique(labels, return_inverse=True)
    targets = targets.astype(np.int64)

    order = np.random.default_rng(seed).permutation(len(table[0]))
    if own_test:
        cuts = cut_points(len(order), train_share / (train_share + validation_share))
        parts = [*np.split(order, cuts), np.arange(len(order), len(features))]
    else:
        parts = np.split(order, cut_points(len(order), train_share, validation_share))
    if not all(map(len, parts)):
        raise InputError(
            f"{path}: {len(features)} rows leave a part of task.split empty; give more rows"
        )
    if len(np.unique(targets[parts[0]])) < 2:
        raise InputError(
            f"{path}: all {len(parts[0])} training rows have the same label; "
            "give rows of two classes or more"
        )

    code = learn_encoding(encoding, features[parts[0]], thresholds)
    train, validation, test = (
        Examples(packed(code, features[rows]), targets[rows]) for rows in parts
    )
    return Task(
        name=Path(path).stem,
        head="classes",
        n_inputs=features.shape[1] * thresholds,
        n_outputs=len(classes),
        train=train,
        validation=validation,
        test=test,
        input_groups=(features.shape[1], thresholds),
        picture=(shape[0], shape[1]) if len(shape) == 2 else None,
        baselines={
            "uniform": math.log(len(classes)),
            "prior": unigram(train.targets, test.targets, len(classes)),
        },
    )


def _read(path: Any) -> tuple[Rows, Rows | None, Shape]:
    """Return the rows of a file, those of its own test part if it has one, and a row's shape."""
    content = read_file(path)
    suffix = Path(path).suffix.lower()
    if suffix == ".csv":
        table = _checked(path, "", *_read_csv(path, content))
        return table, None, table[0].shape[1:]
    if suffix == ".npz":
        arrays = _read_npz(path, content)
        if {"x", "y"} <= arrays.keys():
            return _checked(path, "", arrays["x"], arrays["y"]), None, arrays["x"].shape[1:]
        if {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
            train = _checked(path, "_train", arrays["x_train"], arrays["y_train"])
            test = _checked(path, "_test", arrays["x_test"], arrays["y_test"])
            if train[0].shape[1] != test[0].shape[1]:
                raise InputError(
                    f"{path}: x_train has {train[0].shape[1]} features per row and x_test "
                    f"{test[0].shape[1]}; make them the same"
                )
            return train, test, arrays["x_train"].shape[1:]
        raise InputError(
            f"{path}: the arrays are {', '.join(sorted(arrays)) or 'none'}; x and y are needed, "
            "or x_train, y_train, x_test and y_test"
        )
    raise InputError(f"{path}: a table ends in .csv or .npz; convert the file to one of these")


def _checked(path: Any, part: str, features: Array, labels: Array) -> Rows:
    """Return features ``[E, F]`` and whole-number or string labels ``[E]``."""
    x, y = f"x{part}", f"y{part}"
    if features.ndim < 2 or 0 in features.shape:
        raise InputError(f"{path}: {x} has shape {features.shape}; rows of features are needed")
    if features.dtype.kind not in "biuf":
        raise InputError(f"{path}: {x} has dtype {features.dtype}; numbers are needed")
    features = features.reshape(len(features), -1)
    if features.dtype.kind == "b":
        features = features.astype(np.uint8)
    finite = np.isfinite(features)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"{path}: row {row + 1}, feature {column + 1} is {features[row, column]}; "
            "fill it in or leave the row out"
        )
    if labels.shape != (len(features),):
        raise InputError(
            f"{path}: {y} has shape {labels.shape}; one label is needed for each of the "
            f"{len(features)} rows of {x}"
        )
    if labels.dtype.kind == "f":
        whole = (np.abs(labels) < 2**53) & (labels == np.round(labels))
        if not whole.all():
            row = int(np.argmin(whole))
            raise InputError(
                f"{path}: row {row + 1} has the label {labels[row]}; a class is needed, as a "
                "whole number or a name"
            )
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "biuUS":
        raise InputError(
            f"{path}: {y} has dtype {labels.dtype}; whole numbers or names are needed"
        )
    return features, labels


def _read_npz(path: Any, content: bytes) -> dict[str, Array]:
    wanted = ("x", "y", "x_train", "y_train", "x_test", "y_test")
    remedy = "write it with numpy.savez_compressed"
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise InputError(f"{path}: this is no npz file; {remedy}")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive if name in wanted}
    except _DAMAGED as error:
        pickled = "allow_pickle" in str(error)
        reason = "arrays of Python objects are not loaded" if pickled else "damaged"
        raise InputError(f"{path}: cannot be read ({reason}); {remedy}") from error


def _read_csv(path: Any, content: bytes) -> Rows:
    try:
        text = content.decode("utf-8-sig")
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [(lines.line_num, row) for row in lines if row]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8"
        ) from error
    except csv.Error as error:
        raise InputError(f"{path}: line {lines.line_num} is not CSV ({error})") from error
    if not rows:
        raise InputError(f"{path}: there are no rows; correct task.path")
    names = [cell.strip() for cell in rows[0][1]]
    width = len(names)
    if width < 2:
        raise InputError(
            f"{path}: line {rows[0][0]} has one column; separate features and label with commas"
        )
    target = names.index("target") if "target" in names else width - 1
    if "target" in names or not any(map(_is_number, names)):
        rows = rows[1:]
    features = np.empty((len(rows), width - 1))
    labels = []
    for place, (line, cells) in enumerate(rows):
        if len(cells) != width:
            raise InputError(
                f"{path}: line {line} has {len(cells)} columns where the first has {width}"
            )
        labels.append(cells.pop(target).strip())
        try:
            features[place] = [float(cell) for cell in cells]
        except ValueError as error:
            wrong = next(cell for cell in cells if not _is_number(cell))
            raise InputError(
                f"{path}: line {line} has {wrong!r} among its features; only numbers can be coded"
            ) from error
        if not labels[-1]:
            raise InputError(f"{path}: line {line} has no label; fill it in or leave the row out")
    named = np.array(labels)
    return features, named.astype(np.float64) if all(map(_is_number, labels)) else named


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
