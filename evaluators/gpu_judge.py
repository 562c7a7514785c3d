"""What a launch is given that judges a climb's moves: whose votes come and go, and the loss."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cells import Cells
from optuna_wnn.evaluators.cells import unpack
from optuna_wnn.evaluators.difference import rows_of
from optuna_wnn.evaluators.gpu_kernels import CANDIDATE
from optuna_wnn.evaluators.gpu_layout import pack_flags
from optuna_wnn.evaluators.gpu_plan import Cost
from optuna_wnn.evaluators.gpu_plan import Words
from optuna_wnn.evaluators.gpu_plan import Work
from optuna_wnn.evaluators.gpu_rules import row_of_votes
from optuna_wnn.evaluators.gpu_rules import words_of
from optuna_wnn.evaluators.heads import BIT_HEADS
from optuna_wnn.evaluators.loss import SCORE_STEPS
from optuna_wnn.evaluators.loss import ClassesLoss
from optuna_wnn.evaluators.loss import Quantiser
from optuna_wnn.evaluators.loss import bit_loss_table
from optuna_wnn.evaluators.loss import bit_quantiser
from optuna_wnn.evaluators.loss import exp_table
from optuna_wnn.evaluators.loss import log_tables
from optuna_wnn.evaluators.refine import Climb


_COMMON_ROWS: Final = 4  # of a board, beside one for each cluster


@dataclass(frozen=True, eq=False)
class Candidate:
    """A cluster after a move, and what its votes are added up from.

    Attributes:
        cluster: Which cluster it is.
        n_neurons: How many neurons it has.
        related: Whether the sums of the cluster as it is are the start.
        members: Neurons whose votes are added to that, and then those whose votes are taken away,
            ``int32[m, bits]``.
        n_added: How many are added.
    """

    cluster: int
    n_neurons: int
    related: bool
    members: NDArray[np.int32]
    n_added: int

    @classmethod
    def of(cls, cluster: int, moved: NDArray[np.int32], now: NDArray[np.int32]) -> Candidate:
        """Return the candidate that makes the connections ``now`` of a cluster ``moved``."""
        if moved.shape[1] == now.shape[1]:
            n = min(len(moved), len(now))
            differs = (moved[:n] != now[:n]).any(axis=1)
            added = np.concatenate([moved[:n][differs], moved[n:]])
            members = np.concatenate([added, now[:n][differs], now[n:]])
            if len(members) <= len(moved):
                return cls(cluster, len(moved), True, members, len(added))
        return cls(cluster, len(moved), False, moved, len(moved))

    @property
    def kind(self) -> tuple[int, int]:
        """Its cluster, and the width of its members."""
        return self.cluster, self.members.shape[1]

    @property
    def changes(self) -> list[tuple[int, NDArray[np.int32]]]:
        """What is added to the sums, and what is taken away: 1 or -1, and neurons."""
        added, removed = self.members[: self.n_added], self.members[self.n_added :]
        return [(sign, rows) for sign, rows in ((1, added), (-1, removed)) if len(rows)]


class Batch:
    """Candidates that are judged in one launch; a neuron that several need is trained once.

    Args:
        works: What the launch does, for each part of the examples that are read.
        limit: What it may take.
    """

    def __init__(self, works: Sequence[Work], limit: Cost) -> None:
        self.works = works
        self.candidates: list[Candidate] = []
        self._left = np.array(limit, np.int64)
        self._of_neuron = cache(lambda width: _most(work.of_neuron(width) for work in works))
        self._of_candidate = cache(lambda size: _most(work.of_candidate(size) for work in works))
        # Of each cluster and width, the neurons that are trained, and their places.
        self._groups: dict[tuple[int, int], dict[bytes, int]] = {}
        self._places: list[list[int]] = []  # of the members of each candidate in its group

    def add(self, candidate: Candidate) -> bool:
        """Add a candidate if there is room for it; say whether there was."""
        rows = rows_of(candidate.members)
        group = self._groups.setdefault(candidate.kind, {})
        new = [row for row in dict.fromkeys(rows) if row not in group]
        width = candidate.members.shape[1]
        needed = self._of_neuron(width) * len(new) + self._of_candidate(len(rows))
        if (needed > self._left).any():
            return False
        self._left -= needed
        group.update(zip(new, range(len(group), len(group) + len(new)), strict=True))
        self.candidates.append(candidate)
        self._places.append([group[row] for row in rows])
        return True

    def groups(self) -> list[tuple[int, NDArray[np.int32]]]:
        """Return the neurons that are trained, by cluster and width: ``int32[n, bits]`` each."""
        return [
            (cluster, np.frombuffer(b"".join(rows), np.int32).reshape(-1, width))
            for (cluster, width), rows in self._groups.items()
            if rows
        ]

    def rows(self, loss: Loss, flags: dict[int, int]) -> tuple[Words, Words]:
        """Return what the kernel reads of candidates and of their members.

        Args:
            loss: What they are judged by.
            flags: The row of flags of each cluster.

        Returns:
            ``uint32[c, len(CANDIDATE)]``, and pairs of a neuron's number and whether it is added.
        """
        sizes = [len(group) for group in self._groups.values()]
        starts = dict(zip(self._groups, accumulate([0, *sizes]), strict=False))
        heads: list[list[int]] = []
        members: list[tuple[int, bool]] = []
        for candidate, places in zip(self.candidates, self._places, strict=True):
            head = {
                "cluster": candidate.cluster,
                "related": int(candidate.related),
                "flags": flags[candidate.cluster],
                "votes": row_of_votes(self.works[0].cells, candidate.cluster),
                "member_first": len(members),
                "members": len(places),
                **words_of("divisor", loss.quantiser.divisor * candidate.n_neurons),
            }
            heads.append([head[name] for name in CANDIDATE])
            start, n_added = starts[candidate.kind], candidate.n_added
            members += [(start + place, i < n_added) for i, place in enumerate(places)]
        return np.array(heads, np.uint32), np.array(members, np.uint32)


def _most(costs: Iterable[Cost]) -> NDArray[np.int64]:
    most: NDArray[np.int64] = np.max(list(costs), axis=0)
    return most


@dataclass(frozen=True, eq=False)
class Loss:
    """What candidates are judged by; see :mod:`loss`.

    Attributes:
        quantiser: From a sum of votes to steps.
        softmax: Whether all clusters share the loss.
        offset: What is added to steps, so that they are places in a table.
        last: The last place.
        losses: The loss of a bit by place; or logarithms of powers of two and of leading bits.
        exps: Exponentials by place, ``uint64``; empty for bits.
        decided: At which examples each cluster's bit costs nothing, ``uint32[K, words]``, or none.
    """

    quantiser: Quantiser
    softmax: bool
    offset: int
    last: int
    losses: NDArray[np.int32]
    exps: NDArray[np.uint64]
    decided: Words

    @classmethod
    def of_bits(cls, cells: Cells, decided: Sequence[NDArray[np.bool_] | None]) -> Loss:
        """Return that of bits.

        Args:
            cells: How cells vote.
            decided: At which examples each cluster's bit costs nothing, ``bool[E]``, or ``None``.
        """
        quantiser, offset = bit_quantiser(cells)
        losses = bit_loss_table(cells)
        some = [flags for flags in decided if flags is not None]
        none = np.zeros((0, 0), np.uint32)
        if some:
            no = np.zeros(len(some[0]), np.uint8)
            flags = [no if its is None else its.astype(np.uint8) for its in decided]
        words = pack_flags(flags) if some else none
        no_exps = np.zeros(0, np.uint64)
        return cls(quantiser, False, offset, len(losses) - 1, losses, no_exps, words)

    @classmethod
    def of_softmax(cls, cells: Cells, temperature: float, n_classes: int) -> Loss:
        """Return that of the softmax over all clusters."""
        exps, zero = exp_table(n_classes)
        losses = np.concatenate(log_tables())
        quantiser = Quantiser.of(cells, SCORE_STEPS / temperature)
        none = np.zeros((0, 0), np.uint32)
        return cls(quantiser, True, zero, len(exps) - 1, losses, exps.astype(np.uint64), none)

    def params(self, n_clusters: int, n_examples: int) -> dict[str, int]:
        """Return its numbers, by their names in ``JUDGE``."""
        return {
            "clusters": n_clusters,
            "examples": n_examples,
            "softmax": int(self.softmax),
            "offset": self.offset,
            "last": self.last,
            "decides": int(self.decided.size > 0),
            **words_of("factor", self.quantiser.factor),
        }


@dataclass(frozen=True, eq=False)
class Standing:
    """Where a climb stands, as a launch is told.

    Attributes:
        loss: What candidates are judged by.
        base: The sums of votes of all clusters, ``int32[K, 1 or 2, E]``.
        board: Where a softmax stands, ``int32[K + 4, E]``, or nothing; see :func:`board_of`.
    """

    loss: Loss
    base: NDArray[np.int32]
    board: NDArray[np.int32]


def known_rows(job: Climb) -> int:
    """Return how many rows of 32 bits per example say where a climb stands."""
    n_clusters = job.task.n_clusters
    of_softmax = 0 if job.task.head in BIT_HEADS else n_clusters + _COMMON_ROWS
    return n_clusters * (2 if job.cells.packed else 1) + of_softmax


def base_of(sums: NDArray[np.int64], packed: bool) -> NDArray[np.int32]:
    """Return summed votes, ``int64[E]``, as rows of 32 bits, ``int32[1 or 2, E]``."""
    if not packed:
        return sums[None].astype(np.int32)
    votes, weights = unpack(sums)
    return np.stack([votes.astype(np.int32), weights.astype(np.uint32).view(np.int32)])


def board_of(loss: ClassesLoss) -> NDArray[np.int32]:
    """Return where a softmax stands, ``int32[K + 4, E]``; see ``kernels/judge.h``."""
    places, mass = loss.places(), loss.mass()
    words = np.stack([mass & 0xFFFFFFFF, mass >> 32]).astype(np.uint32).view(np.int32)
    targets = places[loss.targets, np.arange(len(mass))]
    rows = np.vstack([places, loss.reference[None], targets[None]]).astype(np.int32)
    return np.concatenate([rows, words])
