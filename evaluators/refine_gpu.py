"""How the ``mlx`` backend refines: the next moves are judged together, up to the first one kept.

What a climb tries next follows from the seed and from its wiring. A launch judges as many of
these moves as may well be needed. The first that is kept changes the wiring, so what was judged
beyond it is judged again; the moves that are kept are those of the plain climb.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import TYPE_CHECKING
from typing import Final
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators import gpu_check
from optuna_wnn.evaluators.chained import decided_bits
from optuna_wnn.evaluators.gpu_judge import Batch
from optuna_wnn.evaluators.gpu_judge import Candidate
from optuna_wnn.evaluators.gpu_judge import Loss
from optuna_wnn.evaluators.gpu_judge import Standing
from optuna_wnn.evaluators.gpu_judge import base_of
from optuna_wnn.evaluators.gpu_judge import board_of
from optuna_wnn.evaluators.heads import BIT_HEADS
from optuna_wnn.evaluators.loss import REBASE_EVERY
from optuna_wnn.evaluators.loss import BitLoss
from optuna_wnn.evaluators.loss import ClassesLoss
from optuna_wnn.evaluators.loss import is_kept
from optuna_wnn.evaluators.refine import Climb
from optuna_wnn.evaluators.refine import Draws
from optuna_wnn.evaluators.refine import drawn_clusters
from optuna_wnn.evaluators.refine import propose
from optuna_wnn.evaluators.votes import lone_cluster


if TYPE_CHECKING:
    from optuna_wnn.evaluators.mlx import MlxEvaluator


_FEWEST: Final = 16  # moves that a chain asks for at a time: fewer leave a GPU idle
_MOST: Final = 1024


@dataclass
class _Chain:
    """Moves of which each depends on those before it.

    Attributes:
        cluster: Whose they are; ``None`` if each step draws one.
        loss: What decides whether one is kept.
        n_steps: How many are tried.
        step: How many are decided.
        looked: How many will be if the launch under way keeps none.
        ahead: How many are asked for at a time.
    """

    cluster: int | None
    loss: BitLoss | ClassesLoss
    n_steps: int
    step: int = 0
    looked: int = 0
    ahead: int = field(default_factory=lambda: _FEWEST)

    @property
    def end(self) -> int:
        """Return up to which step one may look: a softmax's references are chosen anew there."""
        end = min(self.step + self.ahead, self.n_steps)
        if self.cluster is None:
            end = min(end, self.step - self.step % REBASE_EVERY + REBASE_EVERY)
        return end

    def go_on(self, kept: int | None) -> None:
        """Go on behind the step that was kept, if one was; look less far where much was lost."""
        if kept is None:
            if self.looked == self.step + self.ahead:
                self.ahead = min(2 * self.ahead, _MOST)
            self.step = self.looked
            return
        if 2 * (kept + 1 - self.step) < self.ahead:
            self.ahead = max(self.ahead // 2, _FEWEST)
        self.step = kept + 1


class _Kept(NamedTuple):
    """A move that is kept: its chain and step, the candidate, and the loss after it."""

    chain: _Chain
    step: int
    candidate: Candidate
    loss: NDArray[np.int64]


class GpuRefiner:
    """Refines by launches.

    Args:
        evaluator: Makes them.
        job: What to do.
        wiring: The connections to start from, each ``int32[n, bits]``.
        sums: What each cluster votes, ``int64[E]``.
    """

    def __init__(
        self,
        evaluator: MlxEvaluator,
        job: Climb,
        wiring: Sequence[NDArray[np.int32]],
        sums: Sequence[NDArray[np.int64]],
    ) -> None:
        self.evaluator = evaluator
        self.job = job
        self.wiring = list(wiring)
        self.sums = list(sums)
        self.base = np.stack([base_of(its, job.cells.packed) for its in sums])
        self.softmax: ClassesLoss | None = None
        targets, n_clusters = job.reading.examples.targets, len(wiring)
        if job.task.head in BIT_HEADS:
            decided = [decided_bits(job.task, targets, k) for k in range(n_clusters)]
            self.loss = Loss.of_bits(job.cells, decided)
            self.chains = [
                _Chain(k, BitLoss(job.cells, n_clusters, k, targets, decided[k]), job.share(k))
                for k in range(n_clusters)
            ]
        else:
            self.loss = Loss.of_softmax(job.cells, job.temperature, n_clusters)
            self.softmax = ClassesLoss(job.cells, job.temperature, n_clusters, targets)
            self.chains = [_Chain(None, self.softmax, job.steps)]
        for chain in self.chains:
            for k in range(n_clusters) if chain.cluster is None else [chain.cluster]:
                chain.loss.set_row(k, self.sums[k], len(self.wiring[k]))

    def refine(self) -> list[NDArray[np.int32]]:
        """Return the connections of all clusters after the climb."""
        chains = self.chains
        while chains := [chain for chain in chains if chain.step < chain.n_steps]:
            self._round(chains)
        return self.wiring

    def _round(self, chains: Sequence[_Chain]) -> None:
        """Judge the next moves of all chains, and keep the first that each of them keeps."""
        batch = self.evaluator.batch(self.job, self._widest())
        asked: list[list[tuple[int, int]]] = []  # steps, and their candidates in the batch
        for chain in chains:
            chain.loss.rebase(chain.step)
            asked.append(self._look_ahead(chain, batch))
        totals = self._judged(batch)
        kept = []
        for chain, steps in zip(chains, asked, strict=True):
            for step, number in steps:
                if is_kept(totals[number], chain.loss.current, self.job.sampled):
                    kept.append(_Kept(chain, step, batch.candidates[number], totals[number]))
                    break
            else:
                chain.go_on(None)
        self._keep(kept)

    def _look_ahead(self, chain: _Chain, batch: Batch) -> list[tuple[int, int]]:
        """Add a chain's next moves to a batch; return their steps and numbers there."""
        asked = []
        chain.looked = chain.step
        steps = range(chain.step, chain.end)
        if chain.cluster is None:
            clusters = drawn_clusters(self.job, steps)
        else:
            clusters = [chain.cluster] * len(steps)
        draws = Draws.of(self.job.seed, clusters, steps)
        for step, k, its_draws in zip(steps, clusters, draws, strict=True):
            moved = propose(self.job, k, its_draws, self.wiring[k])
            if moved is not None:
                candidate = Candidate.of(k, moved, self.wiring[k])
                if not batch.add(candidate):
                    if not batch.candidates and step == chain.step:
                        self._try_here(chain, k, moved)
                        chain.looked = step + 1
                    break
                asked.append((step, len(batch.candidates) - 1))
            chain.looked = step + 1
        return asked

    def _judged(self, batch: Batch) -> NDArray[np.int64]:
        """Return the loss of every candidate on the sample and on the others, ``int64[c, 2]``."""
        if not batch.candidates:
            return np.zeros((0, 2), np.int64)
        nothing = np.zeros((0, 0), np.int32)
        board = nothing if self.softmax is None else board_of(self.softmax)
        standing = Standing(self.loss, self.base, board)
        return self.evaluator.judged(batch, standing, self.job.reading)

    def _keep(self, kept: Sequence[_Kept]) -> None:
        """Make moves."""
        changes = [
            lone_cluster(its.candidate.cluster, rows)
            for its in kept
            for _, rows in its.candidate.changes
        ]
        votes = iter(self.evaluator.cluster_votes(changes, self.job.reading))
        for chain, step, candidate, loss in kept:
            sums = np.zeros_like(self.sums[candidate.cluster])
            if candidate.related:
                sums += self.sums[candidate.cluster]
            for sign, _ in candidate.changes:
                sums += sign * next(votes).sums
            (draws,) = Draws.of(self.job.seed, [candidate.cluster], [step])
            moved = propose(self.job, candidate.cluster, draws, self.wiring[candidate.cluster])
            assert moved is not None  # as when it was judged
            self._try(chain, candidate.cluster, moved, sums)
            gpu_check.check_loss(loss, chain.loss.current)
            chain.go_on(step)

    def _try_here(self, chain: _Chain, cluster: int, moved: NDArray[np.int32]) -> None:
        """Try a move that no launch has room for: its neurons are launched in several."""
        whole = lone_cluster(cluster, moved)
        (votes,) = self.evaluator.cluster_votes([whole], self.job.reading)
        self._try(chain, cluster, moved, votes.sums)

    def _try(
        self, chain: _Chain, cluster: int, moved: NDArray[np.int32], sums: NDArray[np.int64]
    ) -> None:
        """Make a move if its loss, computed here from its sums of votes, lets it be kept."""
        if chain.loss.try_row(cluster, sums, len(moved), self.job.sampled):
            self.wiring[cluster], self.sums[cluster] = moved, sums
            self.base[cluster] = base_of(sums, self.job.cells.packed)

    def _widest(self) -> int:
        """Return how many bits a neuron may have after the next moves: one may come."""
        return 1 + max(int(connections.shape[1]) for connections in self.wiring)
