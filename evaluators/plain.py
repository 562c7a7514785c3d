"""What one neuron votes, in plain NumPy: the definition that the compiled code repeats."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cells import Cells


_CHUNK: Final = 31  # address bits that are numbered at a time


def number_cells(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return a number per row, the same if and only if the rows are: which cell is addressed.

    Args:
        bits: ``uint8[E, bits]`` of zeros and ones, any number of bits.
    """
    cells = np.zeros(len(bits), np.int64)
    for first in range(0, bits.shape[1], _CHUNK):
        chunk = bits[:, first : first + _CHUNK].astype(np.int64)
        address = chunk @ (1 << np.arange(chunk.shape[1], dtype=np.int64))
        cells = np.unique((cells << _CHUNK) + address, return_inverse=True)[1].ravel()
    return cells


def neuron_votes(
    cells: Cells,
    train_cells: NDArray[np.int64],
    positives: NDArray[np.uint8],
    kept: NDArray[np.bool_],
    read_cells: NDArray[np.int64],
    blocks: NDArray[np.int64] | None,
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Return what one neuron votes on every example read, ``int64[E]``.

    Args:
        cells: How a cell is written and votes.
        train_cells: The cell that each training example addresses.
        positives: Which training examples are positive.
        kept: Which training examples the neuron is trained on.
        read_cells: The cell that each example read addresses.
        blocks: What is left out of the memory (see :class:`Reading`).
        rows: Which of the reading's examples each example read stands for, and so which block
            is left out; ``None`` where all of them are read in their order.
    """
    n_cells = int(max(train_cells.max(initial=0), read_cells.max(initial=0))) + 1
    written, signs = train_cells[kept], positives[kept]
    if cells.kind == "counter":
        states = [1] * n_cells
        for cell, sign in zip(written.tolist(), signs.tolist(), strict=True):
            states[cell] = min(states[cell] + 1, 3) if sign else max(states[cell] - 1, 0)
        votes: NDArray[np.int64] = cells.votes[np.array(states)[read_cells]]
        return votes
    seen = np.bincount(written, minlength=n_cells)
    positive = np.bincount(written[signs == 1], minlength=n_cells)
    if cells.kind == "flags":
        return cells.votes[((seen > positive) + 2 * (positive > 0))[read_cells]]
    read_seen, read_positive = seen[read_cells], positive[read_cells]
    if blocks is not None:
        # The examples read are training examples: take away what their own block wrote.
        own = slice(int(blocks[0]), int(blocks[-1]))
        block = np.repeat(np.arange(len(blocks) - 1), np.diff(blocks))
        block_read = block if rows is None else block[rows]
        pairs = np.concatenate(
            [block * n_cells + train_cells[own], block_read * n_cells + read_cells]
        )
        pairs = np.unique(pairs, return_inverse=True)[1].ravel()
        pair, pair_read = pairs[: len(block)], pairs[len(block) :]
        read_seen = read_seen - np.bincount(pair[kept[own]], minlength=len(pairs))[pair_read]
        also_positive = pair[kept[own] & (positives[own] == 1)]
        own_positive = np.bincount(also_positive, minlength=len(pairs))
        read_positive = read_positive - own_positive[pair_read]
    return cells.of_counts(read_positive, read_seen)
