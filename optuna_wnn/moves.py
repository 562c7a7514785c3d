"""Moves: the single changes that turn a genome into a neighbour."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Dimension
from optuna_wnn.genome import Genome
from optuna_wnn.variation import last_of_fields
from optuna_wnn.variation import longest_step
from optuna_wnn.variation import next_of_fields
from optuna_wnn.variation import resize
from optuna_wnn.variation import unobserved_inputs


MoveKind = Literal["add_neuron", "remove_neuron", "add_bit", "remove_bit", "rewire"]
_REVERSES: Final[dict[MoveKind, MoveKind]] = {
    "add_neuron": "remove_neuron",
    "remove_neuron": "add_neuron",
    "add_bit": "remove_bit",
    "remove_bit": "add_bit",
    "rewire": "rewire",
}


@dataclass(frozen=True)
class Move:
    """What turns a genome into a neighbour.

    Attributes:
        kind: ``add_neuron``, ``remove_neuron``, ``add_bit``, ``remove_bit`` or ``rewire``.
        cluster: The cluster that changes.
        count: How many neurons or bits come or go; 1 for ``rewire``.
        neuron: The neuron of the genome that ``rewire`` changes, else -1.
        source: The input that ``rewire`` lets go, else -1.
        target: The input that it takes instead, else -1.
        seed: What decides the wiring of added neurons and bits.
    """

    kind: MoveKind
    cluster: int
    count: int = 1
    neuron: int = -1
    source: int = -1
    target: int = -1
    seed: int = 0

    @property
    def attribute(self) -> tuple[str, int, int, int]:
        """What a tabu list remembers of the move."""
        return (self.kind, self.cluster, self.source, self.target)

    @property
    def reverse_attribute(self) -> tuple[str, int, int, int]:
        """The attribute of the move that would undo this one."""
        return (_REVERSES[self.kind], self.cluster, self.target, self.source)


def random_move(
    genome: Genome, bounds: Bounds, free: Collection[Dimension], rng: np.random.Generator
) -> Move | None:
    """Return a random move in the free dimensions, or ``None`` where one draw finds none.

    Args:
        genome: Where the move starts.
        bounds: What the neighbour may look like.
        free: The dimensions that may change.
        rng: Source of randomness.
    """
    dimensions = [d for d in ("neurons", "bits", "connections") if d in free]
    dimension = dimensions[int(rng.integers(len(dimensions)))]
    seed = int(rng.integers(2**31))
    if dimension == "connections":
        neuron = int(rng.integers(genome.n_neurons))
        cluster = int(genome.neuron_cluster[neuron])
        row = genome.connections[genome.offsets[neuron] : genome.offsets[neuron + 1]]
        unseen = int(bounds.visible_inputs[cluster]) - len(row)
        if unseen < 1:
            return None
        if bounds.fields is None:
            source = int(row[int(rng.integers(len(row)))])
            rank = np.array([[int(rng.integers(unseen))]])
            target = int(unobserved_inputs(row[None, :], rank)[0, 0])
        else:
            one = np.ones(1, np.int64)
            dropped = last_of_fields(row[None, :], one, bounds.fields, rng)
            source = int(row[dropped[0]][0])
            target = int(next_of_fields(row[None, :], dropped, one, bounds.fields, rng)[0, 0])
        return Move("rewire", cluster, neuron=neuron, source=source, target=target)
    cluster = int(rng.integers(genome.n_clusters))
    limits = bounds.neurons if dimension == "neurons" else bounds.bits
    had = int((genome.neurons if dimension == "neurons" else genome.bits)[cluster])
    count = int(rng.integers(1, longest_step(*limits) + 1))
    grow = rng.random() < 0.5
    room = limits[1] - had if grow else had - limits[0]
    if room < 1:
        return None
    kind: MoveKind
    if dimension == "neurons":
        kind = "add_neuron" if grow else "remove_neuron"
    else:
        kind = "add_bit" if grow else "remove_bit"
    # Which bits go is drawn only where inputs are fields.
    return Move(kind, cluster, min(count, room), seed=seed if grow or bounds.fields else 0)


def apply_move(
    genome: Genome,
    move: Move,
    bounds: Bounds,
    bit_scores: NDArray[np.float64] | None = None,
) -> Genome:
    """Return the neighbour that a move leads to.

    Args:
        genome: Where the move starts; unchanged.
        move: The move.
        bounds: Says how many inputs each cluster may observe.
        bit_scores: See :func:`resize`.
    """
    if move.kind == "rewire":
        first, last = genome.offsets[move.neuron], genome.offsets[move.neuron + 1]
        row = genome.connections[first:last]
        connections = genome.connections.copy()
        connections[first:last] = np.sort(np.where(row == move.source, move.target, row))
        return Genome._trusted(genome.neurons, genome.bits, connections)
    neurons, bits = genome.neurons.copy(), genome.bits.copy()
    counts = neurons if move.kind.endswith("neuron") else bits
    counts[move.cluster] += move.count if move.kind.startswith("add") else -move.count
    return resize(genome, neurons, bits, bounds, np.random.default_rng(move.seed), bit_scores)


def add_neuron(genome: Genome, cluster: int, bounds: Bounds, rng: np.random.Generator) -> Genome:
    """Return the genome with one more neuron in ``cluster``.

    The new neuron copies the connections of a random neuron of the cluster and rewires a few of
    them, at least one, so it observes something that its model does not.

    Raises:
        ValueError: If the cluster already has the most neurons that the bounds allow.
    """
    return _one_step(genome, Move("add_neuron", cluster, seed=int(rng.integers(2**31))), bounds)


def remove_neuron(genome: Genome, cluster: int, bounds: Bounds) -> Genome:
    """Return the genome without the last, worst, neuron of ``cluster``.

    Raises:
        ValueError: If the cluster already has the fewest neurons that the bounds allow.
    """
    return _one_step(genome, Move("remove_neuron", cluster), bounds)


def add_bit(genome: Genome, cluster: int, bounds: Bounds, rng: np.random.Generator) -> Genome:
    """Return the genome in which every neuron of ``cluster`` has gained one connection.

    Raises:
        ValueError: If its neurons already have the most bits that the bounds allow.
    """
    return _one_step(genome, Move("add_bit", cluster, seed=int(rng.integers(2**31))), bounds)


def remove_bit(
    genome: Genome,
    cluster: int,
    bounds: Bounds,
    bit_scores: NDArray[np.float64] | None = None,
) -> Genome:
    """Return the genome in which every neuron of ``cluster`` has lost one connection.

    Args:
        genome: The genome; unchanged.
        cluster: The cluster that changes.
        bounds: What the neighbour may look like.
        bit_scores: How much each connection tells its neuron, ``float64[C]``: the lowest goes;
            if ``None``, the last goes.

    Raises:
        ValueError: If its neurons already have the fewest bits that the bounds allow.
    """
    return _one_step(genome, Move("remove_bit", cluster), bounds, bit_scores)


def _one_step(
    genome: Genome,
    move: Move,
    bounds: Bounds,
    bit_scores: NDArray[np.float64] | None = None,
) -> Genome:
    of_neurons = move.kind.endswith("neuron")
    had = int((genome.neurons if of_neurons else genome.bits)[move.cluster])
    low, high = bounds.neurons if of_neurons else bounds.bits
    wanted = had + (1 if move.kind.startswith("add") else -1)
    if not low <= wanted <= high:
        what = "neurons" if of_neurons else "bits"
        raise ValueError(
            f"cluster {move.cluster} has {had} {what}; the bounds are {low} to {high}"
        )
    return apply_move(genome, move, bounds, bit_scores)
