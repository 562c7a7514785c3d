"""Trained tables, compiled: written and read as the ``cpu`` backend writes and reads cells."""

from __future__ import annotations

from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cells import sample_keys
from optuna_wnn.evaluators.cells import sample_threshold
from optuna_wnn.evaluators.cpu import CpuEvaluator
from optuna_wnn.evaluators.cpu_kernels import KINDS
from optuna_wnn.evaluators.cpu_kernels import RUN
from optuna_wnn.evaluators.cpu_kernels import TRANSITIONS
from optuna_wnn.evaluators.cpu_kernels import mix
from optuna_wnn.evaluators.cpu_kernels import number_addresses
from optuna_wnn.evaluators.cpu_kernels import plan_address
from optuna_wnn.evaluators.cpu_kernels import votes_of_cells
from optuna_wnn.evaluators.cpu_kernels import write_cells
from optuna_wnn.evaluators.general import locate
from optuna_wnn.evaluators.jit import HAS_PEXT
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.jit import pext
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.tables import NeuronTable
from optuna_wnn.evaluators.tables import Tables
from optuna_wnn.evaluators.tables import keeps_table
from optuna_wnn.genome import Genome


U = np.uint64
MOST_DECODED: Final = 1 << 12  # cells of a neuron; four such tables of votes stay in the cache


def slots_for(n_rows: int) -> int:
    """Return how many slots find ``n_rows`` addresses: a power of two, half of them free."""
    return 1 << max(4, (2 * n_rows - 1).bit_length())


@compiled
def _train(
    observed: Any, key: Any, threshold: Any, train: Any, positives: Any, kind: int, down: Any,
    up: Any, use_pext: bool, cells: Any, slots: Any, known: Any,
) -> int:  # fmt: skip
    """Train one neuron; return how many addresses are known where they are listed."""
    n_bits = len(observed)
    n_steps = np.zeros(2, np.int64)
    steps = np.empty((2, min(n_bits, 64), 3), np.uint64)
    luts = np.empty((2, 0 if use_pext else min(n_bits, 64), 256), np.uint64)
    addresses = np.empty((2, RUN), np.uint64)
    n_steps[0] = plan_address(observed, 0, min(n_bits, 64), use_pext, steps[0], luts[0])
    n_steps[1] = plan_address(observed, 64, n_bits, use_pext, steps[1], luts[1])
    mixed, n_known = mix(key), 0
    for first in range(0, len(train), RUN):
        count = min(RUN, len(train) - first)
        n_known = locate(
            train, first, count, use_pext, n_steps, steps, luts, addresses, slots, known,
            n_known, True,
        )  # fmt: skip
        write_cells(
            cells, addresses[0], first, count, positives, kind, down, up, mixed, threshold, U(1)
        )
    return n_known


def compiled_table(
    evaluator: CpuEvaluator, genome: Genome, reading: Reading, neuron: int
) -> NeuronTable:
    """Return what :func:`~optuna_wnn.evaluators.tables.plain_table` does."""
    cluster, memory = int(genome.neuron_cluster[neuron]), evaluator.memory
    cells = evaluator.cells.of_cluster(cluster)
    observed = genome.connections[genome.offsets[neuron] : genome.offsets[neuron + 1]]
    train = evaluator.by_word("train", evaluator.task.train.inputs[: reading.n_trained])
    positives = evaluator.trained_positives(reading, cluster)
    trained_on = evaluator.trained_on(reading, cluster)
    if trained_on is not None:
        train, positives = train[trained_on], positives[trained_on]
    table = keeps_table(len(observed), reading.n_trained)
    start, down, up = TRANSITIONS.get(cells.kind, (0, 0, 0))
    counts = np.full(1 << len(observed) if table else len(train) + 1, start, np.uint64)
    slots = np.zeros(0 if table else slots_for(len(train)), np.int32)
    known = np.zeros((0 if table else len(train) + 1, 2), np.uint64)
    key = sample_keys(genome.neuron_hashes[neuron : neuron + 1], memory.sample_seed)[0]
    threshold = sample_threshold(memory.sample_rate) if memory.sample_rate < 1 else 0
    n_known = _train(
        observed, key, U(threshold), train, positives, KINDS[cells.kind], U(down), U(up),
        evaluator.use_pext, counts, slots, known,
    )  # fmt: skip
    if not table:
        counts = counts[: n_known + 1]
    votes = np.empty(len(counts), np.int64)
    votes_of_cells(
        counts, len(counts), KINDS[cells.kind], cells.votes, cells.table, U(cells.n_levels), votes
    )
    return NeuronTable.of_votes(votes, None if table else known[: n_known + 1])


@compiled
def _fill_slots(keys: Any, slots: Any, numbered: Any) -> int:
    """Let slots find a neuron's rows of keys; return how many are distinct.

    Args:
        keys: ``uint64[rows, 2]``; row 0 is no address.
        slots: Zeros; filled.
        numbered: Of the shape of ``keys``; used up.
    """
    n_known = 0
    low, high = np.empty(1, np.uint64), np.empty(1, np.uint64)
    for row in range(1, len(keys)):
        low[0], high[0] = keys[row, 0], keys[row, 1]
        n_known = number_addresses(low, high, 1, slots, numbered, n_known, True)
    return n_known


@compiled
def _read(
    neurons: Any, clusters: Any, connections: Any, offsets: Any, inputs: Any, codes: Any,
    starts: Any, votes: Any, keys: Any, key_starts: Any, slots: Any, slot_starts: Any,
    use_pext: bool, sums: Any,
) -> None:  # fmt: skip
    """Add what neurons vote to the sums of their clusters, one neuron at a time."""
    n_steps = np.zeros(2, np.int64)
    steps = np.empty((2, 64, 3), np.uint64)
    luts = np.empty((2, 0 if use_pext else 64, 256), np.uint64)
    addresses = np.empty((2, RUN), np.uint64)
    for n in neurons:
        observed = connections[offsets[n] : offsets[n + 1]]
        n_bits = len(observed)
        n_steps[0] = plan_address(observed, 0, min(n_bits, 64), use_pext, steps[0], luts[0])
        n_steps[1] = plan_address(observed, 64, n_bits, use_pext, steps[1], luts[1])
        own = codes[starts[n] : starts[n + 1]]
        own_keys = keys[key_starts[n] : key_starts[n + 1]]
        own_slots = slots[slot_starts[n] : slot_starts[n + 1]]
        for first in range(0, len(inputs), RUN):
            count = min(RUN, len(inputs) - first)
            locate(
                inputs, first, count, use_pext, n_steps, steps, luts, addresses, own_slots,
                own_keys, len(own_keys), False,
            )  # fmt: skip
            here, found = sums[clusters[n], first : first + count], addresses[0, :count]
            for i in range(len(found)):
                here[i] += votes[own[found[i]]]


@compiled
def _read_word(
    first: int, last: int, cluster: int, connections: Any, offsets: Any, words: Any, codes: Any,
    starts: Any, votes: Any, sums: Any,
) -> None:  # fmt: skip
    """Do the same for a cluster that keeps tables, inputs of one word, four neurons abreast."""
    masks = np.zeros(4, np.uint64)
    here = sums[cluster]
    # Small tables are decoded first, where enough examples follow: one look-up less for each.
    n_cells = starts[first + 1] - starts[first]
    decoded = np.zeros((4, n_cells if n_cells <= min(MOST_DECODED, len(words)) else 0), np.int64)
    for n in range(first, last, 4):
        abreast = min(4, last - n)
        for i in range(abreast):
            masks[i] = U(0)
            for input_ in connections[offsets[n + i] : offsets[n + i + 1]]:
                masks[i] |= U(1) << U(input_)
            own, table = codes[starts[n + i] : starts[n + i + 1]], decoded[i]
            for a in range(len(table)):
                table[a] = votes[own[a]]
        m0, m1, m2, m3 = masks[0], masks[1], masks[2], masks[3]
        if abreast < 4:
            for i in range(abreast):
                own, mask = codes[starts[n + i] : starts[n + i + 1]], masks[i]
                for e in range(len(words)):
                    here[e] += votes[own[pext(words[e], mask)]]
        elif decoded.shape[1]:
            d0, d1, d2, d3 = decoded[0], decoded[1], decoded[2], decoded[3]
            for e in range(len(words)):
                x = words[e]
                here[e] += d0[pext(x, m0)] + d1[pext(x, m1)] + d2[pext(x, m2)] + d3[pext(x, m3)]
        else:
            c0, c1 = codes[starts[n] : starts[n + 1]], codes[starts[n + 1] : starts[n + 2]]
            c2, c3 = codes[starts[n + 2] : starts[n + 3]], codes[starts[n + 3] : starts[n + 4]]
            for e in range(len(words)):
                x = words[e]
                here[e] += (
                    votes[c0[pext(x, m0)]] + votes[c1[pext(x, m1)]]
                    + votes[c2[pext(x, m2)]] + votes[c3[pext(x, m3)]]
                )  # fmt: skip


class TableReader:
    """Reads trained tables with compiled code; threads may use it side by side.

    Args:
        tables: Trained.
        genome: What they were trained for.
        use_pext: How addresses are found.
    """

    def __init__(self, tables: Tables, genome: Genome, use_pext: bool = HAS_PEXT) -> None:
        self.tables, self.genome, self.use_pext = tables, genome, use_pext
        self._lists = tables.listing(genome)
        self._key_starts = tables.key_starts(genome)
        n_slots = np.zeros(genome.n_neurons, np.int64)
        for n in np.flatnonzero(self._lists):
            n_slots[n] = slots_for(int(tables.sizes[n]))
        self._slot_starts = np.concatenate([[0], np.cumsum(n_slots)])
        self._slots = np.zeros(self._slot_starts[-1], np.int32)
        for n in np.flatnonzero(self._lists):
            keys = tables.keys[self._key_starts[n] : self._key_starts[n + 1]]
            own = self._slots[self._slot_starts[n] : self._slot_starts[n + 1]]
            _fill_slots(keys, own, np.zeros_like(keys))

    def sums(self, clusters: range, inputs: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return what :func:`~optuna_wnn.evaluators.tables.plain_sums` does."""
        genome, tables = self.genome, self.tables
        sums = np.zeros((len(clusters), len(inputs)), np.int64)
        first = int(genome.cluster_starts[clusters.start])
        last = int(genome.cluster_starts[clusters.stop])
        if self.use_pext and inputs.shape[1] == 1 and not self._lists[first:last].any():
            words = np.ascontiguousarray(inputs[:, 0])
            for k in clusters:
                _read_word(
                    int(genome.cluster_starts[k]), int(genome.cluster_starts[k + 1]),
                    k - clusters.start, genome.connections, genome.offsets, words, tables.codes,
                    tables.starts, tables.votes, sums,
                )  # fmt: skip
            return sums
        _read(
            np.arange(first, last), genome.neuron_cluster - clusters.start, genome.connections,
            genome.offsets, np.asfortranarray(inputs), tables.codes, tables.starts, tables.votes,
            tables.keys, self._key_starts, self._slots, self._slot_starts, self.use_pext, sums,
        )  # fmt: skip
        return sums
