"""The definition of what a RAM network computes, in plain NumPy: short, right, and slow.

Every other backend is tested against this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.base import Evaluator
from optuna_wnn.evaluators.cells import Cells
from optuna_wnn.evaluators.cells import sample_keys
from optuna_wnn.evaluators.cells import sampled
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.tasks.base import unpack_bits


_CHUNK = 31  # address bits that are numbered at a time


class ReferenceEvaluator(Evaluator):
    """Evaluates with NumPy alone, one neuron at a time."""

    backend: ClassVar[str] = "reference"

    def cluster_votes(self, clusters: Sequence[Cluster], reading: Reading) -> list[ClusterVotes]:
        train = unpack_bits(self.task.train.inputs[: reading.n_trained], self.task.n_inputs)
        read = unpack_bits(reading.examples.inputs, self.task.n_inputs)
        return [self._votes_of(cluster, train, read, reading) for cluster in clusters]

    def _votes_of(
        self,
        cluster: Cluster,
        train: NDArray[np.uint8],
        read: NDArray[np.uint8],
        reading: Reading,
    ) -> ClusterVotes:
        written = self.trained_positives(reading, cluster.index)
        wanted = self.positives(reading, cluster.index)
        trained_on = self.trained_on(reading, cluster.index)
        votes = []
        keys = sample_keys(cluster.hashes, self.memory.sample_seed)
        for observed, key in zip(cluster.connections, keys, strict=True):
            cells = number_cells(np.concatenate([train[:, observed], read[:, observed]]))
            train_cells, read_cells = cells[: len(train)], cells[len(train) :]
            kept = np.ones(len(train), bool)
            if trained_on is not None:
                kept = np.isin(np.arange(len(train)), trained_on)
            if self.memory.sample_rate < 1:
                kept = sampled(key, len(train), self.memory.sample_rate)
            votes.append(
                neuron_votes(self.cells, train_cells, written, kept, read_cells, reading.blocks)
            )
        table = np.array(votes)
        scores = np.stack([table[:, wanted == 0].sum(1), table[:, wanted == 1].sum(1)], axis=1)
        return ClusterVotes(table.sum(axis=0), scores)


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
) -> NDArray[np.int64]:
    """Return what one neuron votes on every example read, ``int64[E]``.

    Args:
        cells: How a cell is written and votes.
        train_cells: The cell that each training example addresses.
        positives: Which training examples are positive.
        kept: Which training examples the neuron is trained on.
        read_cells: The cell that each example read addresses.
        blocks: What is left out of the memory (see :class:`Reading`).
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
        pair = np.unique(block * n_cells + read_cells, return_inverse=True)[1].ravel()
        read_seen = read_seen - np.bincount(pair[kept[own]], minlength=len(pair))[pair]
        also_positive = kept[own] & (positives[own] == 1)
        read_positive = read_positive - np.bincount(pair[also_positive], minlength=len(pair))[pair]
    return cells.of_counts(read_positive, read_seen)
