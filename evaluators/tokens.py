"""The ``tokens`` head: a cluster per token of a large vocabulary, some clusters at a time.

The softmax over all clusters is made of parts over ``BLOCK`` clusters each, merged in their
order: nothing of the size of examples times vocabulary is ever there, and the result depends
neither on threads nor on what was known before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from threading import Event
from typing import TYPE_CHECKING
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators.cells import Cells
from optuna_wnn.evaluators.heads import HeadResult
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings


if TYPE_CHECKING:
    from optuna_wnn.evaluators.base import Evaluator


BLOCK: Final = 64  # clusters whose softmax is one part
RUN: Final = 1024  # examples at a time, so that what is computed stays in the cache
_AT_ONCE: Final = 32  # blocks per thread between two looks at the results


def check_tokens(memory: MemorySettings) -> None:
    """Check that the head can go with some settings.

    Raises:
        InputError: If it cannot.
    """
    if memory.temperature == "fit":
        raise InputError("memory.temperature: the tokens head cannot fit it; give a number")
    if memory.negatives is not None and (
        memory.sample_rate < 1 or memory.fitness_on != "validation"
    ):
        raise InputError(
            "memory.negatives: it goes with sample_rate: 1 and fitness_on: validation only"
        )


class TokenPositives:
    """Which examples have which token for a target.

    Args:
        targets: ``int64[E]``.
        n_clusters: How many tokens there are.
    """

    def __init__(self, targets: NDArray[np.int64], n_clusters: int) -> None:
        self._targets = targets
        self._order = np.argsort(targets, kind="stable")
        counts = np.bincount(targets, minlength=n_clusters)
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def examples(self, cluster: int) -> NDArray[np.int64]:
        """Return the examples of a token, ascending."""
        return self._order[self._starts[cluster] : self._starts[cluster + 1]]

    def of_each(self, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the examples of tokens, one token after the other, and where each's begin."""
        starts = self._starts[first : last + 1]
        return self._order[starts[0] : starts[-1]], starts - starts[0]

    def among(self, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the examples of tokens, ascending, and each one's token from ``first`` on."""
        examples = np.sort(self.of_each(first, last)[0])
        return examples, self._targets[examples] - first

    def __getitem__(self, cluster: int) -> NDArray[np.uint8]:
        """Return for every example whether it is one of them, ``uint8[E]``."""
        flags = np.zeros(len(self._targets), np.uint8)
        flags[self.examples(cluster)] = 1
        return flags


@dataclass(frozen=True, eq=False)
class BlockTerms:
    """What some consecutive clusters add to the softmax, per example read.

    Attributes:
        top: Their highest output, ``float64[E]``.
        mass: The sum of ``exp((output - top) / temperature)``, ``float64[E]``.
        tied: How many outputs are the highest, ``int32[E]``.
        of_target: The target's output, of the examples whose target is among these clusters.
        scores: See :class:`ClusterVotes`; of all neurons, ``int64[n, 2]``.
    """

    top: NDArray[np.float64]
    mass: NDArray[np.float64]
    tied: NDArray[np.int32]
    of_target: NDArray[np.float64]
    scores: NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        arrays = (self.top, self.mass, self.tied, self.of_target, self.scores)
        return sum(array.nbytes for array in arrays)


def block_terms(
    votes: list[ClusterVotes],
    cells: Cells,
    neurons: NDArray[np.int32],
    first: int,
    targets: NDArray[np.int64],
    temperature: float,
) -> BlockTerms:
    """Return what the clusters from ``first`` on add to the softmax.

    Args:
        votes: Of these clusters.
        cells: What votes mean.
        neurons: Neurons per cluster.
        first: The first of them.
        targets: Of the examples read, ``int64[E]``.
        temperature: What outputs are divided by.
    """
    n_examples = len(targets)
    top, mass = np.empty(n_examples), np.empty(n_examples)
    tied, of_target = np.empty(n_examples, np.int32), []
    for start in range(0, n_examples, RUN):
        run = slice(start, start + RUN)
        outputs = cells.outputs(np.stack([v.sums[run] for v in votes]), neurons)
        place = targets[run] - first
        mine = np.flatnonzero((place >= 0) & (place < len(votes)))
        of_target.append(outputs[place[mine], mine])
        top[run] = outputs.max(axis=0)
        tied[run] = (outputs == top[run]).sum(axis=0)
        outputs -= top[run]
        outputs *= 1 / temperature
        mass[run] = np.exp(outputs, out=outputs).sum(axis=0)
    scores = np.concatenate([v.scores for v in votes])
    return BlockTerms(top, mass, tied, np.concatenate(of_target), scores)


class Softmax:
    """The softmax over all clusters, of as many as were added; in their order.

    Args:
        targets: Of the examples read, ``int64[E]``.
        positives: The same by token.
        temperature: What outputs are divided by.
    """

    def __init__(
        self, targets: NDArray[np.int64], positives: TokenPositives, temperature: float
    ) -> None:
        n_examples = len(targets)
        self._positives = positives
        self._sharpness = 1 / temperature
        self._top = np.full(n_examples, -np.inf)
        self._mass = np.zeros(n_examples)
        self._tied = np.zeros(n_examples, np.int64)
        self._of_target = np.full(n_examples, -np.inf)

    def add_targets(self, terms: BlockTerms, first: int, last: int) -> None:
        """Add what the clusters from ``first`` to ``last`` put out where they are the target."""
        self._of_target[self._positives.among(first, last)[0]] = terms.of_target

    def add_all(self, blocks: Sequence[BlockTerms], run: slice) -> None:
        """Add blocks that follow those before, of some examples; others may go beside."""
        top, mass, tied = self._top[run], self._mass[run], self._tied[run]
        for terms in blocks:
            higher = np.maximum(top, terms.top[run])
            before = np.exp((top - higher) * self._sharpness)
            added = np.exp((terms.top[run] - higher) * self._sharpness)
            mass = mass * before + terms.mass[run] * added
            tied = np.where(top == higher, tied, 0)
            tied += np.where(terms.top[run] == higher, terms.tied[run], 0)
            top = higher
        self._top[run], self._mass[run], self._tied[run] = top, mass, tied

    def result(self) -> HeadResult:
        """Return cross-entropy and accuracy."""
        losses = np.log(self._mass) + (self._top - self._of_target) * self._sharpness
        hits = np.where(self._of_target == self._top, 1 / self._tied, 0.0)
        return HeadResult(float(losses.mean()), float(hits.mean()))


def tokens_results(
    evaluator: Evaluator, genomes: Sequence[Genome], reading: Reading, temperature: float
) -> Iterator[tuple[HeadResult, NDArray[np.int64]]]:
    """Yield every genome's result of the ``tokens`` head, and its neurons' places, best first.

    A block of clusters that was read before with the same temperature is not computed again, and
    one that several genomes have is computed once.
    """
    targets = reading.examples.targets
    positives = evaluator.positives_by_token(reading.name, targets)
    size = -(-len(targets) // evaluator.threads // RUN) * RUN
    runs = [slice(start, start + size) for start in range(0, len(targets), size)]
    # Neurons in an order that depends on content alone.
    orders = [np.lexsort((genome.neuron_hashes, genome.neuron_cluster)) for genome in genomes]
    ordered = [genome.reordered(order) for genome, order in zip(genomes, orders, strict=True)]
    waves = groupby(_waves(evaluator, ordered, reading, temperature), lambda wave: wave[0])
    for genome, order, (_, its_waves) in zip(genomes, orders, waves, strict=True):
        softmax, scores = Softmax(targets, positives, temperature), []
        for _, first, blocks in its_waves:
            for i, terms in enumerate(blocks):
                start = first + i * BLOCK
                softmax.add_targets(terms, start, min(start + BLOCK, genome.n_clusters))
                scores.append(terms.scores)
            evaluator.in_threads(softmax.add_all, [(blocks, run) for run in runs], Event())
        by_neuron = np.empty(genome.n_neurons)
        n_positive = np.bincount(targets, minlength=genome.n_clusters)[genome.neuron_cluster]
        negative, positive = evaluator.cells.ranking_votes(np.concatenate(scores)).T
        mean = positive / np.maximum(n_positive, 1)
        mean -= negative / np.maximum(len(targets) - n_positive, 1)
        by_neuron[order] = mean
        places = np.lexsort((genome.neuron_hashes, -by_neuron, genome.neuron_cluster))
        yield softmax.result(), places.astype(np.int64)


def _waves(
    evaluator: Evaluator, genomes: Sequence[Genome], reading: Reading, temperature: float
) -> Iterator[tuple[int, int, list[BlockTerms]]]:
    """Yield some consecutive blocks at a time: whose they are, their first cluster, their terms.

    Blocks are computed many at a time, also of several genomes.
    """
    blocks = [
        (number, first)
        for number, genome in enumerate(genomes)
        for first in range(0, genome.n_clusters, BLOCK)
    ]
    step = evaluator.threads * _AT_ONCE
    for start in range(0, len(blocks), step):
        wave = blocks[start : start + step]
        keys = [_key(genomes[number], first, reading, temperature) for number, first in wave]
        known: dict[Hashable, BlockTerms] = {}
        missing: dict[Hashable, tuple[Genome, int]] = {}
        for key, (number, first) in zip(keys, wave, strict=True):
            terms = evaluator.cache.get(key)
            if terms is not None:
                known[key] = terms
            else:
                missing[key] = genomes[number], first
        computed = evaluator.token_blocks(list(missing.values()), reading, temperature)
        for key, terms in zip(missing, computed, strict=True):
            known[key] = terms
            evaluator.cache.put(key, terms)
        named = zip(wave, keys, strict=True)
        for number, its in groupby(named, lambda block: block[0][0]):
            found = list(its)
            yield number, found[0][0][1], [known[key] for _, key in found]


def clusters_of_block(genome: Genome, first: int) -> list[Cluster]:
    """Return the clusters of the block that begins with ``first``."""
    last = min(first + BLOCK, genome.n_clusters)
    return [token_cluster(genome, k) for k in range(first, last)]


def terms_of_votes(
    evaluator: Evaluator,
    genome: Genome,
    first: int,
    reading: Reading,
    temperature: float,
    votes: list[ClusterVotes],
) -> BlockTerms:
    """Return what a block adds to the softmax, from the votes of its clusters."""
    neurons = genome.neurons[first : first + len(votes)]
    return block_terms(
        votes, evaluator.cells, neurons, first, reading.examples.targets, temperature
    )


def _key(genome: Genome, first: int, reading: Reading, temperature: float) -> Hashable:
    """Return what distinguishes a block from blocks that compute something else."""
    run = slice(first, first + BLOCK)
    starts = (
        genome.cluster_starts[run.start],
        genome.cluster_starts[min(run.stop, genome.n_clusters)],
    )
    connections = genome.connections[genome.offsets[starts[0]] : genome.offsets[starts[1]]]
    digest = hashlib.blake2b(digest_size=32)
    for array in (genome.neurons[run], genome.bits[run], connections):
        digest.update(array.tobytes())
    return "tokens", reading.name, first, temperature, digest.digest()


def token_cluster(genome: Genome, k: int) -> Cluster:
    """Return a cluster whose neurons are in the order of their hashes already."""
    first, last = genome.cluster_starts[k], genome.cluster_starts[k + 1]
    order = np.arange(last - first)
    return Cluster(k, genome.cluster(k), genome.neuron_hashes[first:last], order)
