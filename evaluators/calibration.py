"""Gains of the ``calibrated`` vote: how much a cell counts, by what it has seen, fitted.

An output's log-odds are the mean of what its clusters say, and a cluster says the mean of what its
neurons' cells say: the log-odds of their counts, each times a gain. A cell that has seen two
examples deserves less than one that has seen hundreds, a wide neuron that has seen the context
before more than a narrow one beside it, and how much so differs from output to output. So the
gains are fitted, by logistic regression on training examples that are each read from a memory
without its own block: stacked generalisation (Wolpert, "Stacked generalization", Neural Networks
5(2), 1992), with the cells for level-0 models.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators.cells import GAIN_SCALE
from optuna_wnn.evaluators.cells import GAINS
from optuna_wnn.evaluators.cells import cell_states
from optuna_wnn.evaluators.cells import evidence
from optuna_wnn.evaluators.cells import level
from optuna_wnn.evaluators.chained import decided_bits
from optuna_wnn.evaluators.heads import BIT_HEADS
from optuna_wnn.evaluators.heads import cluster_targets
from optuna_wnn.evaluators.heads import softplus
from optuna_wnn.genome import Genome
from optuna_wnn.genome import mix64
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Task


if TYPE_CHECKING:
    from optuna_wnn.evaluators.base import Evaluator


_MOST_FITTED: Final = 1 << 17  # examples that the gains of one output are fitted on
_MOST_STEPS: Final = 10  # of Newton's method
_CLOSE: Final = 1 / 1024  # a step below this ends the fit: gains are kept in units of 1/256
_WORTH_PAIRING: Final = 16  # steps of a matrix product, in the time of one of counting pairs
_TOWARDS_MEAN: Final = 1.0  # examples' worth of pull towards the plain mean of all clusters


def check_calibrated(task: Task, memory: MemorySettings) -> None:
    """Check that a task can go with the vote, if it is ``calibrated``.

    Raises:
        InputError: If it cannot.
    """
    if memory.vote == "calibrated" and task.head not in BIT_HEADS:
        raise InputError(
            f"memory.vote: calibrated needs the head bits or chained_bits, not {task.head}; "
            "take confidence"
        )


def check_gains(task: Task, gains: NDArray[np.int64]) -> None:
    """Check that there are gains for every cluster.

    Raises:
        InputError: If there are not.
    """
    if gains.shape != (task.n_clusters, GAINS):
        raise InputError(
            f"gains: they are for {len(gains)} clusters, the task has {task.n_clusters}; "
            "calibrate again"
        )


@dataclass(frozen=True, eq=False)
class _Evidence:
    """What the neurons of an output say of some training examples.

    Attributes:
        columns: Which gain applies, ``int64[n, E]`` in ``[0, clusters * GAINS)``.
        values: What it multiplies, ``float64[n, E]``: log-odds, over the neurons of the cluster.
    """

    columns: NDArray[np.int64]
    values: NDArray[np.float64]

    def log_odds(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weighted sums, ``float64[E]``."""
        total = np.zeros(self.values.shape[1])
        for columns, values in zip(self.columns, self.values, strict=True):
            total += weights[columns] * values
        return total

    def slope(self, errors: NDArray[np.float64], n_columns: int) -> NDArray[np.float64]:
        """Return the sum of each column times the errors, ``float64[n_columns]``."""
        slope = np.zeros(n_columns)
        for columns, values in zip(self.columns, self.values, strict=True):
            slope += np.bincount(columns, weights=errors * values, minlength=n_columns)
        return slope

    def design(self, n_columns: int) -> NDArray[np.float64] | None:
        """Return the columns themselves, ``float64[E, n_columns]``, if that is less work."""
        n_neurons, n_examples = self.values.shape
        by_product, by_pairs = n_examples * n_columns**2, n_examples + n_columns**2
        if by_product > _WORTH_PAIRING * n_neurons**2 * by_pairs:
            return None
        design, rows = np.zeros((n_examples, n_columns)), np.arange(n_examples)
        for columns, values in zip(self.columns, self.values, strict=True):
            design[rows, columns] += values
        return design

    def curvature(
        self,
        importance: NDArray[np.float64],
        n_columns: int,
        design: NDArray[np.float64] | None,
    ) -> NDArray[np.float64]:
        """Return the weighted products of all columns, ``float64[n_columns, n_columns]``."""
        if design is not None:
            return (design * importance[:, None]).T @ design
        total = np.zeros((n_columns, n_columns))
        for i, (rows, left) in enumerate(zip(self.columns, self.values, strict=True)):
            rows, left = rows * n_columns, importance * left
            for j in range(i, len(self.columns)):
                pairs, products = rows + self.columns[j], left * self.values[j]
                sums = np.bincount(pairs, weights=products, minlength=n_columns**2)
                square = sums.reshape(n_columns, n_columns)
                total += square if i == j else square + square.T
        return total


def fitted_gains(evaluator: Evaluator, genome: Genome) -> NDArray[np.int64]:
    """Return the gains that suit a genome, in units of 1/256, ``int64[K, GAINS]``.

    They are relative to the mean over an output's clusters of each one's mean over its neurons, so
    256 everywhere is that mean.

    Args:
        evaluator: Knows the task and the memory, and has threads.
        genome: Fits the task.
    """
    jobs = [(evaluator, genome, output) for output in range(evaluator.task.n_head_outputs)]
    # Threads of the linear algebra under threads of ours would wait for each other.
    with threadpool_limits(1, "blas"):
        return np.concatenate(evaluator.in_threads(_gains_of_output, jobs, Event()))


def _gains_of_output(evaluator: Evaluator, genome: Genome, output: int) -> NDArray[np.int64]:
    """Return the gains of the clusters of one output, ``int64[clusters, GAINS]``."""
    task, n_trained = evaluator.task, len(evaluator.task.train)
    per_output = task.clusters_per_output
    clusters = list(range(output * per_output, (output + 1) * per_output))
    decided = decided_bits(task, task.train.targets, output)
    free = np.arange(n_trained) if decided is None else np.flatnonzero(~decided)
    if not len(free):
        return np.full((len(clusters), GAINS), GAIN_SCALE)
    chosen = free[np.linspace(0, len(free) - 1, min(len(free), _MOST_FITTED)).astype(np.int64)]
    positives = cluster_targets(task.head, task.n_head_outputs, task.train.targets, output)
    found = _evidence_of(evaluator, genome, clusters, positives, chosen)
    weights = _logistic_fit(found, positives[chosen], len(clusters))
    gains = np.rint(weights * (len(clusters) * GAIN_SCALE)).astype(np.int64)
    return gains.reshape(len(clusters), GAINS)


def _evidence_of(
    evaluator: Evaluator,
    genome: Genome,
    clusters: list[int],
    positives: NDArray[np.uint8],
    chosen: NDArray[np.int64],
) -> _Evidence:
    """Return what the neurons of some clusters say of training examples, each left out.

    Args:
        evaluator: Knows the task and the memory.
        genome: Whose neurons.
        clusters: Of one output.
        positives: Which training examples are positive, ``uint8[E]``.
        chosen: Of which examples.
    """
    inputs, n_blocks = evaluator.task.train.inputs, evaluator.memory.blocks
    block = np.arange(len(inputs)) * n_blocks // len(inputs)
    n_levels = evaluator.cells.n_levels
    states, said = cell_states(n_levels), evidence(evaluator.memory, n_levels)
    columns, values = [], []
    for place, cluster in enumerate(clusters):
        for observed in genome.cluster(cluster):
            counts = left_out_counts(addresses_of(inputs, observed), positives, block, chosen)
            negative, positive = (level(count) for count in counts)
            index = positive * n_levels + negative
            columns.append(place * GAINS + states[index])
            values.append(said[index] / genome.neurons[cluster])
    return _Evidence(np.array(columns), np.array(values))


def addresses_of(inputs: NDArray[np.uint64], observed: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Return what distinguishes the cells that a neuron's examples address, ``uint64[E]``.

    Within a word it is the observed bits where they stand; of several words a hash.

    Args:
        inputs: Packed, ``uint64[E, words]``.
        observed: The neuron's inputs.
    """
    masks = np.zeros(inputs.shape[1], np.uint64)
    np.bitwise_or.at(masks, observed // 64, np.uint64(1) << (observed % 64).astype(np.uint64))
    words = np.flatnonzero(masks)
    found: NDArray[np.uint64] = inputs[:, words[0]] & masks[words[0]]
    for word in words[1:]:
        found = mix64(found) ^ (inputs[:, word] & masks[word])
    return found


def left_out_counts(
    addresses: NDArray[np.uint64],
    positives: NDArray[np.uint8],
    block: NDArray[np.int64],
    chosen: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the counts of the cells that examples address, without their own blocks.

    Args:
        addresses: Of all examples, ``uint64[E]``.
        positives: Which of them are positive, ``uint8[E]``.
        block: Which block each is in, ``int64[E]``.
        chosen: Whose counts are returned, ``int64[C]``.

    Returns:
        Negative and positive examples, each ``int64[C]``.
    """
    _, cells = np.unique(addresses, return_inverse=True)
    n_blocks = int(block.max()) + 1
    pairs = cells * n_blocks + block
    counts = []
    for sign in (0, 1):
        of_sign = pairs[positives == sign]
        by_block = np.bincount(of_sign, minlength=(int(cells.max()) + 1) * n_blocks)
        by_cell = by_block.reshape(-1, n_blocks).sum(axis=1)
        counts.append((by_cell[cells[chosen]] - by_block[pairs[chosen]]).astype(np.int64))
    return counts[0], counts[1]


def _logistic_fit(
    found: _Evidence, positives: NDArray[np.uint8], n_clusters: int
) -> NDArray[np.float64]:
    """Return the weights with which log-odds add up best, ``float64[n_clusters * GAINS]``.

    Newton's method from the plain mean, towards which it is pulled a little; a step that makes
    the loss worse is halved.
    """
    signs, mean = np.where(positives == 1, 1.0, -1.0), 1 / n_clusters
    n_columns = n_clusters * GAINS
    weights = np.full(n_columns, mean)
    design = found.design(n_columns)

    def loss(weights: NDArray[np.float64]) -> float:
        pull = _TOWARDS_MEAN / 2 * ((weights - mean) ** 2).sum()
        return float(softplus(-signs * found.log_odds(weights)).sum() + pull)

    current = loss(weights)
    for _ in range(_MOST_STEPS):
        p = 1 / (1 + np.exp(-found.log_odds(weights)))
        slope = found.slope(p - positives, n_columns) + _TOWARDS_MEAN * (weights - mean)
        curvature = found.curvature(p * (1 - p), n_columns, design)
        step = np.linalg.solve(curvature + _TOWARDS_MEAN * np.eye(n_columns), slope)
        following = loss(weights - step)
        while following > current and np.abs(step).max() >= _CLOSE * mean:
            step /= 2
            following = loss(weights - step)
        if following > current:
            break
        weights, current = weights - step, following
        if np.abs(step).max() < _CLOSE * mean:
            break
    return weights
