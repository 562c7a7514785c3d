"""Whether a GPU computes what the definition says: one neuron, and one sum made in two ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators.cells import sample_keys
from optuna_wnn.evaluators.cells import sampled
from optuna_wnn.evaluators.chained import Queries
from optuna_wnn.evaluators.plain import neuron_votes
from optuna_wnn.evaluators.plain import number_cells
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes


if TYPE_CHECKING:
    from optuna_wnn.evaluators.base import Evaluator


def check_sums(votes: ClusterVotes) -> None:
    """Check that votes added up per example and per neuron come to the same.

    Raises:
        InputError: If they do not.
    """
    if votes.sums.sum() != votes.scores.sum():
        _complain("votes summed by example and by neuron differ")


def check_first_neuron(
    evaluator: Evaluator, cluster: Cluster, votes: ClusterVotes, reading: Reading
) -> None:
    """Check what the first neuron of a cluster votes against NumPy.

    Raises:
        InputError: If it is something else.
    """
    expected = first_scores(evaluator, cluster, reading)
    if not np.array_equal(votes.scores[0], expected):
        _complain(f"a neuron votes {votes.scores[0].tolist()}, not {expected.tolist()}")


def check_answers(
    evaluator: Evaluator,
    cluster: Cluster,
    votes: NDArray[np.int64],
    reading: Reading,
    queries: Queries,
) -> None:
    """Check what a cluster of one neuron votes on queries against NumPy.

    Raises:
        InputError: If it is something else.
    """
    expected = _first_votes(evaluator, cluster, reading, queries.inputs, queries.rows)
    wrong = np.flatnonzero(votes != expected)
    if len(wrong):
        q = wrong[0]
        _complain(f"a neuron answers {votes[q]} where no example is, not {expected[q]}")


def check_loss(found: NDArray[np.int64], expected: NDArray[np.int64]) -> None:
    """Check the loss of a move that is kept against NumPy, ``int64[2]``.

    Raises:
        InputError: If it is something else.
    """
    if not np.array_equal(found, expected):
        _complain(f"a move's loss is {found.tolist()}, not {expected.tolist()}")


def first_scores(evaluator: Evaluator, cluster: Cluster, reading: Reading) -> NDArray[np.int64]:
    """Return the scores of a cluster's first neuron, with NumPy alone; see ClusterVotes."""
    votes = _first_votes(evaluator, cluster, reading, reading.examples.inputs, None)
    wanted = evaluator.positives(reading, cluster.index) == 1
    return np.array([votes[~wanted].sum(), votes[wanted].sum()])


def _first_votes(
    evaluator: Evaluator,
    cluster: Cluster,
    reading: Reading,
    read: NDArray[np.uint64],
    rows: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """Return what a cluster's first neuron votes on inputs, which stand for some examples."""
    n_trained, observed = reading.n_trained, cluster.connections[0]
    inputs = np.concatenate([evaluator.task.train.inputs[:n_trained], read])
    bits = (inputs[:, observed // 64] >> (observed % 64).astype(np.uint64)) & np.uint64(1)
    cells = number_cells(bits.astype(np.uint8))
    kept = np.ones(n_trained, bool)
    chosen = evaluator.trained_on(reading, cluster.index)
    if chosen is not None:
        kept = np.isin(np.arange(n_trained), chosen)
    memory = evaluator.memory
    if memory.sample_rate < 1:
        (key,) = sample_keys(cluster.hashes[:1], memory.sample_seed)
        kept = sampled(key, n_trained, memory.sample_rate)
    return neuron_votes(
        evaluator.cells.of_cluster(cluster.index),
        cells[:n_trained],
        evaluator.trained_positives(reading, cluster.index),
        kept,
        cells[n_trained:],
        reading.blocks,
        rows,
    )


def _complain(what: str) -> None:
    raise InputError(
        f"evaluator.backend: mlx is wrong on this machine ({what}); take cpu, and report it"
    )
