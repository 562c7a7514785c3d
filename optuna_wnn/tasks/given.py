"""What a network is given from outside: inputs and targets, checked and packed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.base import pack_bits


def n_context(task: Task) -> int:
    """Return how many inputs a prediction needs: under ``chained_bits`` not the target's own."""
    return task.n_inputs - (task.n_head_outputs - 1 if task.head == "chained_bits" else 0)


def packed_inputs(task: Task, inputs: NDArray[Any]) -> NDArray[np.uint64]:
    """Return inputs packed, the target's own bits among them 0, ``uint64[E, ceil(B / 64)]``.

    Args:
        task: Says how many inputs there are.
        inputs: ``bool[E, B]``, 0 and 1 of an integer type other than ``uint64``, or packed. The
            target's own bits may be left out, and are not read.

    Raises:
        InputError: If they are something else.
    """
    given, context = np.asarray(inputs), n_context(task)
    words = [-(-n // 64) for n in (context, task.n_inputs)]
    is_packed = given.dtype == np.uint64
    widths = words if is_packed else [context, task.n_inputs]
    if given.ndim != 2 or given.shape[1] not in widths:
        raise InputError(
            f"network: inputs of shape {given.shape} do not fit; bool[examples, {context}] or "
            f"packed uint64[examples, {words[0]}] is needed"
        )
    if not is_packed:
        bits = given.astype(bool, copy=False)
        if given.dtype.kind not in "biu" or not (bits is given or (bits == given).all()):
            raise InputError("network: inputs must be bool, 0 and 1, or packed uint64")
        given = pack_bits(bits[:, :context])
    packed = np.zeros((len(given), words[1]), np.uint64)
    packed[:, : given.shape[1]] = given
    if context < task.n_inputs:
        packed &= pack_bits((np.arange(words[1] * 64) < context)[None])
    return packed


def checked_targets(task: Task, targets: NDArray[Any], n_examples: int) -> NDArray[np.int64]:
    """Return the targets of examples, ``int64[E]``.

    Args:
        task: Says what they may be.
        targets: One whole number per example.
        n_examples: ``E``.

    Raises:
        InputError: If they are something else, or there are none.
    """
    given = np.asarray(targets)
    if given.shape != (n_examples,) or given.dtype.kind not in "iu":
        raise InputError(
            f"network: targets are {given.dtype} of shape {given.shape}; one whole number is "
            f"needed for each of {n_examples} examples"
        )
    if not n_examples or given.min() < 0 or given.max() >= task.n_outputs:
        raise InputError(
            f"network: examples are needed, with targets in [0, {task.n_outputs}) each"
        )
    return given.astype(np.int64)
