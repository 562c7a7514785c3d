"""Refinement: the same moves on every backend, and never a worse loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from networks import MEMORIES
from networks import USABLE
from networks import genomes
from networks import make_genome
from networks import make_task
from networks import memory_settings
from networks import tasks
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators import heads
from optuna_wnn.evaluators import loss
from optuna_wnn.evaluators.base import Moves
from optuna_wnn.evaluators.cells import make_cells
from optuna_wnn.evaluators.cpu import CpuEvaluator
from optuna_wnn.evaluators.informed import chances
from optuna_wnn.evaluators.informed import in_sample
from optuna_wnn.evaluators.informed import information
from optuna_wnn.evaluators.judge import make_room
from optuna_wnn.evaluators.judge import make_softmax
from optuna_wnn.evaluators.judge import rebase
from optuna_wnn.evaluators.judge import softmax_loss
from optuna_wnn.evaluators.loss import NAT
from optuna_wnn.evaluators.loss import BitLoss
from optuna_wnn.evaluators.loss import ClassesLoss
from optuna_wnn.evaluators.loss import Quantiser
from optuna_wnn.evaluators.loss import is_kept
from optuna_wnn.evaluators.reference import ReferenceEvaluator
from optuna_wnn.evaluators.refine import Climb
from optuna_wnn.evaluators.refine import Draws
from optuna_wnn.evaluators.refine import unobserved
from optuna_wnn.evaluators.rows import Rows
from optuna_wnn.evaluators.rows import RowShape
from optuna_wnn.evaluators.small import TOO_LARGE
from optuna_wnn.evaluators.small import make_small
from optuna_wnn.evaluators.small import small_loss
from optuna_wnn.evaluators.votes import lone_cluster
from optuna_wnn.genome import DIMENSIONS
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Dimension
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Head
from optuna_wnn.tasks.base import Task


CONNECTIONS: set[Dimension] = {"connections"}
MOVES: tuple[Moves, ...] = ("blind", "informed")
HEADS: tuple[Head, ...] = ("bits", "chained_bits", "classes")


def bounds_of(task: Task, visible: tuple[int, ...] | None = None) -> Bounds:
    visible = visible or task.visible
    most_bits = min(min(visible or (task.n_inputs,)), 128)
    return Bounds(task.n_clusters, task.n_inputs, (1, 9), (1, most_bits), visible)


@settings(max_examples=60)
@given(st.data())
def test_the_compiled_climb_keeps_the_moves_of_the_plain_one(data: st.DataObject) -> None:
    task, memory = data.draw(tasks()), data.draw(memory_settings())
    genome = data.draw(genomes(task, most_bits=25))
    moves: Moves = data.draw(st.sampled_from(MOVES))
    job = (
        bounds_of(task),
        CONNECTIONS,
        data.draw(st.integers(1, 30)),
        data.draw(st.integers()),
        moves,
    )
    plain, _ = ReferenceEvaluator(task, memory).refine(genome, *job)
    for threads in (1, 3):
        refined, evaluation = CpuEvaluator(task, memory, threads=threads).refine(genome, *job)
        assert refined == plain
    assert (
        evaluation.cross_entropy == ReferenceEvaluator(task, memory).evaluate(plain).cross_entropy
    )


@pytest.mark.parametrize("kind", MEMORIES, ids=lambda kind: f"{kind['mode']}-{kind['vote']}")
@pytest.mark.parametrize("head", HEADS)
def test_all_ways_to_climb_agree_over_many_moves(
    head: Head, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(head)
    genome = make_genome(task, 4, [3, 6])
    memory = MemorySettings(**kind, temperature=0.3)
    job = (genome, bounds_of(task), CONNECTIONS, 90, 5)
    plain, _ = ReferenceEvaluator(task, memory).refine(*job)
    assert CpuEvaluator(task, memory, threads=2).refine(*job)[0] == plain
    # Where memory is short, moved neurons are trained anew.
    monkeypatch.setattr("optuna_wnn.evaluators.refine_cpu._SHARE_OF_MEMORY", 1 << 60)
    assert CpuEvaluator(task, memory, threads=1).refine(*job)[0] == plain


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("head", HEADS)
def test_informed_moves_are_the_same_on_every_backend(backend: str, head: Head) -> None:
    task = make_task(head, sizes=(600, 3000, 5))  # more than the sample
    genome = make_genome(task, 4, [3, 6])
    for free in (CONNECTIONS, set(DIMENSIONS)):
        job = (genome, bounds_of(task), free, 60, 5)
        plain, before = ReferenceEvaluator(task).refine(*job, "informed")
        refined, evaluation = create_evaluator(task, backend=backend).refine(*job, "informed")
        assert refined == plain
        assert refined != ReferenceEvaluator(task).refine(*job)[0]
        assert evaluation.cross_entropy == before.cross_entropy


def test_a_move_that_fails_on_the_sample_is_not_kept() -> None:
    current = np.array([5, 5])
    assert is_kept(np.array([5, 5]), current, sampled=True)
    assert not is_kept(np.array([6, 1]), current, sampled=True)
    assert is_kept(np.array([6, 1]), current, sampled=False)
    assert not is_kept(np.array([4, 7]), current, sampled=True)


def test_the_sample_is_an_eighth_spread_over_all_examples() -> None:
    sample = in_sample(1 << 16)
    assert sample.mean() == 1 / 8
    assert np.ptp(sample.reshape(8, -1).sum(axis=1)) == 0


@pytest.mark.parametrize("head", HEADS)
def test_information_is_that_of_the_joint_distribution(head: Head) -> None:
    task = make_task(head, n_inputs=70)
    nats = information(task)
    inputs = np.unpackbits(task.train.inputs.view(np.uint8), axis=1, bitorder="little")
    for k, i in [(0, 0), (2, 1), (1, 69)]:
        target = heads.cluster_targets(head, task.n_clusters, task.train.targets, k)
        joint = np.bincount(2 * target + inputs[:, i], minlength=4).reshape(2, 2) / len(target)
        apart = np.outer(joint.sum(axis=1), joint.sum(axis=0))
        met = joint > 0
        expected = np.sum(joint[met] * np.log(joint[met] / apart[met]))
        assert nats[k, i] == pytest.approx(expected, abs=1e-9)


def test_an_input_that_never_varies_is_never_proposed() -> None:
    task = make_task(n_inputs=20)
    still = np.uint64(1 << 3 | 1 << 11)
    train = replace(task.train, inputs=(task.train.inputs | still) ^ np.uint64(1 << 3))
    task = replace(task, train=train)
    genome = make_genome(task, 3, [4])
    for backend in ("cpu", "reference"):
        refined, _ = create_evaluator(task, backend=backend).refine(
            genome, bounds_of(task), CONNECTIONS, 90, 1, "informed"
        )
        before, after = (np.bincount(g.connections, minlength=20) for g in (genome, refined))
        assert all(after[i] <= before[i] for i in (3, 11))
    assert (information(task)[:, [3, 11]] == -1).all()


def test_what_tells_more_has_the_higher_chance() -> None:
    each = np.diff(chances(np.array([[0.0, 0.3, -1.0, 0.1, 9.0]]), [4]), prepend=0)[0]
    assert each[2] == each[4] == 0
    assert 0 < each[0] < each[3] < each[1]
    same = np.diff(chances(np.zeros((1, 4)), [4]))[0]
    assert np.all(same == same[0])
    assert same[0] > 0


@pytest.mark.parametrize("head", ["bits", "classes"])
def test_what_is_kept_of_the_last_climb_changes_nothing(head: Head) -> None:
    task = make_task(head)
    genome = make_genome(task, 4, [3, 6])
    evaluator = CpuEvaluator(task, threads=1)
    for seed in range(3):
        fresh, _ = CpuEvaluator(task, threads=7).refine(
            genome, bounds_of(task), CONNECTIONS, 40, seed
        )
        genome, _ = evaluator.refine(genome, bounds_of(task), CONNECTIONS, 40, seed)
        assert genome == fresh
    assert sum(isinstance(kept, Rows) for kept in evaluator.cache._kept.values()) == 1


@pytest.mark.parametrize("cache_bytes", [0, 1 << 12, 1 << 24])
def test_what_is_kept_of_a_climb_counts_among_the_bytes_that_may_be_kept(cache_bytes: int) -> None:
    task = make_task()
    evaluator = CpuEvaluator(task, cache_bytes=cache_bytes)
    genome = make_genome(task, 4, [3, 6])
    for seed in range(2):
        genome, _ = evaluator.refine(genome, bounds_of(task), CONNECTIONS, 40, seed)
    kept = list(evaluator.cache._kept.values())
    assert sum(one.nbytes for one in kept) == evaluator.cache.nbytes <= cache_bytes
    assert any(isinstance(one, Rows) for one in kept) == (cache_bytes == 1 << 24)


def test_rows_are_given_to_the_neurons_that_were_used_last() -> None:
    rows = Rows(RowShape("validation", 3, 9, 5, left_out=False), 3)
    taken, known = rows.take(["a", "b", "c"])
    assert not known.any()
    assert sorted(taken) == [0, 1, 2]
    rows.give_back(["a", "b", "c"], taken)
    again, known = rows.take(["c", "d"])
    assert known.tolist() == [True, False]
    assert again.tolist() == [taken[2], taken[0]]


@pytest.mark.parametrize("head", HEADS)
def test_references_are_chosen_anew_alike(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(head, sizes=(60, 30, 5))
    genome = make_genome(task, 2, [3])
    job = (genome, bounds_of(task), CONNECTIONS, loss.REBASE_EVERY + 60, 5)
    plain, _ = ReferenceEvaluator(task).refine(*job)
    assert CpuEvaluator(task).refine(*job)[0] == plain


@pytest.mark.parametrize("kind", MEMORIES, ids=lambda kind: f"{kind['mode']}-{kind['vote']}")
@pytest.mark.parametrize("head", HEADS)
def test_the_refined_genome_is_known_already(
    head: Head, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, memory = make_task(head), MemorySettings(**kind)
    evaluator = CpuEvaluator(task, memory)
    computed = []
    monkeypatch.setattr(evaluator._finder, "_cluster_votes", lambda *job: computed.append(job))
    refined, found = evaluator.refine(
        make_genome(task, 5, [4, 6]), bounds_of(task), CONNECTIONS, 50, 3
    )
    assert not computed
    again = CpuEvaluator(task, memory).evaluate(refined)
    assert (found.cross_entropy, found.accuracy) == (again.cross_entropy, again.accuracy)
    assert np.array_equal(found.neuron_order, again.neuron_order)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("free", [*DIMENSIONS, "all"])
@pytest.mark.parametrize("head", HEADS)
def test_every_free_dimension_improves(backend: str, free: str, head: Head) -> None:
    task = make_task(head, sizes=(600, 300, 5))
    genome = make_genome(task, 3, [3])
    evaluator = create_evaluator(task, backend=backend)
    dimensions = {dimension for dimension in DIMENSIONS if free in (dimension, "all")}
    before = evaluator.evaluate(genome)
    refined, after = evaluator.refine(genome, bounds_of(task), dimensions, 60, 1)
    refined.check(bounds_of(task))
    assert after.cross_entropy < before.cross_entropy
    if free != "all":
        frozen = {"neurons": refined.bits, "bits": refined.neurons}.get(free)
        assert frozen is None or np.all(frozen == 3)
    if free == "connections":
        assert np.array_equal(refined.neurons, genome.neurons)
        assert np.array_equal(refined.bits, genome.bits)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("free", [CONNECTIONS, set(DIMENSIONS)])
def test_the_result_is_a_function_of_the_seed(backend: str, free: set[Dimension]) -> None:
    task = make_task()
    genome = make_genome(task, 3, [4])
    results = [
        create_evaluator(task, backend=backend).refine(genome, bounds_of(task), free, 40, seed)[0]
        for seed in (1, 1, 2, 2**70, -1)
    ]
    assert results[0] == results[1]
    assert len({result.digest for result in results}) == 4


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("free", [CONNECTIONS, set(DIMENSIONS)])
def test_no_cluster_observes_what_it_cannot_see(backend: str, free: set[Dimension]) -> None:
    task = make_task(n_inputs=20)
    visible = (5, 8, 20)
    genome = make_genome(task, 3, [2])
    seen = [rows % visible[k] for k, rows in enumerate([genome.cluster(k) for k in range(3)])]
    start = type(genome).of_clusters(
        np.array([[row[0], (row[0] + 1) % visible[k]] for row in rows])
        for k, rows in enumerate(seen)
    )
    bounds = Bounds(3, 20, (2, 4), (1, 4), visible)
    refined, _ = create_evaluator(task, backend=backend).refine(start, bounds, free, 90, 3)
    refined.check(bounds)
    assert refined != start


@pytest.mark.parametrize("backend", USABLE)
def test_a_neuron_that_sees_all_inputs_stays(backend: str) -> None:
    task = make_task(n_inputs=8)
    genome = make_genome(task, 2, [8])
    evaluator = create_evaluator(task, backend=backend)
    refined, _ = evaluator.refine(genome, bounds_of(task), CONNECTIONS, 20, 0)
    assert refined.digest == genome.digest


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("free", [set(), CONNECTIONS])
def test_no_steps_only_put_the_neurons_in_order(backend: str, free: set[Dimension]) -> None:
    task = make_task()
    genome = make_genome(task, 4, [4])
    evaluator = create_evaluator(task, backend=backend)
    refined, evaluation = evaluator.refine(genome, bounds_of(task), free, 0 if free else 9, 1)
    expected = evaluator.evaluate(genome)
    assert refined == genome.reordered(expected.neuron_order)
    assert evaluation.cross_entropy == expected.cross_entropy


def test_the_evaluation_belongs_to_the_refined_genome() -> None:
    task = make_task()
    evaluator = create_evaluator(task)
    refined, evaluation = evaluator.refine(
        make_genome(task, 5, [4]), bounds_of(task), CONNECTIONS, 50, 1
    )
    again = evaluator.evaluate(refined)
    assert again.cross_entropy == evaluation.cross_entropy
    assert np.array_equal(again.neuron_order, evaluation.neuron_order)
    assert np.array_equal(evaluation.neuron_order, np.arange(refined.n_neurons))


def test_the_start_is_unchanged_and_must_lie_within_bounds() -> None:
    task = make_task()
    genome = make_genome(task, 3, [4])
    digest = genome.digest
    evaluator = create_evaluator(task)
    evaluator.refine(genome, bounds_of(task), CONNECTIONS, 30, 1)
    assert genome.digest == digest
    with pytest.raises(InputError, match="outside"):
        evaluator.refine(genome, Bounds(3, 20, (1, 2), (4, 4)), CONNECTIONS, 30, 1)
    with pytest.raises(InputError, match="-1 steps"):
        evaluator.refine(genome, bounds_of(task), CONNECTIONS, -1, 1)


class RecordedBitLoss(BitLoss):
    """Notes every loss that it gives."""

    seen: list[int]

    def of(self, sums: NDArray[np.int64], n_neurons: int) -> NDArray[np.int64]:
        value = super().of(sums, n_neurons)
        RecordedBitLoss.seen.append(int(value.sum()))
        return value


def test_the_loss_of_every_bit_never_gets_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(n_outputs=2)
    genome = make_genome(task, 3, [4])
    bounds = bounds_of(task)
    losses = []
    for steps in range(0, 40, 4):
        refined, _ = CpuEvaluator(task).refine(genome, bounds, CONNECTIONS, steps, 2)
        RecordedBitLoss.seen = []
        monkeypatch.setattr("optuna_wnn.evaluators.refine.BitLoss", RecordedBitLoss)
        ReferenceEvaluator(task).refine(refined, bounds, CONNECTIONS, 1, 0)
        losses.append(RecordedBitLoss.seen[0])
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kind", MEMORIES, ids=lambda kind: f"{kind['mode']}-{kind['vote']}")
def test_the_loss_in_fixed_point_is_that_of_the_head(
    kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task("bits", n_outputs=2)
    genome = make_genome(task, 5, [4])
    evaluator = ReferenceEvaluator(task, MemorySettings(**kind))
    captured: dict[str, Climb] = {}

    def record(job: Climb, wiring: list[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
        captured["job"] = job
        return wiring

    monkeypatch.setattr(evaluator, "_climb", record)
    _, evaluation = evaluator.refine(genome, bounds_of(task), CONNECTIONS, 1, 0)
    job = captured["job"]
    sums = evaluator.cluster_votes([lone_cluster(0, genome.cluster(0))], job.reading)[0].sums
    fixed = BitLoss(job.cells, 1, 0, task.validation.targets).of(sums, 5).sum()
    assert fixed / NAT / len(sums) == pytest.approx(evaluation.cross_entropy, abs=1e-3)


@given(st.integers(2, 40), st.integers(0, 99), st.sampled_from([0.05, 1.0, 4.0]))
def test_the_softmax_in_fixed_point_is_that_of_the_head(
    n_classes: int, seed: int, temperature: float
) -> None:
    rng = np.random.default_rng(seed)
    cells = make_cells(MemorySettings(vote="log_odds"), "classes", n_classes, 100)
    targets = rng.integers(0, n_classes, 50)
    sums = rng.integers(-2000, 2000, (n_classes, 50))
    fixed = ClassesLoss(cells, temperature, n_classes, targets)
    for k, row in enumerate(sums):
        fixed.set_row(k, row, 1)
    fixed.rebase(0)
    outputs = cells.outputs(sums, np.ones(n_classes, np.int64))
    expected = heads.classes_result(outputs, targets, temperature).cross_entropy
    assert fixed.current.sum() / NAT / 50 == pytest.approx(expected, abs=0.01, rel=0.01)


@given(st.integers(), st.integers(0, 50), st.integers(0, 10**6), st.integers(1, 1000))
def test_draws_are_below_their_limit_and_repeat(
    seed: int, stream: int, step: int, limit: int
) -> None:
    steps = [step, step + 1]
    drawn = [
        [its.below(limit, i) for i in range(40)] for its in Draws.of(seed, [stream, 0], steps)
    ]
    (alone,) = Draws.of(seed, [stream], [step])
    first = [alone.below(limit, i) for i in range(40)]
    assert drawn[0] == first
    assert all(0 <= draw < limit for draw in first)


@given(st.sets(st.integers(0, 30), min_size=1, max_size=30), st.data())
def test_unobserved_inputs_are_counted_past_the_observed(
    observed: set[int], data: st.DataObject
) -> None:
    free = [i for i in range(31) if i not in observed]
    index = data.draw(st.integers(0, len(free) - 1))
    assert unobserved(np.array(sorted(observed), np.int32), index) == free[index]


@settings(max_examples=40)
@given(st.integers(2, 90), st.integers(0, 99), st.sampled_from([0.5, 0.7321, 1.0, 4.0]))
def test_the_loss_in_32_bits_is_the_one_in_64(
    n_classes: int, seed: int, temperature: float
) -> None:
    rng = np.random.default_rng(seed)
    cells = make_cells(MemorySettings(vote="log_odds"), "classes", n_classes, 100)
    n_examples, k, neurons = 100, 1, np.full(n_classes, 24)
    votes = rng.integers(-4000, 4000, (2, n_examples)).astype(np.int32)
    sums = rng.integers(-90_000, 90_000, (n_classes, n_examples)) * rng.random(n_examples)
    sums = sums.astype(np.int32)
    targets = rng.integers(0, n_classes, n_examples)
    positives = (targets == np.arange(n_classes)[:, None]).astype(np.uint8)
    softmax, room = make_softmax(cells, temperature, n_classes, n_examples), make_room()
    rebase(softmax, neurons, sums.astype(np.int64), positives, room, np.zeros(2, np.int64))
    small = make_small(cells, softmax, neurons)
    moved = (sums[k], *votes, positives[k], room)
    found = small_loss(small, softmax, k, np.uint64(0), np.uint64(n_examples), *moved)
    expected = softmax_loss(softmax, k, slice(0, n_examples), 24, *moved)
    assert found == expected or (found == TOO_LARGE and n_classes > 40)


@pytest.mark.parametrize("n_classes", [7, 90])
def test_masses_that_do_not_fit_32_bits_are_added_in_64(n_classes: int) -> None:
    task = make_task("classes", n_outputs=n_classes)  # exp(0) of each is 2**24
    genome = make_genome(task, 4, [3, 5])
    memory = MemorySettings(vote="log_odds", fitness_on="leave_one_out")
    job = (genome, bounds_of(task), CONNECTIONS, 90, 5)
    plain, _ = ReferenceEvaluator(task, memory).refine(*job)
    assert CpuEvaluator(task, memory).refine(*job)[0] == plain


@given(st.floats(0.02, 5), st.integers(1, 300))
def test_a_score_is_a_product_only_where_that_is_the_quotient(
    temperature: float, n_neurons: int
) -> None:
    cells = make_cells(MemorySettings(vote="log_odds"), "classes", 10, 100)
    softmax = make_softmax(cells, temperature, 10, 1)
    small = make_small(cells, softmax, np.array([n_neurons]))
    assume(small is not None)
    assert small is not None
    largest = int(np.abs(cells.table).max()) * n_neurons
    sums = np.arange(-largest, largest, max(1, largest // 4001))
    scores = (sums * small.inverses[0] + small.offset).astype(np.int64)
    scores -= softmax.zero - small.shift
    quantised = Quantiser.of(cells, loss.SCORE_STEPS / temperature)
    assert np.array_equal(scores, quantised(sums, n_neurons))
