"""How genomes vary: connection-preserving mutation, and crossover of whole clusters.

Every function is pure: it takes a genome and a source of randomness and returns a new genome. A
variation changes only what it is asked to change; all other neurons keep their connections byte
for byte. There is no Python loop over clusters, neurons or connections, so a genome of 50,257
clusters and two million connections varies in tens of milliseconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.genome import DIMENSIONS
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Dimension
from optuna_wnn.genome import Genome
from optuna_wnn.genome import segment_indices


_STEP: Final = 0.1  # of the range of counts: the longest step that one mutation or move takes
_REWIRED_NEURONS: Final = 0.05  # of a mutated cluster's neurons get one connection rewired
_NEW_OBSERVER: Final = 0.25  # of a copied neuron's connections are rewired at the most
_NOTHING: Final = np.iinfo(np.int32).max  # pads rows of unequal length; sorts behind every input


# -- drawing distinct numbers, many sets at once ------------------------------------------------


def _distinct(
    sizes: NDArray[np.int64], counts: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw, for every row, ``counts`` distinct numbers below ``sizes``, uniformly.

    Reference: Floyd's algorithm in Bentley, "Programming pearls: a sample of brilliance",
    Communications of the ACM 30(9), 1987; one step of it for all rows at a time.

    Returns:
        ``int64[rows, max(counts)]``; a row's places beyond its count hold -1.
    """
    rows, width = len(sizes), int(counts.max(initial=0))
    drawn = np.full((rows, width), -1, np.int64)
    for i in range(width):
        last = sizes - counts + i
        number = (rng.random(rows) * (last + 1)).astype(np.int64)
        taken = (drawn[:, :i] == number[:, None]).any(axis=1)
        drawn[:, i] = np.where(i < counts, np.where(taken, last, number), -1)
    return drawn


def _rows(genome: Genome, picked: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the connections of some neurons as rows padded to equal length."""
    bits = genome.neuron_bits[picked].astype(np.int64)
    rows = np.full((len(picked), int(bits.max(initial=0))), _NOTHING, np.int32)
    filled = np.arange(rows.shape[1]) < bits[:, None]
    rows[filled] = genome.connections[segment_indices(genome.offsets[picked], bits)]
    return rows


def unobserved_inputs(rows: NDArray[np.int32], ranks: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the ``rank``-th input that a row does not observe, for every rank of every row."""
    # The i-th connection c has c - i unobserved inputs below it, a sequence that never falls.
    below = rows.astype(np.int64) - np.arange(rows.shape[1])
    observed_before = (below[:, None, :] <= ranks[:, :, None]).sum(axis=2)
    return np.where(ranks < 0, _NOTHING, ranks + observed_before).astype(np.int32)


def _exchange(
    genome: Genome,
    picked: NDArray[np.int64],
    dropped: NDArray[np.bool_],
    gains: NDArray[np.int64],
    bounds: Bounds,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Take connections from some neurons and give them others that they did not have.

    Args:
        genome: The neurons' genome.
        picked: Neurons, ``int64[M]``.
        dropped: Which connections each of them loses, ``bool[M, most bits among them]``.
        gains: How many new ones each gets, ``int64[M]``.
        bounds: Says how many inputs each cluster may observe.
        rng: Source of randomness.

    Returns:
        The new connections of the picked neurons, flat, and how many each has.
    """
    rows = _rows(genome, picked)
    had = genome.neuron_bits[picked].astype(np.int64)
    visible = bounds.visible_inputs[genome.neuron_cluster[picked]]
    if bounds.fields is None:
        gained = unobserved_inputs(rows, _distinct(visible - had, gains, rng))
    else:
        gained = next_of_fields(rows, dropped, gains, bounds.fields, rng)
    merged = np.concatenate([np.where(dropped, _NOTHING, rows), gained], axis=1)
    merged.sort(axis=1)
    lengths = had - dropped.sum(axis=1) + gains
    return merged[np.arange(merged.shape[1]) < lengths[:, None]], lengths


def _drop_random(
    counts: NDArray[np.int64], bits: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Mark ``counts`` random connections of every row of ``bits`` connections."""
    places = _distinct(bits, counts, rng)
    marks = np.zeros((len(bits), int(bits.max(initial=0)) + 1), bool)  # the last takes the -1s
    marks[np.arange(len(bits))[:, None], places] = True
    return marks[:, :-1]


def _rebuilt(
    genome: Genome,
    neurons: NDArray[np.int32],
    bits: NDArray[np.int32],
    sources: NDArray[np.int64],
    changed: NDArray[np.int64],
    new_rows: NDArray[np.int32],
) -> Genome:
    """Return a genome whose neuron ``n`` copies ``sources[n]``, except for the ``changed`` ones.

    Args:
        genome: Where unchanged neurons come from.
        neurons: The new neuron counts.
        bits: The new bit counts.
        sources: For each new neuron the one that it copies, ``int64[N']``.
        changed: Ascending indices of new neurons whose connections are in ``new_rows`` instead.
        new_rows: Those connections, flat.
    """
    lengths = np.repeat(bits, neurons).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    connections = np.empty(int(lengths.sum()), np.int32)
    copied = np.ones(len(sources), bool)
    copied[changed] = False
    connections[segment_indices(starts[copied], lengths[copied])] = genome.connections[
        segment_indices(genome.offsets[sources[copied]], lengths[copied])
    ]
    connections[segment_indices(starts[changed], lengths[changed])] = new_rows
    return Genome._trusted(neurons, bits, connections)


# -- inputs that are fields of bits --------------------------------------------------------------


def _observed(rows: NDArray[np.int32], fields: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which bits of each field rows observe, ``bool[rows, fields, bits]``."""
    observed = np.zeros((len(rows), fields[0] * fields[1]), bool)
    row, place = np.nonzero(rows < observed.shape[1])
    observed[row, rows[row, place]] = True
    return observed.reshape(len(rows), *fields)


def last_of_fields(
    rows: NDArray[np.int32],
    counts: NDArray[np.int64],
    fields: tuple[int, int],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Mark connections that neurons give up, one after the other the last bit of a random field.

    Inputs after the fields go only when no field is observed any more, the last ones first.

    Args:
        rows: Connections, ascending and padded, ``int32[M, width]``.
        counts: How many each neuron gives up, ``int64[M]``.
        fields: See :class:`Bounds`.
        rng: Source of randomness.
    """
    observed, marks = _observed(rows, fields), np.zeros(rows.shape, bool)
    for i in range(int(counts.max(initial=0))):
        held = np.any(observed, axis=2)
        field = np.argmax(rng.random(held.shape) * held, axis=1)
        active = np.flatnonzero((i < counts) & held.any(axis=1))
        field = field[active]
        bit = fields[1] - 1 - np.argmax(observed[active, field, ::-1], axis=1)
        observed[active, field, bit] = False
        marks[active] |= rows[active] == (field * fields[1] + bit)[:, None]
    left = (rows != _NOTHING) & ~marks
    from_the_end = left[:, ::-1].cumsum(axis=1)[:, ::-1]
    marks |= left & (from_the_end <= (counts - marks.sum(axis=1))[:, None])
    return marks


def next_of_fields(
    rows: NDArray[np.int32],
    dropped: NDArray[np.bool_],
    counts: NDArray[np.int64],
    fields: tuple[int, int],
    rng: np.random.Generator,
) -> NDArray[np.int32]:
    """Return inputs that neurons take, one after the other the next bit of a field.

    All fields that have one are as likely, but one that gave up a bit comes only where all others
    are full. Inputs after the fields come when no field has any left.

    Args:
        rows: Connections, ascending and padded, ``int32[M, width]``.
        dropped: Which of them are given up: those are not taken again, ``bool[M, width]``.
        counts: How many each neuron takes, ``int64[M]``; no more than it does not observe.
        fields: See :class:`Bounds`.
        rng: Source of randomness.

    Returns:
        ``int32[M, max(counts)]``, padded.
    """
    observed = _observed(rows, fields)
    gave = np.any(_observed(np.where(dropped, rows, _NOTHING), fields), axis=2)
    taken = np.full((len(rows), int(counts.max(initial=0))), _NOTHING, np.int32)
    for i in range(taken.shape[1]):
        room = ~np.all(observed, axis=2)
        chances = rng.random(room.shape) + np.where(gave, 0.0, 1.0)
        field = np.argmax(room * chances, axis=1)
        active = np.flatnonzero((i < counts) & room.any(axis=1))
        field = field[active]
        bit = np.argmin(observed[active, field], axis=1)
        observed[active, field, bit] = True
        taken[active, i] = field * fields[1] + bit
    missing = (taken == _NOTHING) & (np.arange(taken.shape[1]) < counts[:, None])
    for row, place in zip(*np.nonzero(missing), strict=True):
        known = {*rows[row].tolist(), *taken[row].tolist()}
        taken[row, place] = next(
            n for n in itertools.count(fields[0] * fields[1]) if n not in known
        )
    return taken


# -- new genomes ---------------------------------------------------------------------------------


def random_genome(
    bounds: Bounds,
    rng: np.random.Generator,
    *,
    neurons: NDArray[np.int32] | int | None = None,
    bits: NDArray[np.int32] | int | None = None,
) -> Genome:
    """Return a genome with random wiring.

    Args:
        bounds: What it may look like.
        rng: Source of randomness.
        neurons: Neurons per cluster, one number or ``int32[K]``; drawn from the bounds if
            ``None``.
        bits: Bits per neuron, likewise.

    Returns:
        A genome in which every neuron observes a uniformly drawn set of visible inputs.
    """

    def counts(given: NDArray[np.int32] | int | None, low: int, high: int) -> NDArray[np.int32]:
        if given is None:
            return rng.integers(low, high + 1, bounds.n_clusters, dtype=np.int32)
        return np.broadcast_to(np.asarray(given, np.int32), bounds.n_clusters).copy()

    neurons, bits = counts(neurons, *bounds.neurons), counts(bits, *bounds.bits)
    per_neuron = np.repeat(bits, neurons).astype(np.int64)
    visible = np.repeat(bounds.visible_inputs, neurons).astype(np.int64)
    drawn = _distinct(visible, per_neuron, rng)
    drawn[drawn < 0] = _NOTHING
    drawn.sort(axis=1)
    connections = drawn[np.arange(drawn.shape[1]) < per_neuron[:, None]]
    return Genome._trusted(neurons, bits, connections.astype(np.int32))


def crossover(first: Genome, second: Genome, from_second: NDArray[np.bool_]) -> Genome:
    """Return a child that takes each cluster, shape and wiring together, from either parent.

    Args:
        first: A parent.
        second: The other one, with as many clusters.
        from_second: Which clusters come from ``second``, ``bool[K]``.
    """
    neurons = np.where(from_second, second.neurons, first.neurons)
    bits = np.where(from_second, second.bits, first.bits)
    lengths = neurons.astype(np.int64) * bits
    starts = np.where(
        from_second,
        second.offsets[second.cluster_starts[:-1]] + first.n_connections,
        first.offsets[first.cluster_starts[:-1]],
    )
    pool = np.concatenate([first.connections, second.connections])
    return Genome._trusted(neurons, bits, pool[segment_indices(starts, lengths)])


def resize(
    genome: Genome,
    neurons: NDArray[np.int32],
    bits: NDArray[np.int32],
    bounds: Bounds,
    rng: np.random.Generator,
    bit_scores: NDArray[np.float64] | None = None,
) -> Genome:
    """Return the genome with other neuron and bit counts, keeping every connection it can.

    A cluster that loses neurons loses its last ones, the worst. One that gains neurons gets
    copies of random neurons of its own, each with at least one connection rewired, so that it
    observes something that its model does not. Neurons that gain bits keep all they have and get
    inputs that they do not have yet; neurons that lose bits lose the least informative.

    Args:
        genome: The genome; unchanged.
        neurons: The wanted neurons per cluster, ``int32[K]``.
        bits: The wanted bits per neuron, ``int32[K]``.
        bounds: Says how many inputs each cluster may observe.
        rng: Source of randomness.
        bit_scores: How much each connection tells its neuron, ``float64[C]``; if ``None``, the
            last ones of a neuron are taken for the least informative.
    """
    old, new = genome.neurons.astype(np.int64), neurons.astype(np.int64)
    starts = np.cumsum(new) - new
    cluster = np.repeat(np.arange(genome.n_clusters), new)
    place = np.arange(len(cluster)) - starts[cluster]
    is_copy = place >= old[cluster]
    model = (rng.random(int(is_copy.sum())) * old[cluster[is_copy]]).astype(np.int64)
    place[is_copy] = model
    sources = genome.cluster_starts[cluster] + place

    growth = (bits - genome.bits)[cluster].astype(np.int64)
    changed = np.flatnonzero(is_copy | (growth != 0))
    had = genome.bits[cluster[changed]].astype(np.int64)
    visible = bounds.visible_inputs[cluster[changed]]
    # A copy that loses bits is a new observer only if it also gains one, so it rewires as well.
    most = np.minimum(np.maximum(1, (had * _NEW_OBSERVER).astype(np.int64)), visible - had)
    most = np.where(is_copy[changed], np.minimum(most, visible - had - growth[changed]), 0)
    rewired = 1 + (rng.random(len(changed)) * most).astype(np.int64)
    rewired = np.where(most > 0, np.minimum(rewired, had + np.minimum(growth[changed], 0)), 0)
    losses = np.maximum(-growth[changed], 0)
    gains = np.maximum(growth[changed], 0) + rewired

    picked = sources[changed]
    if bounds.fields is None or bit_scores is not None:
        dropped = _least_informative(genome, picked, losses, bit_scores)
        dropped |= _drop_among(~dropped, had, rewired, rng)
    else:
        dropped = last_of_fields(_rows(genome, picked), losses + rewired, bounds.fields, rng)
    new_rows, _ = _exchange(genome, picked, dropped, gains, bounds, rng)
    return _rebuilt(genome, neurons, bits, sources, changed, new_rows)


def _least_informative(
    genome: Genome,
    picked: NDArray[np.int64],
    counts: NDArray[np.int64],
    bit_scores: NDArray[np.float64] | None,
) -> NDArray[np.bool_]:
    """Mark the ``counts`` connections of every picked neuron that tell it least."""
    had = genome.neuron_bits[picked].astype(np.int64)
    width = int(had.max(initial=0))
    place = np.arange(width)
    exists = place < had[:, None]
    if bit_scores is None:
        return exists & (place >= (had - counts)[:, None])
    scores = np.full((len(picked), width), np.inf)
    scores[exists] = bit_scores[segment_indices(genome.offsets[picked], had)]
    rank = np.argsort(np.argsort(scores, axis=1, kind="stable"), axis=1, kind="stable")
    return exists & (rank < counts[:, None])


def _drop_among(
    allowed: NDArray[np.bool_],
    bits: NDArray[np.int64],
    counts: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Mark ``counts`` random connections of every row among those that are allowed."""
    width = allowed.shape[1]
    allowed = allowed & (np.arange(width) < bits[:, None])
    order = np.argsort(~allowed, axis=1, kind="stable")  # allowed places first, in order
    marks = _drop_random(counts, allowed.sum(axis=1), rng)
    marks = np.pad(marks, ((0, 0), (0, width - marks.shape[1])))
    result = np.zeros_like(allowed)
    np.put_along_axis(result, order, marks, axis=1)
    return result


def rewire(
    genome: Genome, picked: NDArray[np.int64], bounds: Bounds, rng: np.random.Generator
) -> Genome:
    """Return the genome with one connection of each picked neuron moved to an unobserved input.

    Args:
        genome: The genome; unchanged.
        picked: Distinct neurons, ascending, ``int64[M]``; those that observe every visible input
            have nowhere to move and stay as they are.
        bounds: Says how many inputs each cluster may observe.
        rng: Source of randomness.
    """
    bits = genome.neuron_bits[picked].astype(np.int64)
    movable = bits < bounds.visible_inputs[genome.neuron_cluster[picked]]
    picked, bits = picked[movable], bits[movable]
    ones = np.ones(len(picked), np.int64)
    if bounds.fields is None:
        dropped = _drop_random(ones, bits, rng)
    else:
        dropped = last_of_fields(_rows(genome, picked), ones, bounds.fields, rng)
    new_rows, _ = _exchange(genome, picked, dropped, ones, bounds, rng)
    return _rebuilt(
        genome, genome.neurons, genome.bits, np.arange(genome.n_neurons), picked, new_rows
    )


# -- mutation ------------------------------------------------------------------------------------


def mutate(
    genome: Genome,
    bounds: Bounds,
    free: Collection[Dimension],
    rate: float,
    rng: np.random.Generator,
) -> Genome:
    """Return a mutant that differs in the free dimensions only.

    Each cluster mutates with probability ``rate``, and at least one does, each in one of the
    free dimensions drawn at random: small steps are better ones. A count moves by a uniform step
    of at most a tenth of its range; in a cluster whose connections mutate, one neuron in twenty,
    and at least one, has one connection rewired.

    Args:
        genome: The genome; unchanged.
        bounds: What the mutant may look like.
        free: The dimensions that may change.
        rate: Probability per cluster, in [0, 1].
        rng: Source of randomness.
    """
    hit = rng.random(genome.n_clusters) < rate
    hit[rng.integers(genome.n_clusters)] = True
    names = [name for name in DIMENSIONS if name in free]
    drawn = rng.integers(len(names), size=genome.n_clusters)
    mutates = {name: hit & (drawn == i) for i, name in enumerate(names)}
    neurons, bits = genome.neurons, genome.bits
    if "neurons" in free:
        neurons = np.where(mutates["neurons"], _stepped(neurons, bounds.neurons, rng), neurons)
    if "bits" in free:
        bits = np.where(mutates["bits"], _stepped(bits, bounds.bits, rng), bits)
    mutant = genome
    if neurons is not genome.neurons or bits is not genome.bits:
        mutant = resize(genome, neurons, bits, bounds, rng)
    if "connections" in free:
        chance = rng.random(mutant.n_neurons)
        starts = mutant.cluster_starts
        luckiest = starts[:-1] + (rng.random(len(hit)) * mutant.neurons).astype(np.int64)
        chance[luckiest] = 0.0
        wired = mutates["connections"][mutant.neuron_cluster]
        picked = np.flatnonzero(wired & (chance < _REWIRED_NEURONS))
        mutant = rewire(mutant, picked, bounds, rng)
    return mutant


def longest_step(low: int, high: int) -> int:
    """Return how far a count moves at the most in one mutation or move."""
    return max(1, round(_STEP * (high - low)))


def _stepped(
    counts: NDArray[np.int32], limits: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.int32]:
    """Return counts moved by a random step each, turned back where it would leave the limits."""
    low, high = limits
    if low == high:
        return counts
    step = rng.integers(1, longest_step(low, high) + 1, len(counts), dtype=np.int32)
    step = np.where(rng.random(len(counts)) < 0.5, -step, step)
    outside = (counts + step < low) | (counts + step > high)
    return np.clip(np.where(outside, counts - step, counts + step), low, high).astype(np.int32)
