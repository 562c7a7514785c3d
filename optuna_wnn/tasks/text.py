"""Text: predict the next byte from the bytes before it, one output cluster per bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.base import chained
from optuna_wnn.tasks.baselines import bigram
from optuna_wnn.tasks.baselines import unigram
from optuna_wnn.tasks.checks import cut_points
from optuna_wnn.tasks.checks import read_file
from optuna_wnn.tasks.checks import shares
from optuna_wnn.tasks.checks import whole_number


_N_BYTES: Final = 256
SPLIT: Final = (0.8, 0.1, 0.1)
HEADS: Final = ("bits", "chained_bits")


def python_docs_task(*, context: Any = 8, split: Any = SPLIT, head: Any = "bits") -> Task:
    """Return the task of the English text that every Python carries: the topics of ``help()``.

    About half a megabyte; it differs a little from one Python version to the next.

    Args:
        context: How many bytes are seen before the one to predict.
        split: Shares of train, validation and test.
        head: ``bits``, each predicted by itself, or ``chained_bits``, each after those before it.

    Raises:
        InputError: If an option is wrong, or this Python was installed without its topics.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError(
            "task.kind: this Python was installed without its documentation topics (the module "
            "pydoc_data); use kind: text with a file of your own"
        ) from error
    text = "\n".join(topics.values()).encode()
    return _byte_task("python-docs", "python-docs", text, context, split, head)


def text_task(path: Any, *, context: Any = 8, split: Any = SPLIT, head: Any = "bits") -> Task:
    """Return the task of a text file.

    Args:
        path: A file of UTF-8 text, of any size that fits into memory several times.
        context: How many bytes are seen before the one to predict.
        split: Shares of train, validation and test, which follow each other in the file.
        head: ``bits``, each predicted by itself, or ``chained_bits``, each after those before it.

    Raises:
        InputError: If an option is wrong, or the file is missing, too short or not UTF-8.
    """
    text = read_file(path)
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8"
        ) from error
    return _byte_task(Path(path).stem, str(path), text, context, split, head)


def _byte_task(name: str, place: str, text: bytes, context: Any, split: Any, head: Any) -> Task:
    context = whole_number("context", context, 1)
    if head not in HEADS:
        raise InputError(f"task.head: {head!r} is not one of {', '.join(HEADS)}")
    train_share, validation_share, _ = shares(split)
    codes = np.frombuffer(text, np.uint8)
    parts = np.split(codes, cut_points(len(codes), train_share, validation_share))
    for part, of in zip(parts, ("train", "validation", "test"), strict=True):
        if len(part) <= context:
            raise InputError(
                f"{place}: the {of} part has {len(part)} of {len(codes)} bytes, too few for a "
                f"context of {context}; give more text or a smaller task.context"
            )
    train, validation, test = parts
    task = Task(
        name=name,
        head="bits",
        n_inputs=8 * context,
        n_outputs=_N_BYTES,
        train=byte_windows(train, context),
        validation=byte_windows(validation, context),
        test=byte_windows(test, context),
        input_groups=(context, 8),
        baselines={
            "uniform": math.log(_N_BYTES),
            "unigram": unigram(train, test[context:], _N_BYTES),
            "bigram": bigram(train, test, context, _N_BYTES),
        },
    )
    return chained(task) if head == "chained_bits" else task


def byte_windows(text: NDArray[np.uint8], context: int) -> Examples:
    """Return an example for every byte of ``text`` that has ``context`` bytes before it.

    Input ``8 * p + b`` is bit ``b`` of the byte at position ``p`` of the window: the oldest
    byte and the most significant bit come first.

    Args:
        text: ``uint8[L]``, with ``L > context``.
        context: Bytes per window, at least 1.

    Returns:
        ``L - context`` examples with ``8 * context`` input bits.
    """
    # Packed words start at the least significant bit, so every byte is turned round first.
    turned = np.packbits(np.unpackbits(text), bitorder="little")
    windows = np.lib.stride_tricks.sliding_window_view(turned, context)[:-1]
    padded = np.zeros((len(windows), -(-context // 8) * 8), np.uint8)
    padded[:, :context] = windows
    return Examples(padded.view("<u8").astype(np.uint64), text[context:].astype(np.int64))
