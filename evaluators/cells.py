"""What a cell votes: the definitions that every backend shares, in integers only.

A vote is an integer in fixed point, so sums over neurons are exact and their order does not
matter. Under the ``confidence`` vote a cell has two numbers, a weighted log-odds and its weight;
they share one integer (see :func:`unpack`), so every backend adds one integer per neuron.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from typing import Any
from typing import Final
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.genome import mix64
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Head


# How training writes a cell, and from what its vote follows.
#   flags: bit 0 says that a negative example came by, bit 1 that a positive one did
#   counter: 0 to 3, starts at 1, one up or down per example, in their order
#   majority: counts of positives and of all; the vote is their majority
#   share: the same counts; the vote is the share of positives
#   levels: the same counts; the vote is a table's entry at the levels of both counts
CellKind = Literal["flags", "counter", "majority", "share", "levels"]

SHARE_SCALE: Final = 256
LOG_ODDS_SCALE: Final = 1 << 10
CALIBRATED_SCALE: Final = 1 << 8  # of a log-odds times a gain
NUMERATOR_SCALE: Final = 1 << 11  # of a weighted log-odds
WEIGHT_SCALE: Final = 1 << 14
GAIN_SCALE: Final = 1 << 8  # of a gain
GAINS: Final = 20  # per cluster; see :func:`cell_states`
HALF_WORD: Final = 32  # a packed vote is (numerator << 32) + weight

_VOTE_LIMIT: Final = 32767  # one neuron's vote fits 16 bits
_EXACT_BITS: Final = 4  # counts below 2**4 are levels of their own
_LEAST_WEIGHT: Final = 0.02
_RUN: Final = 8192  # sums at a time, so that what is computed stays in the cache


def level(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the level of every count: the count itself below 16, then 8 levels per octave.

    With ``s = max(0, bit_length(n) - 4)`` the level of ``n`` is ``8 * s + (n >> s)``.

    Args:
        counts: ``int64[...]``, each in ``[0, 2**53)``.
    """
    bit_length = np.frexp(counts.astype(np.float64))[1]  # exact: the counts are integers
    shift = np.maximum(0, bit_length.astype(np.int64) - _EXACT_BITS)
    return (shift << (_EXACT_BITS - 1)) + (counts >> shift)


def _level_middles(n_levels: int) -> NDArray[np.float64]:
    """Return the count in the middle of every level, ``float64[n_levels]``."""
    levels = np.arange(n_levels)
    shift = np.maximum(0, (levels >> (_EXACT_BITS - 1)) - 1)
    lowest = (levels - (shift << (_EXACT_BITS - 1))) << shift
    middles: NDArray[np.float64] = lowest + ((1 << shift) - 1) / 2
    return middles


def share_vote(positives: NDArray[np.int64], seen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``(positives + 1/2) / (seen + 1)``, rounded to multiples of 1/256, times 256."""
    halves = 2 * (seen + 1)
    return ((2 * positives + 1) * SHARE_SCALE + (seen + 1)) // halves


def pack(numerators: NDArray[np.int64], weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return two numbers per cell in one that can be summed; weights are not negative."""
    return (numerators << HALF_WORD) + weights


def unpack(sums: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sums of both numbers from a sum of packed ones.

    Exact for up to 2**16 neurons: weights then sum to less than 2**32, and what is left of the
    numerators fits the upper half.
    """
    return sums >> HALF_WORD, sums & 0xFFFFFFFF


@dataclass(frozen=True, eq=False)
class Cells:
    """How cells are written and what they vote.

    Attributes:
        kind: How training writes a cell, and from what its vote follows.
        packed: Whether a vote is a weighted log-odds and a weight in one integer.
        log_odds: Whether outputs are log-odds; if not they are in [0, 1].
        scale: What a vote of 1 is as an integer (of the log-odds where packed).
        votes: Vote per state. ``flags``: nothing seen, negatives, positives, both; ``counter``:
            0 to 3; ``majority``: tie or nothing, negative, positive. ``int64[4]``, else empty.
        table: Vote by levels, ``int64[L * L]`` at ``level(positives) * L + level(negatives)``;
            empty unless ``kind`` is ``levels``.
        n_levels: ``L``, or 0.
        tables: Where every cluster has a table of its own: all of them, ``int64[K, L * L]``, and
            ``table`` is empty (see :meth:`of_cluster`). Else ``None``.
        by_cluster: Whether an output is the mean over its clusters of each one's mean, so that
            how much a cluster counts does not depend on how many neurons it has. Else it is the
            mean over all its neurons.
    """

    kind: CellKind
    packed: bool
    log_odds: bool
    scale: int
    votes: NDArray[np.int64]
    table: NDArray[np.int64]
    n_levels: int
    tables: NDArray[np.int64] | None = None
    by_cluster: bool = False

    def of_cluster(self, index: int) -> Cells:
        """Return the cells of one cluster."""
        if self.tables is None:
            return self
        return replace(self, table=self.tables[index], tables=None)

    @property
    def counting(self) -> bool:
        """Whether a cell counts, so that an example can be taken out of it again."""
        return self.kind in ("majority", "share", "levels")

    def of_counts(
        self, positives: NDArray[np.int64], seen: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the votes of counting cells.

        Args:
            positives: Positive examples per cell, ``int64[...]``.
            seen: All examples per cell, of the same shape.
        """
        negatives = seen - positives
        if self.kind == "majority":
            majority = np.sign(positives - negatives)  # 0, 1 and -1 index 0, 2 and 1
            return self.votes[np.where(majority < 0, 1, 2 * majority)]
        if self.kind == "share":
            return share_vote(positives, seen)
        votes: NDArray[np.int64] = self.table[level(positives) * self.n_levels + level(negatives)]
        return votes

    def pooled(
        self, sums: Sequence[NDArray[np.int64]], neurons: Sequence[int]
    ) -> tuple[NDArray[Any], int]:
        """Return what the clusters of an output come to, as one cluster that puts out the same.

        Args:
            sums: Of the votes of each cluster's neurons, ``int64[E]`` each.
            neurons: Of each cluster.

        Returns:
            The sum of its neurons' votes, ``int64[E]`` or ``float64[E]``, and their number.
        """
        if len(sums) == 1:
            return sums[0], neurons[0]
        if self.by_cluster:
            means = [its / n for its, n in zip(sums, neurons, strict=True)]
            return functools.reduce(np.add, means), len(sums)
        total = sums[0] + sums[1]
        for more in sums[2:]:
            total += more
        return total, sum(neurons)

    def pooled_by_output(
        self, sums: Sequence[NDArray[np.int64]], neurons: Sequence[int], per_output: int
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the same of several outputs, stacked: what :meth:`outputs` takes.

        Args:
            sums: Of the clusters of all of them.
            neurons: Of the clusters of all of them.
            per_output: Clusters of each.
        """
        pools = [
            self.pooled(sums[first : first + per_output], neurons[first : first + per_output])
            for first in range(0, len(sums), per_output)
        ]
        return np.stack([total for total, _ in pools]), np.array([n for _, n in pools])

    def outputs(
        self, sums: NDArray[Any], neurons: NDArray[np.integer[Any]]
    ) -> NDArray[np.float64]:
        """Return what clusters put out, from the sums of their neurons' votes.

        Args:
            sums: ``int64[K, E]``, or what :meth:`pooled` makes of them.
            neurons: Neurons per cluster, ``int[K]``.

        Returns:
            ``float64[K, E]``: means in [0, 1], or log-odds.
        """
        if not self.packed:
            means: NDArray[np.float64] = sums / (neurons * float(self.scale))[:, None]
            return means
        outputs = np.zeros(sums.shape)
        run = max(1, _RUN // len(sums))
        for first in range(0, sums.shape[1], run):
            these = slice(first, first + run)
            numerators, weights = unpack(sums[:, these])
            scaled = numerators * (WEIGHT_SCALE / NUMERATOR_SCALE)
            np.divide(scaled, weights, out=outputs[:, these], where=weights > 0)
        return outputs

    def says_yes(self, sums: NDArray[Any], neurons: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Return where :meth:`outputs` say that a bit is 1, of the same arguments.

        That is where log-odds are above 0 and means above 1/2: integers tell it.
        """
        if self.packed:
            numerators, weights = unpack(sums)
            return (numerators > 0) & (weights > 0)
        if self.log_odds:
            return sums > 0
        halves = neurons.astype(np.int64) * self.scale // 2
        return sums > halves[:, None]

    def ranking_votes(self, sums: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the part of summed votes that says yes or no; neurons are ranked by it."""
        return unpack(sums)[0] if self.packed else sums


def _of_levels(n_levels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positives and negatives by levels, ``float64[L, 1]`` and ``float64[1, L]``."""
    middles = _level_middles(n_levels)
    return middles[:, None], middles[None, :]


def _level_table(memory: MemorySettings, n_outcomes: int, n_levels: int) -> NDArray[np.int64]:
    """Return the votes by levels of positives and negatives, ``int64[n_levels ** 2]``."""
    positives, negatives = _of_levels(n_levels)
    seen = positives + negatives
    if memory.vote == "log_odds":
        share = memory.prior / n_outcomes
        odds = np.log((positives + share) / (negatives + memory.prior - share))
        votes: NDArray[np.int64] = np.rint(odds * LOG_ODDS_SCALE).astype(np.int64).ravel()
        return votes.clip(-_VOTE_LIMIT, _VOTE_LIMIT)
    p = (positives + memory.prior / 2) / (seen + memory.prior)
    q = (negatives + memory.prior / 2) / (seen + memory.prior)
    entropy = -(p * np.log2(p) + q * np.log2(q))
    weight = seen / (seen + 1) * (_LEAST_WEIGHT + 1 - entropy)
    numerators = np.rint(weight * np.log(p / q) * NUMERATOR_SCALE)
    clipped = np.clip(numerators, -_VOTE_LIMIT, _VOTE_LIMIT).astype(np.int64)
    weights = np.maximum(np.rint(weight * WEIGHT_SCALE), 0).astype(np.int64)
    return pack(clipped, weights).ravel()


def evidence(memory: MemorySettings, n_levels: int) -> NDArray[np.float64]:
    """Return what a cell's counts say before any gain, ``float64[L * L]`` by levels, in nats."""
    positives, negatives = _of_levels(n_levels)
    found: NDArray[np.float64] = np.log(
        (positives + memory.prior / 2) / (negatives + memory.prior / 2)
    ).ravel()
    return found


def cell_states(n_levels: int) -> NDArray[np.int64]:
    """Return which gain a cell has, ``int64[L * L]`` by levels, in ``[0, GAINS)``.

    That depends on how many examples it has seen (none, 1, 2, 3 or 4, 5 to 8, and so on), and on
    whether all of them were of one kind.
    """
    positives, negatives = _of_levels(n_levels)
    seen = positives + negatives
    size = np.where(seen > 0, np.ceil(np.log2(np.maximum(seen, 1))) + 1, 0)
    pure = np.minimum(positives, negatives) == 0
    states: NDArray[np.int64] = 2 * np.minimum(size, GAINS // 2 - 1).astype(np.int64) + pure
    return states.ravel()


def _calibrated_tables(
    memory: MemorySettings, n_levels: int, gains: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return every cluster's votes by levels, ``int64[K, L * L]``."""
    votes = gains[:, cell_states(n_levels)] * evidence(memory, n_levels)
    scaled = np.rint(votes * (CALIBRATED_SCALE / GAIN_SCALE)).astype(np.int64)
    clipped: NDArray[np.int64] = scaled.clip(-_VOTE_LIMIT, _VOTE_LIMIT)
    return clipped


def make_cells(
    memory: MemorySettings,
    head: Head,
    n_outputs: int,
    n_trained: int,
    gains: NDArray[np.int64] | None = None,
) -> Cells:
    """Return how the cells of ``memory`` are written and what they vote.

    Args:
        memory: The settings.
        head: Where it has a cluster per output, a cell expects one positive in ``n_outputs``;
            where clusters are bits, one in two.
        n_outputs: How many values a target can take.
        n_trained: Most examples that a cell can count.
        gains: Of every cluster where the vote is ``calibrated``, ``int64[K, GAINS]``; ``None``
            for a gain of 1 everywhere.
    """
    none = np.zeros(0, np.int64)
    empty = round(SHARE_SCALE * memory.empty_value)
    yes = SHARE_SCALE
    if memory.mode == "wisard":
        return Cells("flags", False, False, yes, np.array([empty, 0, yes, yes]), none, 0)
    if memory.mode == "ternary":
        return Cells("majority", False, False, yes, np.array([empty, 0, yes, yes]), none, 0)
    if memory.mode == "quad_binary":
        return Cells("counter", False, False, 1, np.array([0, 0, 1, 1]), none, 0)
    if memory.mode == "quad_weighted":
        return Cells("counter", False, False, 4, np.array([0, 1, 3, 4]), none, 0)
    if memory.vote == "mean":
        return Cells("share", False, False, SHARE_SCALE, none, none, 0)
    n_levels = int(level(np.array([n_trained]))[0]) + 1
    if memory.vote == "calibrated":
        ones = np.full((1, GAINS), GAIN_SCALE)
        tables = _calibrated_tables(memory, n_levels, ones if gains is None else gains)
        scale = CALIBRATED_SCALE
        cells = Cells("levels", False, True, scale, none, none, n_levels, tables, by_cluster=True)
        return cells.of_cluster(0) if gains is None else cells
    n_outcomes = n_outputs if head in ("classes", "tokens") else 2
    table = _level_table(memory, max(n_outcomes, 2), n_levels)
    packed = memory.vote == "confidence"
    scale = NUMERATOR_SCALE if packed else LOG_ODDS_SCALE
    return Cells("levels", packed, True, scale, none, table, n_levels)


def sample_threshold(rate: float) -> int:
    """Return below which 64-bit number a (neuron, example) pair is trained."""
    return min(int(rate * 2.0**64), 2**64 - 1)


def sample_keys(neuron_hashes: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Return what each neuron's draws start from, ``uint64[N]``."""
    return neuron_hashes + mix64(np.array([seed % 2**64], np.uint64))


def sampled(key: np.uint64, n_examples: int, rate: float) -> NDArray[np.bool_]:
    """Return which of the first ``n_examples`` training examples a neuron is trained on.

    Example ``e`` is, if and only if ``mix64(mix64(key) + e)`` is below the rate's threshold.
    """
    examples = np.arange(n_examples, dtype=np.uint64)
    draws = mix64(np.add(mix64(np.array([key], np.uint64)), examples, dtype=np.uint64))
    kept: NDArray[np.bool_] = draws < np.uint64(sample_threshold(rate))
    return kept
