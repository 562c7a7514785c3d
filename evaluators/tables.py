"""Trained tables: what all cells of a network vote once training is over, small enough to keep.

A cell that no longer changes is its vote. Networks have few different votes (two to four where a
cell is a state, some hundreds where it counts), so a cell is kept as a *code* of one or two
bytes: its place in the list of votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators.base import Evaluator
from optuna_wnn.evaluators.cells import sample_keys
from optuna_wnn.evaluators.cells import sampled
from optuna_wnn.evaluators.plain import neuron_votes
from optuna_wnn.evaluators.plain import number_cells
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.genome import Genome
from optuna_wnn.tasks.base import pack_bits
from optuna_wnn.tasks.base import unpack_bits


TABLE_BITS: Final = 16  # up to here a neuron always keeps a cell per address
MOST_TABLE_BITS: Final = 22  # and up to here where examples are many enough
_WORTH: Final = 16  # addresses per training example: above, listing those written is smaller

Codes = NDArray[np.uint8] | NDArray[np.uint16]


def keeps_table(n_bits: int, n_trained: int) -> bool:
    """Return whether a neuron keeps a cell per address, not a list of addresses written."""
    if n_bits <= TABLE_BITS:
        return True
    return n_bits <= MOST_TABLE_BITS and 1 << n_bits <= _WORTH * n_trained


@dataclass(frozen=True, eq=False)
class NeuronTable:
    """What one neuron's cells vote.

    Attributes:
        values: Its different votes, ascending, ``int64[V]``.
        places: Which of them each cell has, ``uint16[M]``: by address, or by row of ``keys``.
        keys: The addresses whose cells vote something, low and high 64 bits, ascending,
            ``uint64[M, 2]``; row 0 stands for all others. ``None`` where every address has a cell.
    """

    values: NDArray[np.int64]
    places: NDArray[np.uint16]
    keys: NDArray[np.uint64] | None

    @classmethod
    def of_votes(cls, votes: NDArray[np.int64], keys: NDArray[np.uint64] | None) -> NeuronTable:
        """Return the table of cells that vote so, ``int64[M]``; those of row 0 are not listed."""
        if keys is not None:
            order = np.lexsort((keys[1:, 0], keys[1:, 1])) + 1
            kept = np.concatenate([[0], order[votes[order] != votes[0]]])
            votes, keys = votes[kept], keys[kept]
        values, places = np.unique(votes, return_inverse=True)
        return cls(values, places.ravel().astype(np.uint16), keys)


@dataclass(frozen=True, eq=False)
class Tables:
    """All cells of a trained network.

    Attributes:
        votes: Vote by code, ``int64[S]``; code 0 is that of a cell that no example wrote.
        codes: Of all cells, neuron after neuron in the genome's order, ``uint8[M]`` or, where
            there are more than 256 votes, ``uint16[M]``. A neuron has a cell per address, or
            one per row of its ``keys``.
        sizes: Cells of each neuron, ``int64[N]``; ``2**bits`` where it has one per address.
        keys: Of the neurons that list addresses, one after the other, ``uint64[R, 2]``: the low
            and the high 64 bits. The first row of each is 0 and stands for all not listed.
    """

    votes: NDArray[np.int64]
    codes: Codes
    sizes: NDArray[np.int64]
    keys: NDArray[np.uint64]

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        return self.votes.nbytes + self.codes.nbytes + self.keys.nbytes

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First cell of every neuron, and the end: ``int64[N + 1]``."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    def listing(self, genome: Genome) -> NDArray[np.bool_]:
        """Return which neurons list addresses, ``bool[N]``."""
        bits = genome.neuron_bits.astype(np.int64)
        all_cells = np.int64(1) << np.minimum(bits, MOST_TABLE_BITS)
        lists: NDArray[np.bool_] = (bits > MOST_TABLE_BITS) | (self.sizes != all_cells)
        return lists

    def key_starts(self, genome: Genome) -> NDArray[np.int64]:
        """Return every neuron's first row of ``keys``, and the end: ``int64[N + 1]``."""
        rows = np.where(self.listing(genome), self.sizes, 0)
        return np.concatenate([[0], np.cumsum(rows)])

    def check(self, genome: Genome) -> None:
        """Check that these are tables of ``genome``: anyone may have made them.

        Raises:
            InputError: If they are not.
        """
        arrays = (self.votes, self.codes, self.sizes, self.keys)
        shapes = tuple(array.ndim for array in arrays)
        if shapes != (1, 1, 1, 2) or len(self.sizes) != genome.n_neurons:
            raise InputError("tables: they are of another shape than the genome's")
        cells = self.sizes.sum(dtype=np.float64)
        if self.sizes.min() < 1 or cells != len(self.codes):
            raise InputError("tables: they have other cells than the genome's")
        if self.codes.max() >= len(self.votes):
            raise InputError("tables: a code has no vote")
        lists, starts = self.listing(genome), self.key_starts(genome)
        narrow = (genome.neuron_bits[lists] <= TABLE_BITS).any()
        if narrow or self.keys.shape != (starts[-1], 2):
            raise InputError("tables: they have other addresses than the genome's neurons")
        for n in np.flatnonzero(lists):
            low, high = self.keys[starts[n] + 1 : starts[n + 1]].T
            ascending = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))
            if not ascending.all() or self.codes[self.starts[n]] != 0:
                raise InputError(f"tables: addresses of neuron {n} are not distinct and ascending")

    @classmethod
    def joined(cls, neurons: Sequence[NeuronTable], unwritten: int) -> Tables:
        """Return the tables of all neurons.

        Args:
            neurons: In the genome's order.
            unwritten: What a cell votes that no example wrote.
        """
        known = np.unique(np.concatenate([table.values for table in neurons]))
        votes = np.concatenate([[unwritten], known[known != unwritten]]).astype(np.int64)
        ascending = np.argsort(votes)
        sizes = np.array([len(table.places) for table in neurons], np.int64)
        codes = np.empty(sizes.sum(), np.uint8 if len(votes) <= 256 else np.uint16)
        first = 0
        for table in neurons:
            own = ascending[np.searchsorted(votes, table.values, sorter=ascending)]
            codes[first : first + len(table.places)] = own.astype(codes.dtype)[table.places]
            first += len(table.places)
        keys = [np.zeros((0, 2), np.uint64), *(t.keys for t in neurons if t.keys is not None)]
        return cls(votes, codes, sizes, np.concatenate(keys))


def plain_table(
    evaluator: Evaluator, genome: Genome, reading: Reading, neuron: int
) -> NeuronTable:
    """Return a neuron's trained table, with NumPy alone: the definition.

    Args:
        evaluator: Knows the task and the memory.
        genome: Fits the task.
        reading: Which training examples write.
        neuron: Which of the genome's.
    """
    cluster = int(genome.neuron_cluster[neuron])
    observed = genome.connections[genome.offsets[neuron] : genome.offsets[neuron + 1]]
    n_trained, rate = reading.n_trained, evaluator.memory.sample_rate
    bits = unpack_bits(evaluator.task.train.inputs[:n_trained], evaluator.task.n_inputs)
    bits = bits[:, observed]
    kept = np.ones(n_trained, bool)
    trained_on = evaluator.trained_on(reading, cluster)
    if trained_on is not None:
        kept = np.isin(np.arange(n_trained), trained_on)
    if rate < 1:
        key = sample_keys(genome.neuron_hashes[neuron : neuron + 1], evaluator.memory.sample_seed)
        kept = sampled(key[0], n_trained, rate)
    keys = None
    if keeps_table(len(observed), n_trained):
        addresses, n_cells = _addresses(bits), 1 << len(observed)
    else:
        numbers, firsts, addresses = np.unique(
            number_cells(bits), return_index=True, return_inverse=True
        )
        addresses, n_cells = addresses.ravel() + 1, len(numbers) + 1
        keys = np.concatenate([np.zeros((1, 2), np.uint64), _wide_addresses(bits[firsts])])
    votes = neuron_votes(
        evaluator.cells.of_cluster(cluster), addresses,
        evaluator.trained_positives(reading, cluster), kept, np.arange(n_cells), None,
    )  # fmt: skip
    return NeuronTable.of_votes(votes, keys)


def plain_sums(
    tables: Tables, genome: Genome, n_inputs: int, clusters: range, inputs: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Return the summed votes of some clusters, with NumPy alone: the definition.

    Args:
        tables: Trained.
        genome: What they were trained for.
        n_inputs: ``B``.
        clusters: Which; consecutive.
        inputs: Packed, ``uint64[E, words]``.

    Returns:
        ``int64[len(clusters), E]``.
    """
    bits = unpack_bits(inputs, n_inputs)
    sums = np.zeros((len(clusters), len(inputs)), np.int64)
    lists, key_starts = tables.listing(genome), tables.key_starts(genome)
    neurons = range(
        int(genome.cluster_starts[clusters.start]), int(genome.cluster_starts[clusters.stop])
    )
    for n in neurons:
        observed = genome.connections[genome.offsets[n] : genome.offsets[n + 1]]
        if lists[n]:
            rows = tables.keys[key_starts[n] + 1 : key_starts[n + 1]]
            listed = unpack_bits(rows, len(observed))
            numbers = number_cells(np.concatenate([listed, bits[:, observed]]))
            row_of = np.zeros(numbers.max(initial=0) + 1, np.int64)  # row 0: not listed
            row_of[numbers[: len(rows)]] = np.arange(1, len(rows) + 1)
            cells = row_of[numbers[len(rows) :]]
        else:
            cells = _addresses(bits[:, observed])
        codes = tables.codes[tables.starts[n] + cells]
        sums[int(genome.neuron_cluster[n]) - clusters.start] += tables.votes[codes]
    return sums


def unwritten_vote(evaluator: Evaluator) -> int:
    """Return what a cell votes that no example wrote."""
    nothing = np.zeros(0, np.int64)
    none = (nothing, np.zeros(0, np.uint8), np.zeros(0, bool))
    return int(neuron_votes(evaluator.cells.of_cluster(0), *none, np.zeros(1, np.int64), None)[0])


def _addresses(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the addresses that ``uint8[E, bits]`` make, the first bit least significant."""
    return bits.astype(np.int64) @ (1 << np.arange(bits.shape[1], dtype=np.int64))


def _wide_addresses(bits: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the low and the high 64 bits of the same, ``uint64[E, 2]``."""
    padded = np.zeros((len(bits), 128), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return pack_bits(padded)
