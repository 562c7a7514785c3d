"""Variation: what changes is what was asked for, and nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import given
from hypothesis import strategies as st
from strategies import bounded_genomes
from strategies import bounds as some_bounds
from strategies import genomes
from strategies import seeds

from optuna_wnn.genome import DIMENSIONS
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Dimension
from optuna_wnn.genome import Genome
from optuna_wnn.moves import Move
from optuna_wnn.moves import add_bit
from optuna_wnn.moves import add_neuron
from optuna_wnn.moves import apply_move
from optuna_wnn.moves import random_move
from optuna_wnn.moves import remove_bit
from optuna_wnn.moves import remove_neuron
from optuna_wnn.variation import crossover
from optuna_wnn.variation import longest_step
from optuna_wnn.variation import mutate
from optuna_wnn.variation import random_genome
from optuna_wnn.variation import resize
from optuna_wnn.variation import rewire


BOUNDS = Bounds(4, 30, (1, 6), (2, 8), (30, 8, 20, 30))
DIMENSION_OF = {
    "add_neuron": "neurons",
    "remove_neuron": "neurons",
    "add_bit": "bits",
    "remove_bit": "bits",
    "rewire": "connections",
}
free_dimensions = st.lists(st.sampled_from(DIMENSIONS), min_size=1, unique=True)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_valid(genome: Genome, bounds: Bounds) -> None:
    """Check a genome as if its arrays came from a stranger."""
    Genome(genome.neurons, genome.bits, genome.connections).check(bounds)
    for name in DIMENSIONS:
        assert getattr(genome, name).dtype == np.int32
        assert not getattr(genome, name).flags.writeable


def inputs(row: np.ndarray[tuple[int], np.dtype[np.int32]]) -> set[int]:
    return set(row.tolist())


# -- new genomes ----------------------------------------------------------------------------------


@given(some_bounds(), seeds)
def test_a_random_genome_is_within_bounds(bounds: Bounds, seed: int) -> None:
    assert_valid(random_genome(bounds, rng(seed)), bounds)


def test_a_random_genome_has_the_counts_it_is_given() -> None:
    genome = random_genome(BOUNDS, rng(0), neurons=3, bits=np.array([2, 3, 4, 5], np.int32))
    assert genome.neurons.tolist() == [3, 3, 3, 3]
    assert genome.bits.tolist() == [2, 3, 4, 5]


def test_random_wiring_is_uniform() -> None:
    """Every pair of 6 inputs is equally likely: 15 pairs, 6,000 neurons, 400 each expected."""
    bounds = Bounds(1, 6, (6000, 6000), (2, 2))
    pairs = Counter(map(tuple, random_genome(bounds, rng(1)).cluster(0).tolist()))
    assert len(pairs) == 15
    assert 320 < min(pairs.values()) <= max(pairs.values()) < 480


def test_a_neuron_can_observe_everything_it_may() -> None:
    bounds = Bounds(2, 5, (2, 2), (3, 3), (3, 5))
    assert random_genome(bounds, rng(0)).cluster(0).tolist() == [[0, 1, 2], [0, 1, 2]]


# -- crossover ------------------------------------------------------------------------------------


@given(some_bounds(), seeds)
def test_crossover_takes_whole_clusters(bounds: Bounds, seed: int) -> None:
    first, second = random_genome(bounds, rng(seed)), random_genome(bounds, rng(seed + 1))
    from_second = rng(seed).random(bounds.n_clusters) < 0.5
    child = crossover(first, second, from_second)
    assert_valid(child, bounds)
    for k, which in enumerate(from_second):
        parent = second if which else first
        assert np.array_equal(child.cluster(k), parent.cluster(k))


# -- single steps ---------------------------------------------------------------------------------


def assert_other_clusters_stay(before: Genome, after: Genome, cluster: int) -> None:
    for k in range(before.n_clusters):
        if k != cluster:
            assert np.array_equal(before.cluster(k), after.cluster(k))


@given(genomes(BOUNDS), st.integers(0, 3), seeds)
def test_add_neuron_copies_one_of_its_cluster_and_rewires_a_few(
    genome: Genome, cluster: int, seed: int
) -> None:
    assume(genome.neurons[cluster] < BOUNDS.neurons[1])
    bits, visible = genome.bits[cluster], BOUNDS.visible_inputs[cluster]
    after = add_neuron(genome, cluster, BOUNDS, rng(seed))
    assert_valid(after, BOUNDS)
    assert_other_clusters_stay(genome, after, cluster)
    assert np.array_equal(after.cluster(cluster)[:-1], genome.cluster(cluster))
    new = inputs(after.cluster(cluster)[-1])
    rewired = min(len(new - inputs(model)) for model in genome.cluster(cluster))
    assert rewired <= max(1, bits // 4)
    if bits < visible:
        # It is no copy of the neuron that it was modelled on; that it may equal another is chance.
        assert len(genome.cluster(cluster)) > 1 or rewired >= 1


@given(genomes(BOUNDS), st.integers(0, 3))
def test_remove_neuron_drops_the_last_the_worst(genome: Genome, cluster: int) -> None:
    assume(genome.neurons[cluster] > BOUNDS.neurons[0])
    after = remove_neuron(genome, cluster, BOUNDS)
    assert_valid(after, BOUNDS)
    assert_other_clusters_stay(genome, after, cluster)
    assert np.array_equal(after.cluster(cluster), genome.cluster(cluster)[:-1])


@given(genomes(BOUNDS), st.integers(0, 3), seeds)
def test_add_bit_keeps_all_connections_and_gains_one_per_neuron(
    genome: Genome, cluster: int, seed: int
) -> None:
    assume(genome.bits[cluster] < BOUNDS.bits[1])
    after = add_bit(genome, cluster, BOUNDS, rng(seed))
    assert_valid(after, BOUNDS)
    assert_other_clusters_stay(genome, after, cluster)
    for old, new in zip(genome.cluster(cluster), after.cluster(cluster), strict=True):
        assert inputs(old) < inputs(new)
        assert len(new) == len(old) + 1


@given(genomes(BOUNDS), st.integers(0, 3))
def test_remove_bit_drops_the_last_where_nothing_is_known(genome: Genome, cluster: int) -> None:
    assume(genome.bits[cluster] > BOUNDS.bits[0])
    after = remove_bit(genome, cluster, BOUNDS)
    assert_valid(after, BOUNDS)
    assert_other_clusters_stay(genome, after, cluster)
    assert np.array_equal(after.cluster(cluster), genome.cluster(cluster)[:, :-1])


@given(genomes(BOUNDS), st.integers(0, 3), seeds)
def test_remove_bit_drops_the_lowest_score(genome: Genome, cluster: int, seed: int) -> None:
    assume(genome.bits[cluster] > BOUNDS.bits[0])
    scores = rng(seed).random(genome.n_connections)
    after = remove_bit(genome, cluster, BOUNDS, scores)
    assert_valid(after, BOUNDS)
    assert_other_clusters_stay(genome, after, cluster)
    first, last = genome.cluster_starts[cluster : cluster + 2]
    for neuron in range(first, last):
        span = slice(genome.offsets[neuron], genome.offsets[neuron + 1])
        worst = genome.connections[span][np.argmin(scores[span])]
        kept = after.cluster(cluster)[neuron - first]
        assert inputs(genome.connections[span]) - inputs(kept) == {int(worst)}


@pytest.mark.parametrize("step", [add_neuron, add_bit])
def test_a_step_over_the_upper_bound_is_refused(step: object) -> None:
    bounds = Bounds(1, 9, (2, 2), (3, 3))
    with pytest.raises(ValueError, match="cluster 0 has"):
        step(random_genome(bounds, rng(0)), 0, bounds, rng(0))  # type: ignore[operator]


@pytest.mark.parametrize("step", [remove_neuron, remove_bit])
def test_a_step_under_the_lower_bound_is_refused(step: object) -> None:
    bounds = Bounds(1, 9, (2, 2), (3, 3))
    with pytest.raises(ValueError, match="cluster 0 has"):
        step(random_genome(bounds, rng(0)), 0, bounds)  # type: ignore[operator]


@given(bounded_genomes(), seeds)
def test_rewire_moves_one_connection_of_each_picked_neuron(
    drawn: tuple[Bounds, Genome], seed: int
) -> None:
    bounds, genome = drawn
    picked = np.flatnonzero(rng(seed).random(genome.n_neurons) < 0.5)
    after = rewire(genome, picked, bounds, rng(seed))
    assert_valid(after, bounds)
    assert np.array_equal(after.neurons, genome.neurons)
    assert np.array_equal(after.bits, genome.bits)
    for n in range(genome.n_neurons):
        span = slice(genome.offsets[n], genome.offsets[n + 1])
        old, new = inputs(genome.connections[span]), inputs(after.connections[span])
        movable = len(old) < bounds.visible_inputs[genome.neuron_cluster[n]]
        assert len(old - new) == len(new - old) == int(n in picked and movable)


def test_rewire_reaches_every_unobserved_input_equally_often() -> None:
    bounds = Bounds(1, 6, (6000, 6000), (2, 2))
    genome = Genome.of_clusters([np.tile([1, 4], (6000, 1))])
    after = rewire(genome, np.arange(6000), bounds, rng(3))
    gained = Counter(x for row in after.cluster(0).tolist() for x in row if x not in (1, 4))
    lost = Counter(x for row in after.cluster(0).tolist() for x in (1, 4) if x not in row)
    assert set(gained) == {0, 2, 3, 5}
    assert 1350 < min(gained.values()) <= max(gained.values()) < 1650
    assert 2800 < lost[1] < 3200


# -- resize ---------------------------------------------------------------------------------------


@given(bounded_genomes(), seeds)
def test_resize_keeps_every_connection_it_can(drawn: tuple[Bounds, Genome], seed: int) -> None:
    bounds, genome = drawn
    wanted = random_genome(bounds, rng(seed))
    after = resize(genome, wanted.neurons, wanted.bits, bounds, rng(seed + 1))
    assert_valid(after, bounds)
    assert after.neurons.tolist() == wanted.neurons.tolist()
    assert after.bits.tolist() == wanted.bits.tolist()
    for k in range(genome.n_clusters):
        kept = min(genome.neurons[k], after.neurons[k])
        for old, new in zip(genome.cluster(k)[:kept], after.cluster(k)[:kept], strict=True):
            assert len(inputs(old) & inputs(new)) == min(len(old), len(new))


@given(bounded_genomes(), seeds)
def test_resize_to_the_same_counts_changes_nothing(
    drawn: tuple[Bounds, Genome], seed: int
) -> None:
    bounds, genome = drawn
    assert resize(genome, genome.neurons, genome.bits, bounds, rng(seed)) == genome


@given(seeds)
def test_copies_are_new_observers_even_while_bits_change(seed: int) -> None:
    """The grown cluster has no neuron twice, although its only neuron was the model of all."""
    bounds = Bounds(1, 1000, (1, 5), (1, 12))
    genome = random_genome(bounds, rng(seed), neurons=1, bits=6)
    for bits in (4, 6, 8):
        counts = np.array([4], np.int32), np.array([bits], np.int32)
        after = resize(genome, *counts, bounds, rng(seed))
        model = inputs(after.cluster(0)[0])
        assert all(inputs(row) != model for row in after.cluster(0)[1:])


# -- mutation -------------------------------------------------------------------------------------


@given(bounded_genomes(), free_dimensions, st.floats(0, 1), seeds)
def test_a_mutant_differs_in_the_free_dimensions_only(
    drawn: tuple[Bounds, Genome], free: list[Dimension], rate: float, seed: int
) -> None:
    bounds, genome = drawn
    mutant = mutate(genome, bounds, free, rate, rng(seed))
    assert_valid(mutant, bounds)
    if "neurons" not in free:
        assert np.array_equal(mutant.neurons, genome.neurons)
    if "bits" not in free:
        assert np.array_equal(mutant.bits, genome.bits)
    for name, limits in (("neurons", bounds.neurons), ("bits", bounds.bits)):
        moved = np.abs(getattr(mutant, name) - getattr(genome, name))
        assert moved.max() <= longest_step(*limits)
    if "connections" in free:
        return
    for k in range(genome.n_clusters):
        kept = min(genome.neurons[k], mutant.neurons[k])
        for old, new in zip(genome.cluster(k)[:kept], mutant.cluster(k)[:kept], strict=True):
            assert len(inputs(old) & inputs(new)) == min(len(old), len(new))


@given(genomes(BOUNDS), seeds)
def test_a_cluster_mutates_in_one_dimension_at_a_time(genome: Genome, seed: int) -> None:
    """So a step that helps is not undone by two that do not."""
    mutant = mutate(genome, BOUNDS, ["neurons", "bits", "connections"], 1.0, rng(seed))
    counts = [mutant.neurons != genome.neurons, mutant.bits != genome.bits]
    assert np.sum(counts, axis=0).max() <= 1
    for k in np.flatnonzero(mutant.bits != genome.bits):
        for old, new in zip(genome.cluster(int(k)), mutant.cluster(int(k)), strict=True):
            assert len(inputs(old) & inputs(new)) == min(len(old), len(new))


def test_every_free_dimension_mutates_equally_often() -> None:
    bounds = Bounds(3000, 40, (1, 6), (2, 8))
    genome = random_genome(bounds, rng(1))
    mutant = mutate(genome, bounds, {"connections", "bits", "neurons"}, 1.0, rng(2))
    grown = (mutant.neurons != genome.neurons).sum()
    widened = (mutant.bits != genome.bits).sum()
    assert abs(grown - 1000) < 130
    assert abs(widened - 1000) < 130


@given(genomes(BOUNDS), seeds)
def test_connections_that_mutate_move_one_at_a_time(genome: Genome, seed: int) -> None:
    mutant = mutate(genome, BOUNDS, ["connections"], 0.5, rng(seed))
    for k in range(genome.n_clusters):
        for old, new in zip(genome.cluster(k), mutant.cluster(k), strict=True):
            assert len(inputs(new) - inputs(old)) <= 1


@given(genomes(BOUNDS), seeds)
def test_at_rate_0_exactly_one_cluster_mutates(genome: Genome, seed: int) -> None:
    mutant = mutate(genome, BOUNDS, ["neurons"], 0.0, rng(seed))
    changed = [k for k in range(4) if not np.array_equal(genome.cluster(k), mutant.cluster(k))]
    assert len(changed) == 1


@given(genomes(BOUNDS), seeds)
def test_at_rate_1_every_cluster_mutates(genome: Genome, seed: int) -> None:
    mutant = mutate(genome, BOUNDS, ["neurons"], 1.0, rng(seed))
    assert (mutant.neurons != genome.neurons).all()


@given(bounded_genomes(), seeds)
def test_the_same_seed_gives_the_same_mutant(drawn: tuple[Bounds, Genome], seed: int) -> None:
    bounds, genome = drawn
    before = genome.checksum
    one, other = (mutate(genome, bounds, DIMENSIONS, 0.5, rng(seed)) for _ in range(2))
    assert one == other
    assert Genome(genome.neurons, genome.bits, genome.connections).checksum == before


# -- moves ----------------------------------------------------------------------------------------


@given(bounded_genomes(), free_dimensions, seeds)
def test_a_move_leads_to_a_valid_neighbour_in_one_cluster(
    drawn: tuple[Bounds, Genome], free: list[Dimension], seed: int
) -> None:
    bounds, genome = drawn
    move = random_move(genome, bounds, free, rng(seed))
    assume(move is not None)
    assert move is not None
    neighbour = apply_move(genome, move, bounds)
    assert_valid(neighbour, bounds)
    assert_other_clusters_stay(genome, neighbour, move.cluster)
    assert neighbour != genome
    change = {
        "neurons": int(neighbour.neurons[move.cluster] - genome.neurons[move.cluster]),
        "bits": int(neighbour.bits[move.cluster] - genome.bits[move.cluster]),
    }
    assert change == {
        "neurons": {"add_neuron": move.count, "remove_neuron": -move.count}.get(move.kind, 0),
        "bits": {"add_bit": move.count, "remove_bit": -move.count}.get(move.kind, 0),
    }
    assert DIMENSION_OF[move.kind] in free


@given(bounded_genomes(), seeds)
def test_a_rewire_moves_one_connection_from_source_to_target(
    drawn: tuple[Bounds, Genome], seed: int
) -> None:
    bounds, genome = drawn
    move = random_move(genome, bounds, ["connections"], rng(seed))
    assume(move is not None)
    assert move is not None
    neighbour = apply_move(genome, move, bounds)
    changed = np.flatnonzero(genome.neuron_hashes != neighbour.neuron_hashes)
    assert changed.tolist() == [move.neuron]
    span = slice(genome.offsets[move.neuron], genome.offsets[move.neuron + 1])
    before, after = inputs(genome.connections[span]), inputs(neighbour.connections[span])
    assert before - after == {move.source}
    assert after - before == {move.target}


@given(bounded_genomes(), free_dimensions, seeds)
def test_a_moves_reverse_undoes_it(
    drawn: tuple[Bounds, Genome], free: list[Dimension], seed: int
) -> None:
    bounds, genome = drawn
    move = random_move(genome, bounds, free, rng(seed))
    assume(move is not None)
    assert move is not None
    kind, cluster, source, target = move.reverse_attribute
    back = Move(kind, cluster, move.count, move.neuron, source, target)  # type: ignore[arg-type]
    assert back.reverse_attribute == move.attribute
    assert back.attribute == move.reverse_attribute
    if move.kind in ("rewire", "add_neuron"):
        returned = apply_move(apply_move(genome, move, bounds), back, bounds)
        assert returned == genome


def test_where_no_move_exists_there_is_none() -> None:
    bounds = Bounds(1, 3, (2, 2), (3, 3))
    genome = random_genome(bounds, rng(0))
    assert all(random_move(genome, bounds, DIMENSIONS, rng(s)) is None for s in range(20))


def test_moves_differ_and_reach_every_kind() -> None:
    genome = random_genome(BOUNDS, rng(0), neurons=3, bits=4)
    moves = [random_move(genome, BOUNDS, DIMENSIONS, rng(s)) for s in range(200)]
    kinds = {move.kind for move in moves if move is not None}
    assert kinds == {"add_neuron", "remove_neuron", "add_bit", "remove_bit", "rewire"}
    digests = {apply_move(genome, move, BOUNDS).digest for move in moves if move is not None}
    assert len(digests) > 100


def test_the_longest_step_is_a_tenth_of_the_range() -> None:
    assert [longest_step(2, 64), longest_step(4, 16), longest_step(3, 3)] == [6, 1, 1]


# -- fields ---------------------------------------------------------------------------------------

FIELDS = Bounds(2, 14, (1, 4), (1, 12), (13, 14), (3, 4))  # 3 fields of 4 bits, and 1 or 2 inputs


def leading(row: set[int]) -> list[int]:
    """Return how many leading bits of each field are observed; they must have no gap."""
    counts = []
    for field in range(3):
        bits = sorted(i - 4 * field for i in row if i // 4 == field)
        assert bits == list(range(len(bits)))
        counts.append(len(bits))
    return counts


@st.composite
def genomes_of_fields(draw: st.DrawFn) -> Genome:
    """Draw a genome whose neurons observe leading bits of fields, and all inputs after them."""
    shape = draw(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)))
    first = [4 * field + bit for field, n in enumerate(shape) for bit in range(n)]
    assume(len(first) <= 10)
    return Genome.of_clusters([np.array([[*first, 12]]), np.array([[*first, 12, 13]])])


@given(genomes_of_fields(), seeds)
def test_bits_of_a_field_come_and_go_at_its_end(genome: Genome, seed: int) -> None:
    mutant = mutate(genome, FIELDS, ["bits"], 1.0, rng(seed))
    assert_valid(mutant, FIELDS)
    for k in range(2):
        had, now = inputs(genome.cluster(k)[0]), inputs(mutant.cluster(k)[0])
        was = leading(had - {12, 13})
        assert now <= had or now >= had
        counts = leading(now - {12, 13})
        if len(had) - len(now) <= sum(was):
            assert {12, 12 + k} <= now  # what is of no field goes last
        else:
            assert sum(counts) == 0


@given(genomes_of_fields(), seeds)
def test_a_rewired_neuron_swaps_the_last_bit_of_one_field_for_the_next_of_another(
    genome: Genome, seed: int
) -> None:
    was = leading(inputs(genome.cluster(1)[0]) - {12, 13})
    assume(sum(was) > 0 and sum(n < 4 for n in was) > 1)
    after = rewire(genome, np.array([1]), FIELDS, rng(seed))
    now = leading(inputs(after.cluster(1)[0]) - {12, 13})
    assert sorted(b - a for a, b in zip(was, now, strict=True)) == [-1, 0, 1]


@given(genomes_of_fields(), seeds)
def test_a_move_of_a_tabu_search_knows_the_fields_too(genome: Genome, seed: int) -> None:
    was = leading(inputs(genome.cluster(1)[0]) - {12, 13})
    assume(sum(was) > 0 and sum(n < 4 for n in was) > 1)
    move = random_move(genome, FIELDS, ["connections"], rng(seed))
    assert move is not None
    after = apply_move(genome, move, FIELDS)
    now = leading(inputs(after.cluster(move.cluster)[0]) - {12, 13})
    assert sorted(b - a for a, b in zip(was, now, strict=True)) == [-1, 0, 1]
