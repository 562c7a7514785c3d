"""Blocks of the ``tokens`` head on the ``cpu`` backend: votes never leave the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cpu_kernels import KINDS
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.token_kernels import add_votes_of_block
from optuna_wnn.evaluators.token_kernels import count_all
from optuna_wnn.evaluators.token_kernels import count_listed
from optuna_wnn.evaluators.token_kernels import exponents
from optuna_wnn.evaluators.token_kernels import masks_of_block
from optuna_wnn.evaluators.token_kernels import votes_of_block
from optuna_wnn.evaluators.tokens import BLOCK
from optuna_wnn.evaluators.tokens import RUN
from optuna_wnn.evaluators.tokens import BlockTerms
from optuna_wnn.evaluators.tokens import token_cluster
from optuna_wnn.genome import Genome


if TYPE_CHECKING:
    from optuna_wnn.evaluators.cpu import CpuEvaluator


NARROW_BITS: Final = 12  # up to here a block's tables of votes are worth keeping side by side


class TokenBlocks:
    """Computes blocks of one reading; any number of threads may call it at once.

    Clusters of up to ``NARROW_BITS`` bits whose cells count go side by side; the votes of others
    come from the evaluator, one cluster after the other.
    """

    def __init__(self, evaluator: CpuEvaluator, reading: Reading) -> None:
        self._evaluator = evaluator
        self._reading = reading
        task = evaluator.task
        self._side_by_side = (
            evaluator.use_pext
            and evaluator.cells.counting
            and evaluator.memory.sample_rate == 1
            and reading.blocks is None
            and reading.n_trained == len(task.train)
            and task.train.inputs.shape[1] == 1
        )
        self._positive = evaluator.positives_by_token("train", task.train.targets)
        self._read_positive = evaluator.positives_by_token(reading.name, reading.examples.targets)

    def terms(self, genome: Genome, temperature: float, first: int) -> BlockTerms:
        """Return what the clusters from ``first`` on add to the softmax.

        Args:
            genome: Its neurons in the order of their hashes within each cluster.
            first: The first cluster.
            temperature: What outputs are divided by.
        """
        cells, reading = self._evaluator.cells, self._reading
        last = min(first + BLOCK, genome.n_clusters)
        neurons, n_examples = genome.neurons[first:last], len(reading.examples)
        starts = genome.cluster_starts[first : last + 1] - genome.cluster_starts[first]
        scores = np.zeros((int(starts[-1]), 2), np.int64)
        narrow = self._side_by_side & (genome.bits[first:last] <= NARROW_BITS)
        known: list[tuple[int, NDArray[np.int64]]] = []
        for k in np.flatnonzero(~narrow).tolist():
            votes = self._evaluator.votes_here([token_cluster(genome, first + k)], reading)[0]
            known.append((k, votes.sums))
            scores[starts[k] : starts[k + 1]] = votes.scores
        chosen = np.flatnonzero(np.repeat(narrow, neurons))
        masks, ballots, own_scores = self._tables(genome, first, last, chosen)
        own_starts = np.concatenate([[0], np.cumsum(np.where(narrow, neurons, 0))])
        read = reading.examples.inputs[:, 0]
        mine, places = self._read_positive.among(first, last)
        of_target = np.empty(len(mine))
        cuts = np.searchsorted(mine, np.arange(0, n_examples + RUN, RUN))
        top, mass = np.empty(n_examples), np.empty(n_examples)
        tied = np.empty(n_examples, np.int32)
        divisors = neurons * float(cells.scale)
        sums_room = np.empty(len(neurons) * RUN, np.int64)
        room = np.empty(len(neurons) * RUN)
        for i, start in enumerate(range(0, n_examples, RUN)):
            run, own = slice(start, start + RUN), slice(cuts[i], cuts[i + 1])
            shape = last - first, min(RUN, n_examples - start)
            sums = sums_room[: shape[0] * shape[1]].reshape(shape)
            sums[:] = 0
            for place, its_sums in known:
                sums[place] = its_sums[run]
            add_votes_of_block(read[run], masks, own_starts, ballots, sums, own_scores)
            outputs = room[: sums.size].reshape(shape)
            exponents(
                sums, cells.packed, divisors, 1 / temperature, outputs, top[run], tied[run],
                mine[own] - start, places[own], of_target[own],
            )  # fmt: skip
            np.exp(outputs, out=outputs).sum(axis=0, out=mass[run])
        own_scores[:, 0] -= own_scores[:, 1]
        scores[chosen] = own_scores
        return BlockTerms(top, mass, tied, of_target, scores)

    def _tables(
        self, genome: Genome, first: int, last: int, chosen: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
        """Return masks and votes by cell of some neurons, and their votes on positive examples.

        Args:
            genome: See :meth:`terms`.
            first: The first cluster.
            last: One past the last one.
            chosen: The neurons, counted from the first one of the first cluster.
        """
        evaluator, cells = self._evaluator, self._evaluator.cells
        scores = np.zeros((len(chosen), 2), np.int64)
        if not len(chosen):
            return np.zeros(0, np.uint64), np.zeros((0, 1), np.int64), scores
        begin, end = genome.cluster_starts[first], genome.cluster_starts[last]
        offsets = genome.offsets[begin : end + 1]
        masks = masks_of_block(genome.connections, offsets)[chosen]
        clusters = genome.neuron_cluster[begin:end][chosen].astype(np.int64) - first
        bits = np.diff(offsets)[chosen]
        n_cells = 1 << int(bits.max())
        counts = np.empty((-(-len(chosen) // 4) * 4, n_cells), np.uint32)
        train, read = evaluator.task.train.inputs[:, 0], self._reading.examples.inputs[:, 0]
        trained_on = [evaluator.trained_on(self._reading, k) for k in range(first, last)]
        lists = [examples for examples in trained_on if examples is not None]
        if lists:
            starts = np.concatenate([[0], np.cumsum([len(examples) for examples in lists])])
            count_listed(train, masks, clusters, np.concatenate(lists), starts, counts)
        else:
            count_all(train, masks, counts)
        ballots = np.empty((len(chosen), n_cells), np.int64)
        votes_of_block(
            train, read, masks, bits, clusters, *self._positive.of_each(first, last),
            *self._read_positive.of_each(first, last), counts, KINDS[cells.kind], cells.votes,
            cells.table, np.uint64(cells.n_levels), ballots, scores,
        )  # fmt: skip
        return masks, ballots, scores
