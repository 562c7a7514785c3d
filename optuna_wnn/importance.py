"""Which input bits matter to each cluster: its connections, weighed by what their neurons tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.genome import Genome


@dataclass(frozen=True, eq=False)
class Importance:
    """How much each input bit matters to each output of the head.

    Attributes:
        weights: ``float64[U, B]``, not negative. A row sums to the separations of the neurons
            that vote for the output, those below 0 left out.
        input_groups: How the inputs are laid out: (positions, bits per position).
        picture: Height and width where positions are pixels, else ``None``.
        clusters: What a row is of: a ``class`` or a ``bit``.
    """

    weights: NDArray[np.float64]
    input_groups: tuple[int, int]
    picture: tuple[int, int] | None
    clusters: str


def importance(evaluator: Evaluator, genome: Genome) -> Importance:
    """Return how much each input bit matters to each output of a genome.

    A neuron's separation is its mean vote where the target is positive, less that where it is
    negative, on what guides a search. Its connections share it equally.

    Args:
        evaluator: Trains and reads the genome.
        genome: Fits the evaluator's task.

    Raises:
        InputError: If the genome does not fit, or its head is ``tokens``.
    """
    task = evaluator.task
    if task.head == "tokens":
        raise InputError("importance: the tokens head has none; its clusters are too many to draw")
    separations = evaluator.separations(genome)
    weights = weights_of(genome, separations, task.n_inputs)
    return Importance(
        weights.reshape(task.n_head_outputs, -1, task.n_inputs).sum(axis=1),
        task.input_groups,
        task.picture,
        "class" if task.head == "classes" else "bit",
    )


def weights_of(
    genome: Genome, separations: NDArray[np.float64], n_inputs: int
) -> NDArray[np.float64]:
    """Return the summed shares of each cluster's connections, ``float64[K, B]``.

    Args:
        genome: ``N`` neurons of ``K`` clusters.
        separations: ``float64[N]``; those below 0 count as 0.
        n_inputs: ``B``.
    """
    bits: NDArray[np.integer[Any]] = genome.neuron_bits
    shares = np.repeat(np.maximum(separations, 0.0) / bits, bits)
    places = np.repeat(genome.neuron_cluster.astype(np.int64), bits) * n_inputs
    size = genome.n_clusters * n_inputs
    summed: NDArray[np.float64] = np.bincount(
        places + genome.connections, weights=shares, minlength=size
    ).astype(np.float64)
    return summed.reshape(genome.n_clusters, n_inputs)
