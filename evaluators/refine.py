"""Small random moves, each kept if the loss is no worse: the plain version."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cells import Cells
from optuna_wnn.evaluators.chained import decided_bits
from optuna_wnn.evaluators.heads import BIT_HEADS
from optuna_wnn.evaluators.loss import BitLoss
from optuna_wnn.evaluators.loss import ClassesLoss
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.evaluators.votes import lone_cluster
from optuna_wnn.genome import DIMENSIONS
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Dimension
from optuna_wnn.genome import mix64
from optuna_wnn.tasks.base import Task


VoteFunction = Callable[[Sequence[Cluster], Reading], list[ClusterVotes]]

# What the draws of a step are for; beyond the last, one draw per neuron.
DRAW_DIMENSION: Final = 0
DRAW_NEURON: Final = 1
DRAW_POSITION: Final = 2
DRAW_INPUT: Final = 3
DRAW_DIRECTION: Final = 4
DRAW_CLUSTER: Final = 5
DRAW_FIRST_NEURON: Final = 8
DRAW_TRY: Final = 8  # draws of an input by its chance
_DRAWN_AHEAD: Final = 24
TRIES: Final = 8  # after which an input that is not observed yet is drawn, all alike


@dataclass(frozen=True, eq=False)
class Climb:
    """What a climb needs to know.

    Attributes:
        task: The examples and the head.
        cells: How cells are written and vote.
        reading: What the loss is measured on.
        temperature: What the outputs of the ``classes`` head are divided by.
        bounds: What every genome on the way stays within.
        free: The dimensions that may change.
        steps: How many moves are tried, over all clusters.
        seed: Decides the moves.
        sampled: Whether a move must first make the loss on a sample of the examples no worse.
        chances: See :func:`optuna_wnn.evaluators.informed.chances`; without columns if all
            inputs are drawn alike.
    """

    task: Task
    cells: Cells
    reading: Reading
    temperature: float
    bounds: Bounds
    free: frozenset[Dimension]
    steps: int
    seed: int
    sampled: bool
    chances: NDArray[np.int64]

    def share(self, cluster: int) -> int:
        """Return how many of the moves are ``cluster``'s, where each has its own."""
        whole, left = divmod(self.steps, self.task.n_clusters)
        return whole + (cluster < left)


class Draws:
    """The random numbers of one step of one cluster: a function of the seed and both.

    Number ``i`` is ``mix64(mix64(mix64(mix64(seed) + stream) + step) + i)``.
    """

    def __init__(self, state: NDArray[np.uint64], first: Sequence[int]) -> None:
        self._state = state  # one number
        self._first = first

    @classmethod
    def of(cls, seed: int, streams: Sequence[int], steps: Sequence[int]) -> list[Draws]:
        """Return the random numbers of some steps, each of its stream; much faster together."""
        states = mix64(np.array([seed % 2**64], np.uint64))
        for numbers in (streams, steps):
            states = mix64(np.add(states, np.array(numbers, np.uint64), dtype=np.uint64))
        ahead = np.arange(_DRAWN_AHEAD, dtype=np.uint64)
        first = mix64(np.add(states[:, None], ahead, dtype=np.uint64)).tolist()
        return [cls(states[i : i + 1], words) for i, words in enumerate(first)]

    def below(self, limit: int, which: int) -> int:
        """Return draw number ``which`` as an integer in ``[0, limit)``; ``limit < 2**31``."""
        if which < len(self._first):
            word = self._first[which]
        else:
            word = int(mix64(self._state + np.uint64(which))[0])
        return ((word >> 32) * limit) >> 32


def climb(
    job: Climb, wiring: list[NDArray[np.int32]], votes: VoteFunction
) -> list[NDArray[np.int32]]:
    """Return the connections of every cluster after the climb, each ``int32[n, bits]``.

    Args:
        job: What to do.
        wiring: The connections to start from.
        votes: Computes the votes of a cluster.
    """

    def sums_of(cluster: int, connections: NDArray[np.int32]) -> NDArray[np.int64]:
        return votes([lone_cluster(cluster, connections)], job.reading)[0].sums

    wiring = list(wiring)
    targets = job.reading.examples.targets
    loss: BitLoss | ClassesLoss
    if job.task.head in BIT_HEADS:
        for k in range(len(wiring)):
            decided = decided_bits(job.task, targets, k)
            loss = BitLoss(job.cells, job.task.n_clusters, k, targets, decided)
            loss.set_row(k, sums_of(k, wiring[k]), len(wiring[k]))
            for step in range(job.share(k)):
                (draws,) = Draws.of(job.seed, [k], [step])
                moved = propose(job, k, draws, wiring[k])
                if moved is not None and loss.try_row(
                    k, sums_of(k, moved), len(moved), job.sampled
                ):
                    wiring[k] = moved
        return wiring
    loss = ClassesLoss(job.cells, job.temperature, len(wiring), targets)
    for k, connections in enumerate(wiring):
        loss.set_row(k, sums_of(k, connections), len(connections))
    for step in range(job.steps):
        loss.rebase(step)
        (k,) = drawn_clusters(job, [step])
        (draws,) = Draws.of(job.seed, [k], [step])
        moved = propose(job, k, draws, wiring[k])
        if moved is not None and loss.try_row(k, sums_of(k, moved), len(moved), job.sampled):
            wiring[k] = moved
    return wiring


def drawn_clusters(job: Climb, steps: Sequence[int]) -> list[int]:
    """Return whose move each step is, where all clusters share one loss."""
    n_clusters = job.task.n_clusters
    draws = Draws.of(job.seed, [n_clusters] * len(steps), steps)
    return [its.below(n_clusters, DRAW_CLUSTER) for its in draws]


def propose(
    job: Climb, cluster: int, draws: Draws, connections: NDArray[np.int32]
) -> NDArray[np.int32] | None:
    """Return the cluster's connections after a random move, or ``None`` if it has no room.

    Args:
        job: What is free, and within which bounds.
        cluster: Which cluster it is.
        draws: The random numbers of the step.
        connections: ``int32[n, bits]``, ascending in each row; unchanged.
    """
    free = [dimension for dimension in DIMENSIONS if dimension in job.free]
    dimension = free[draws.below(len(free), DRAW_DIMENSION)]
    visible = int(job.bounds.visible_inputs[cluster])
    chances = job.chances[cluster]
    n_neurons, n_bits = connections.shape
    if dimension == "connections":
        neuron = draws.below(n_neurons, DRAW_NEURON)
        rewired = _rewired(connections[neuron], visible, chances, draws)
        if rewired is None:
            return None
        moved = connections.copy()
        moved[neuron] = rewired
        return moved
    low, high = job.bounds.neurons if dimension == "neurons" else job.bounds.bits
    size = n_neurons if dimension == "neurons" else n_bits
    grows = draws.below(2, DRAW_DIRECTION) == 1
    if not low <= size + (1 if grows else -1) <= high:
        return None
    if dimension == "neurons":
        if not grows:
            return connections[:-1]
        model = connections[draws.below(n_neurons, DRAW_NEURON)]
        rewired = _rewired(model, visible, chances, draws)
        return None if rewired is None else np.vstack([connections, rewired])
    if not grows:
        drops = [draws.below(n_bits, DRAW_FIRST_NEURON + i) for i in range(n_neurons)]
        rows = [np.delete(row, drop) for row, drop in zip(connections, drops, strict=True)]
        return np.array(rows)
    if n_bits >= visible:
        return None
    added = [
        unobserved(row, draws.below(visible - n_bits, DRAW_FIRST_NEURON + i))
        for i, row in enumerate(connections)
    ]
    widened = np.column_stack([connections, np.array(added, np.int32)])
    return np.sort(widened, axis=1)


def unobserved(observed: NDArray[np.int32], index: int) -> int:
    """Return the input number ``index`` of those that are not in ``observed`` (ascending)."""
    for input_ in observed.tolist():
        index += input_ <= index
    return index


def draw_input(
    observed: NDArray[np.int32], visible: int, chances: NDArray[np.int64], draws: Draws
) -> int:
    """Return an input that is not in ``observed`` (ascending), drawn by its chance.

    Args:
        observed: At least one visible input is not in it.
        visible: How many inputs there are.
        chances: Of this cluster, added up; without entries, all inputs are drawn alike.
        draws: Where randomness comes from.
    """
    if len(chances) and chances[visible - 1]:
        total = int(chances[visible - 1])
        for trial in range(TRIES):
            drawn = draws.below(total, DRAW_TRY + trial)
            input_ = int(np.searchsorted(chances, drawn, side="right"))
            if input_ not in observed:
                return input_
    return unobserved(observed, draws.below(visible - len(observed), DRAW_INPUT))


def _rewired(
    observed: NDArray[np.int32], visible: int, chances: NDArray[np.int64], draws: Draws
) -> NDArray[np.int32] | None:
    """Return a neuron's inputs with one of them exchanged, ascending; ``None`` if it sees all."""
    if len(observed) >= visible:
        return None
    position = draws.below(len(observed), DRAW_POSITION)
    rewired = observed.copy()
    rewired[position] = draw_input(observed, visible, chances, draws)
    return np.sort(rewired)
