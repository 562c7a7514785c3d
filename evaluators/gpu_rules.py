"""How cells are written and what they vote, as numbers that the GPU's kernels are given."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cells import Cells
from optuna_wnn.evaluators.cells import sample_threshold
from optuna_wnn.evaluators.cells import unpack
from optuna_wnn.evaluators.gpu_kernels import KINDS


_LOW: Final = 0xFFFFFFFF
_PAIR: Final = 2  # a vote and its weight


def rule_of(cells: Cells, sample_rate: float) -> dict[str, int]:
    """Return the parameters of kernels that depend on the memory's settings alone."""
    threshold = sample_threshold(sample_rate) if sample_rate < 1 else 0
    return {
        "kind": KINDS[cells.kind],
        "levels": cells.n_levels,
        "packed": int(cells.packed),
        "down": transitions(cells, positive=False),
        "up": transitions(cells, positive=True),
        "sampled": int(sample_rate < 1),
        "threshold_low": threshold & _LOW,
        "threshold_high": threshold >> 32,
    }


def votes_of(cells: Cells) -> NDArray[np.int64]:
    """Return votes by state, or pairs of vote and weight by levels: a row for every table.

    Returns:
        ``int64[rows, ...]`` of 32 bits; :func:`row_of_votes` says whose row is which.
    """
    if cells.kind == "levels":
        tables = cells.table[None] if cells.tables is None else cells.tables
        pairs = unpack(tables) if cells.packed else (tables, np.zeros_like(tables))
        return np.stack(pairs, axis=2)
    if cells.counting:
        return cells.votes[None]
    votes: NDArray[np.int64] = cells.votes[None, np.arange(4) ^ _start(cells)]
    return votes


def row_of_votes(cells: Cells, cluster: int) -> int:
    """Return which row of :func:`votes_of` is a cluster's; one that all share is there once."""
    return 0 if cells.tables is None else cluster


def votes_bytes(cells: Cells) -> int:
    """Return what the rows of :func:`votes_of` take on the GPU."""
    n_rows = 1 if cells.tables is None else len(cells.tables)
    return 4 * n_rows * (_PAIR * cells.n_levels**2 + len(cells.votes))


def transitions(cells: Cells, positive: bool) -> int:
    """Return the next state by state, two bits each; states are numbered from that of a new cell.

    See :data:`~optuna_wnn.evaluators.cells.CellKind` for what an example does to a state.
    """
    start, packed = _start(cells), 0
    for number in range(4):
        state = number ^ start
        if cells.kind == "counter":
            state = min(state + 1, 3) if positive else max(state - 1, 0)
        else:
            state |= 2 if positive else 1
        packed |= (state ^ start) << 2 * number
    return packed


def words_of(name: str, value: float) -> dict[str, int]:
    """Return the bits of a float64 as two words, ``name_low`` and ``name_high``."""
    bits = int(np.float64(value).view(np.uint64))
    return {f"{name}_low": bits & _LOW, f"{name}_high": bits >> 32}


def _start(cells: Cells) -> int:
    """Return the state of a new cell."""
    return 1 if cells.kind == "counter" else 0
