"""The ``chained_bits`` head: each bit of the target's code predicted after those before it.

The probability of a code is the product of those of its bits, each given the bits before it. The
most significant bit comes first, so the bits before one tell whether both of its values lead to
codes of the vocabulary. Where only one does (it is 0 then), the bit is *decided*: it has
probability 1 and costs nothing. So probabilities sum to one over the vocabulary, exactly.

The cross-entropy needs the votes at the target's own bits only, which are part of the inputs. The
accuracy needs those at other codes' as well: an exact search asks for them, level by level.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator
from collections.abc import Hashable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Final
from typing import NamedTuple
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators.cells import sample_keys
from optuna_wnn.evaluators.cells import sampled
from optuna_wnn.evaluators.heads import HeadResult
from optuna_wnn.evaluators.heads import bit_log_odds
from optuna_wnn.evaluators.heads import softplus
from optuna_wnn.evaluators.plain import neuron_votes
from optuna_wnn.evaluators.plain import number_cells
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.evaluators.votes import OutputClusters
from optuna_wnn.evaluators.votes import outputs_of
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.base import unpack_bits


if TYPE_CHECKING:
    from optuna_wnn.evaluators.base import Evaluator


T = TypeVar("T")

_COST_SCALE: Final = 2.0**32  # of a nat: costs are integers, so sums and ties are exact
_SLACK: Final = 1 << 16  # of a cost: more than what rounding can add up to
# Prefixes of an example that are followed at first: where codes are short, so many that a second
# turn, which trains all clusters again, is hardly ever needed; else only the most probable one.
_FIRST_WIDTHS: Final = (16, 1)
_SHORT: Final = 8  # bits
_WIDENING: Final = 64  # how many times more are followed where those are not enough
_MOST_AT_ONCE: Final = 1 << 22  # prefixes that are followed at a time, of all examples together


def check_chained(task: Task) -> None:
    """Check that the inputs of a ``chained_bits`` task end with the target's bits.

    Raises:
        InputError: If they do not.
    """
    n_bits = task.n_head_outputs
    first = task.n_inputs - (n_bits - 1)
    for examples in (task.train, task.validation, task.test):
        code = examples.targets >> 1
        for position in range(n_bits - 1, 0, -1) if first > 0 else ():
            word, bit = divmod(first + position - 1, 64)
            written = (examples.inputs[:, word] >> np.uint64(bit)) & np.uint64(1)
            if ((code & 1) != written.astype(np.int64)).any():
                first = 0
            code >>= 1
    if first < 1:
        raise InputError(
            f"task {task.name}: its last {n_bits - 1} inputs are not the first bits of its "
            "targets; make it with tasks.base.chained"
        )


def decided(
    prefixes: NDArray[np.int64], n_bits: int, n_outputs: int, bit: int
) -> NDArray[np.bool_]:
    """Return whether a bit can only be 0 after the bits before it.

    Args:
        prefixes: Those bits, most significant first, as numbers below ``2**bit``.
        n_bits: Bits of a code.
        n_outputs: Codes are below this.
        bit: Which bit.
    """
    lowest_with_one = (2 * prefixes + 1) << (n_bits - 1 - bit)
    is_decided: NDArray[np.bool_] = lowest_with_one >= n_outputs
    return is_decided


def decided_bits(task: Task, targets: NDArray[np.int64], bit: int) -> NDArray[np.bool_] | None:
    """Return for which targets a bit costs nothing; ``None`` if for none."""
    n_bits = task.n_head_outputs
    if task.head != "chained_bits" or task.n_outputs == 1 << n_bits:
        return None
    prefixes = targets >> (n_bits - bit)
    found = decided(prefixes, n_bits, task.n_outputs, bit)
    return found if found.any() else None


@dataclass(frozen=True, eq=False)
class ChainTerms:
    """What one bit adds to the head, per example; it depends on its own clusters alone.

    Attributes:
        losses: Its loss after the target's bits before it, ``float64[E]``.
        loss: Their sum.
        right: Cost of the target's side, in units of 2**-32 nats, ``int64[E]``.
        wrong: Cost of the other side; where there is none, more than anything costs.
    """

    losses: NDArray[np.float64]
    loss: float
    right: NDArray[np.int64]
    wrong: NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        return self.losses.nbytes + self.right.nbytes + self.wrong.nbytes


def chain_terms(
    log_odds: NDArray[np.float64],
    is_one: NDArray[np.bool_],
    free_of_cost: NDArray[np.bool_] | None,
) -> ChainTerms:
    """Return what a bit adds to the result.

    Args:
        log_odds: Of being 1, ``float64[E]``, clamped.
        is_one: Whether it is 1 in the target, ``bool[E]``.
        free_of_cost: Where it is decided; ``None`` for nowhere.
    """
    towards = np.where(is_one, log_odds, -log_odds)
    losses, others = softplus(-towards), softplus(towards)
    right, wrong = _costs(losses), _costs(others)
    if free_of_cost is not None:
        losses[free_of_cost] = 0.0
        right[free_of_cost] = 0
        wrong[free_of_cost] = np.iinfo(np.int64).max
    return ChainTerms(losses, float(losses.sum()), right, wrong)


def _costs(losses: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(losses * _COST_SCALE).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Chain:
    """The bits of a genome, and what each of them adds.

    Attributes:
        bits: Their clusters.
        terms: See :class:`ChainTerms`.
    """

    bits: Sequence[OutputClusters]
    terms: Sequence[ChainTerms]

    @property
    def key(self) -> Hashable:
        """What distinguishes it from genomes that compute something else."""
        return tuple(bit.key for bit in self.bits)

    @property
    def nbytes(self) -> int:
        """The memory that the terms take."""
        return sum(term.nbytes for term in self.terms)

    def result(self, hits: NDArray[np.float64]) -> HeadResult:
        """Return the result of the head, given how much each example counts as hit."""
        losses = self.terms[0].losses.copy()
        for term in self.terms[1:]:
            losses += term.losses
        bit_losses = np.array([term.loss for term in self.terms]) / len(losses)
        return HeadResult(float(losses.mean()), float(hits.mean()), bit_losses)


def chain_of(
    evaluator: Evaluator,
    clusters: Sequence[Cluster],
    votes: Sequence[ClusterVotes],
    reading: Reading,
) -> Chain:
    """Return what the bits of a genome add; the terms of bits that are known are not computed.

    Args:
        evaluator: Knows what votes mean.
        clusters: All clusters of a genome.
        votes: What they vote.
        reading: Which examples are read.
    """
    per_bit = evaluator.task.clusters_per_output
    bits, terms = outputs_of(clusters, per_bit), []
    for bit in bits:
        key = ("terms", reading.name, bit.key)
        known: ChainTerms | None = evaluator.cache.get(key)
        if known is None:
            first = bit.index * per_bit
            log_odds = _log_odds(evaluator, bit, [v.sums for v in votes[first : first + per_bit]])
            is_one = evaluator.positives(reading, first) == 1
            nothing = decided_bits(evaluator.task, reading.examples.targets, bit.index)
            known = chain_terms(log_odds, is_one, nothing)
            evaluator.cache.put(key, known)
        terms.append(known)
    return Chain(bits, terms)


def greedy_hits(terms: Sequence[ChainTerms]) -> NDArray[np.float64]:
    """Return how often taking the more probable value of each bit leads to the target.

    Between values that are as probable a coin decides, so each example counts ``float64[E]``.
    """
    hits = np.ones(len(terms[0].losses))
    for term in terms:
        hits *= np.where(term.right < term.wrong, 1.0, np.where(term.right > term.wrong, 0.0, 0.5))
    return hits


def _log_odds(
    evaluator: Evaluator, bit: OutputClusters, sums: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Return the log-odds that a bit is 1 from the sums of its clusters' votes."""
    total, n_neurons = evaluator.cells.pooled(sums, bit.neurons)
    outputs = evaluator.cells.outputs(total[None], np.array([n_neurons]))
    return bit_log_odds(outputs[0], evaluator.cells.log_odds)


# -- accuracy ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Frontier:
    """First bits of codes, all equally many, that may still cost no more than the target.

    Attributes:
        rows: The example of each, ``int64[F]``, in any order.
        prefixes: The bits, ``int64[F]``.
        costs: What they cost, ``int64[F]``.
    """

    rows: NDArray[np.int64]
    prefixes: NDArray[np.int64]
    costs: NDArray[np.int64]

    def where(self, kept: NDArray[np.bool_]) -> _Frontier:
        return _Frontier(self.rows[kept], self.prefixes[kept], self.costs[kept])

    @classmethod
    def joined(cls, *parts: _Frontier) -> _Frontier:
        """Return all of them."""
        return cls(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.prefixes for part in parts]),
            np.concatenate([part.costs for part in parts]),
        )

    def beyond(self, width: int) -> NDArray[np.bool_]:
        """Return which are not among the ``width`` cheapest of their example."""
        marks = np.zeros(len(self.rows), bool)
        crowded = np.flatnonzero(np.bincount(self.rows)[self.rows] > width)
        if len(crowded):
            rows = self.rows[crowded]
            order = np.lexsort((self.prefixes[crowded], self.costs[crowded], rows))
            rows = rows[order]
            places = np.arange(len(rows)) - np.searchsorted(rows, rows)
            marks[crowded[order[places >= width]]] = True
        return marks


class Ask(NamedTuple):
    """What a search must know to go on: the votes of a bit's clusters on some inputs."""

    bit: OutputClusters
    queries: Queries


Answer = list[NDArray[np.int64]]
Steps = Generator[Ask, Answer, T]  # of a search: what it asks, is told, and returns


def exact_hits(
    evaluator: Evaluator, chains: Sequence[Chain], reading: Reading
) -> list[NDArray[np.float64]]:
    """Return how often the target is the most probable code, ``float64[E]`` for each genome.

    All searches go on side by side: what they ask next is asked together, and a cluster that
    several genomes have is trained once for that. What is known is not searched again.
    """
    hits: dict[Hashable, NDArray[np.float64]] = {}
    searches: dict[Hashable, Steps[NDArray[np.float64]]] = {}
    for chain in chains:
        known: NDArray[np.float64] | None = evaluator.cache.get(_hits_key(chain, reading))
        if known is not None:
            hits[chain.key] = known
        else:
            searches[chain.key] = _Search(evaluator, chain, reading).hits()
    answers: dict[Hashable, Answer | None] = dict.fromkeys(searches)  # None lets a search begin
    while answers:
        asks: dict[Hashable, Ask] = {}
        for key, answer in answers.items():
            found = _go_on(searches[key], answer)
            if isinstance(found, Ask):
                asks[key] = found
            else:
                hits[key] = found
        answers = dict(zip(asks, _answers(evaluator, list(asks.values()), reading), strict=True))
    for chain in chains:
        evaluator.cache.put(_hits_key(chain, reading), hits[chain.key])
    return [hits[chain.key] for chain in chains]


def _go_on(search: Steps[T], answer: Answer | None) -> Ask | T:
    """Return what a search asks next, or what it has found."""
    try:
        return next(search) if answer is None else search.send(answer)
    except StopIteration as end:
        found: T = end.value
        return found


def _hits_key(chain: Chain, reading: Reading) -> Hashable:
    return "hits", reading.name, chain.key


def _answers(evaluator: Evaluator, asks: Sequence[Ask], reading: Reading) -> list[Answer]:
    """Return what is asked, each cluster being asked once for all."""
    clusters: dict[Hashable, Cluster] = {}
    queries: dict[Hashable, list[Queries]] = defaultdict(list)
    for ask in asks:
        for cluster in ask.bit.clusters:
            clusters[cluster.key] = cluster
            queries[cluster.key].append(ask.queries)
    jobs = [(clusters[key], Queries.joined(its)) for key, its in queries.items()]
    parts: dict[Hashable, Iterator[NDArray[np.int64]]] = {}
    for key, votes in zip(queries, evaluator.query_votes(jobs, reading), strict=True):
        ends = np.cumsum([len(its.rows) for its in queries[key]])
        parts[key] = iter(np.split(votes, ends[:-1]))
    return [[next(parts[cluster.key]) for cluster in ask.bit.clusters] for ask in asks]


class _Search:
    """Decides, for every example, whether any code is more probable than the target's.

    It is branch and bound (Land and Doig, "An automatic method of solving discrete programming
    problems", Econometrica 28(3), 1960) over prefixes, all examples a level at a time. A code
    that is not the target's leaves its path at some bit, and what it costs up to there follows
    from the votes that are known. Two bounds cut the rest: whatever costs more than the target
    is dropped, for bits only add cost; and where a prefix is so probable that the best of the
    codes under it must beat the target, the example is lost. Of each example the cheapest few
    prefixes are followed; only if others had to be left and the target was not beaten, more.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        chain: Chain,
        reading: Reading,
    ) -> None:
        self.evaluator, self.bits, self.reading = evaluator, chain.bits, reading
        self.terms, self.targets = chain.terms, reading.examples.targets
        self.n_bits, self.n_outputs = len(self.terms), evaluator.task.n_outputs
        self.limits = self.terms[0].right.copy()  # what the targets cost
        for term in self.terms[1:]:
            self.limits += term.right

    def hits(self) -> Steps[NDArray[np.float64]]:
        """Return how much each example counts as hit, ``float64[E]``, after some asks."""
        hits = np.zeros(len(self.targets))
        open_, width = np.arange(len(self.targets)), _FIRST_WIDTHS[self.n_bits > _SHORT]
        while len(open_):
            unsure = []
            at_once = max(1, _MOST_AT_ONCE // width)
            for first in range(0, len(open_), at_once):
                examples = open_[first : first + at_once]
                hits[examples], is_sure = yield from self._sweep(examples, width)
                unsure.append(examples[~is_sure])
            open_, width = np.concatenate(unsure), width * _WIDENING
        return hits

    def _sweep(
        self, examples: NDArray[np.int64], width: int
    ) -> Steps[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
        """Follow at most ``width`` prefixes of each example.

        Returns:
            How much each counts as hit, and whether that is sure.
        """
        n_bits, limits = self.n_bits, self.limits
        beaten = np.zeros(len(self.targets), bool)
        left = np.zeros(len(self.targets), bool)
        nothing = np.zeros(0, np.int64)
        frontier = _Frontier(nothing, nothing, nothing)
        before = np.zeros(len(examples), np.int64)  # what the target's bits so far cost
        for bit in range(n_bits):
            grown = yield from self._children(frontier, bit)
            wrong = self.terms[bit].wrong[examples]
            leaves = (wrong <= limits[examples] - before) & ~beaten[examples]
            others = (self.targets[examples] >> (n_bits - 1 - bit)) ^ 1
            leaving = _Frontier(examples[leaves], others[leaves], (before + wrong)[leaves])
            before += self.terms[bit].right[examples]
            frontier = _Frontier.joined(grown, leaving)
            frontier = frontier.where(frontier.costs <= limits[frontier.rows])
            free = (n_bits - 1 - bit) * np.log(2) * _COST_SCALE
            most = frontier.costs + round(free) + (_SLACK if free else 0)
            beaten[frontier.rows[most < limits[frontier.rows]]] = True
            frontier = frontier.where(~beaten[frontier.rows])
            beyond = frontier.beyond(width)
            left[frontier.rows[beyond]] = True
            frontier = frontier.where(~beyond)
        tied = np.bincount(frontier.rows, minlength=len(self.targets))[examples]
        hits = np.where(beaten[examples], 0.0, 1 / (1 + tied))
        return hits, beaten[examples] | ~left[examples]

    def _children(self, frontier: _Frontier, bit: int) -> Steps[_Frontier]:
        """Return the frontier with one more bit, both ways where both lead to codes."""
        if not len(frontier.rows):
            return frontier
        rows, prefixes, costs = frontier.rows, frontier.prefixes, frontier.costs
        nothing = decided(prefixes, self.n_bits, self.n_outputs, bit)
        asked = frontier.where(~nothing)
        log_odds = yield from self._log_odds_after(asked, bit)
        zero, one = _costs(softplus(log_odds)), _costs(softplus(-log_odds))
        return _Frontier.joined(
            _Frontier(rows[nothing], 2 * prefixes[nothing], costs[nothing]),
            _Frontier(asked.rows, 2 * asked.prefixes, asked.costs + zero),
            _Frontier(asked.rows, 2 * asked.prefixes + 1, asked.costs + one),
        )

    def _log_odds_after(self, asked: _Frontier, bit: int) -> Steps[NDArray[np.float64]]:
        if not len(asked.rows):
            return np.zeros(0)
        own = self.targets[asked.rows] >> (self.n_bits - bit)
        inputs = self.reading.examples.inputs[asked.rows]
        flip_bits(inputs, asked.prefixes ^ own, bit, self.evaluator.task)
        sums = yield Ask(self.bits[bit], Queries(asked.rows, inputs))
        return _log_odds(self.evaluator, self.bits[bit], sums)


def flip_bits(
    inputs: NDArray[np.uint64], flips: NDArray[np.int64], n_bits: int, task: Task
) -> None:
    """Flip some of the first ``n_bits`` bits of the target among the inputs.

    Args:
        inputs: Packed, ``uint64[Q, words]``; changed.
        flips: Which, the most significant of the ``n_bits`` first, ``int64[Q]``.
        n_bits: How many bits of the target there are in ``flips``.
        task: Says where they are.
    """
    first = task.n_inputs - (task.n_head_outputs - 1)
    for position in range(n_bits):
        word, bit = divmod(first + position, 64)
        flipped = (flips >> (n_bits - 1 - position)) & 1
        inputs[:, word] ^= flipped.astype(np.uint64) << np.uint64(bit)


# -- votes at other inputs -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Queries:
    """Inputs that examples of a reading might have had.

    Attributes:
        rows: Which of the examples read each stands for, ``int64[Q]``.
        inputs: Packed, ``uint64[Q, words]``.
    """

    rows: NDArray[np.int64]
    inputs: NDArray[np.uint64]

    @classmethod
    def joined(cls, parts: Sequence[Queries]) -> Queries:
        """Return all of them, one after the other."""
        if len(parts) == 1:
            return parts[0]
        rows = np.concatenate([part.rows for part in parts])
        return cls(rows, np.concatenate([part.inputs for part in parts]))


def plain_query_votes(
    evaluator: Evaluator, cluster: Cluster, reading: Reading, queries: Queries
) -> NDArray[np.int64]:
    """Return the summed votes of a cluster on queries, ``int64[Q]``, with NumPy alone.

    Each is read from a memory without the block of the example that it stands for.
    """
    task, memory = evaluator.task, evaluator.memory
    train = unpack_bits(task.train.inputs[: reading.n_trained], task.n_inputs)
    read = unpack_bits(queries.inputs, task.n_inputs)
    written = evaluator.trained_positives(reading, cluster.index)
    sums, rule = np.zeros(len(queries.rows), np.int64), evaluator.cells.of_cluster(cluster.index)
    keys = sample_keys(cluster.hashes, memory.sample_seed)
    for observed, key in zip(cluster.connections, keys, strict=True):
        cells = number_cells(np.concatenate([train[:, observed], read[:, observed]]))
        kept = np.ones(len(train), bool)
        if memory.sample_rate < 1:
            kept = sampled(key, len(train), memory.sample_rate)
        sums += neuron_votes(
            rule, cells[: len(train)], written, kept, cells[len(train) :], reading.blocks,
            queries.rows,
        )  # fmt: skip
    return sums
