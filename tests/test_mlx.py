"""The ``mlx`` backend: its kernels give the reference's votes, and launch only what changed.

On a machine with a GPU the kernels run there; elsewhere the text that MLX makes for Metal runs
on the processor (see ``tests/metal``).
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import metal
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from networks import CALIBRATED
from networks import FITNESSES
from networks import MEMORIES
from networks import genomes
from networks import make_genome
from networks import make_task
from networks import memory_settings
from networks import random_gains
from networks import random_queries
from networks import same
from networks import tasks
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators import gpu_kernels
from optuna_wnn.evaluators import gpu_plan
from optuna_wnn.evaluators import registry
from optuna_wnn.evaluators.chained import Queries
from optuna_wnn.evaluators.gpu_plan import Wiring
from optuna_wnn.evaluators.gpu_plan import Work
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.readings import part_reading
from optuna_wnn.evaluators.reference import ReferenceEvaluator
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import cluster_of
from optuna_wnn.evaluators.votes import clusters_of
from optuna_wnn.evaluators.votes import lone_cluster
from optuna_wnn.genome import Genome
from optuna_wnn.memory import FitnessOn
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Head
from optuna_wnn.tasks.base import Task


if importlib.util.find_spec("mlx") is None:
    pytest.skip("MLX is not installed", allow_module_level=True)

from optuna_wnn.evaluators import mlx


pytestmark = pytest.mark.usefixtures("gpu")


class CountingMlx(mlx.MlxEvaluator):
    """Counts launches, and the neurons in them.

    Attributes:
        launched: Neurons of each launch that reads examples.
        asked: Neurons of each launch that reads other inputs.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.launched: list[int] = []
        self.asked: list[int] = []

    def _launch(
        self, work: Work, parts: Sequence[Wiring], *others: Any
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        self.launched.append(sum(len(part.connections) for part in parts))
        return super()._launch(work, parts, *others)

    def _launch_queries(
        self, work: Work, parts: Sequence[Wiring], *others: Any
    ) -> NDArray[np.int32]:
        self.asked.append(sum(len(part.connections) for part in parts))
        return super()._launch_queries(work, parts, *others)


def reference_of(evaluator: Evaluator) -> Evaluator:
    """Return the reference for an evaluator."""
    reference = ReferenceEvaluator(evaluator.task, evaluator.memory)
    return reference if evaluator.gains is None else reference.with_gains(evaluator.gains)


def check_votes(evaluator: Evaluator, clusters: Sequence[Cluster], part: Any = "fitness") -> None:
    """Check that votes are the reference's, bit for bit."""
    reading = part_reading(evaluator.task, evaluator.memory, part)
    expected = reference_of(evaluator).cluster_votes(clusters, reading)
    for votes, right in zip(evaluator.cluster_votes(clusters, reading), expected, strict=True):
        assert np.array_equal(votes.sums, right.sums)
        assert np.array_equal(votes.scores, right.scores)


@pytest.mark.parametrize("dense_bits", [3, 14])
@settings(max_examples=25)
@given(st.data())
def test_votes_are_those_of_the_reference(dense_bits: int, data: st.DataObject) -> None:
    task, memory = data.draw(tasks()), data.draw(memory_settings())
    task = dataclasses.replace(task, clusters_per_output=data.draw(st.integers(1, 3)))
    population = [data.draw(genomes(task)) for _ in range(data.draw(st.integers(1, 2)))]
    evaluator = CountingMlx(task, memory)
    evaluator.dense_bits = dense_bits  # type: ignore[misc]
    check_votes(evaluator, [c for genome in population for c in clusters_of(genome)])


@pytest.mark.parametrize("kind", MEMORIES, ids=lambda kind: f"{kind['mode']}-{kind['vote']}")
@pytest.mark.parametrize("head", ["bits", "chained_bits", "classes"])
def test_evaluations_are_those_of_the_reference(kind: dict[str, Any], head: Head) -> None:
    task = make_task(head, n_inputs=110)
    genome = make_genome(task, 5, [3, 9, 23, 100])
    memory = MemorySettings(**kind, temperature="fit", sample_rate=0.5)
    right, fast = ReferenceEvaluator(task, memory), mlx.MlxEvaluator(task, memory)
    for part in ("fitness", "validation", "test"):
        assert same(fast.evaluate(genome, part), right.evaluate(genome, part))


def calibrated(task: Task, memory: MemorySettings, **options: Any) -> CountingMlx:
    """Return an evaluator whose clusters have gains of their own."""
    evaluator = CountingMlx(task, memory, **options).with_gains(random_gains(task))
    assert isinstance(evaluator, CountingMlx)
    return evaluator


@settings(max_examples=15)
@given(st.data())
def test_every_cluster_has_the_votes_of_its_own_gains(data: st.DataObject) -> None:
    task = data.draw(tasks(("bits", "chained_bits")))
    memory = data.draw(memory_settings(CALIBRATED))
    task = dataclasses.replace(task, clusters_per_output=data.draw(st.integers(1, 2)))
    population = [data.draw(genomes(task)) for _ in range(data.draw(st.integers(1, 3)))]
    evaluator = calibrated(task, memory)
    evaluator.dense_bits = data.draw(st.sampled_from([3, 14]))  # type: ignore[misc]
    check_votes(evaluator, [c for genome in population for c in clusters_of(genome)])


def test_a_population_is_one_launch_though_clusters_have_gains_of_their_own() -> None:
    task = make_task(n_inputs=70, n_outputs=16)
    memory = MemorySettings(vote="calibrated")
    population = [make_genome(task, n, [n, 23, 5], seed=n) for n in range(1, 8)]
    evaluator = calibrated(task, memory)
    results = evaluator.evaluate_batch(population)
    assert len(evaluator.launched) == 1
    right = ReferenceEvaluator(task, memory).with_gains(random_gains(task))
    assert all(same(a, right.evaluate(b)) for a, b in zip(results, population, strict=True))
    changed = rewired(population[3], 1, 2, 0)
    assert same(evaluator.evaluate(changed), right.evaluate(changed))
    assert evaluator.launched[1:] == [2]  # the neuron that came, and the one that left


def test_votes_of_clusters_with_gains_of_their_own_count_towards_what_a_launch_takes() -> None:
    task, memory = make_task(), MemorySettings(vote="calibrated")
    genome = make_genome(task, 2, [3])
    with pytest.raises(InputError, match="what cells vote"):
        calibrated(task, memory, device_bytes=50_000).evaluate(genome)
    assert CountingMlx(task, memory, device_bytes=50_000).evaluate(genome).n_examples == 100


@pytest.mark.parametrize("fitness_on", FITNESSES[1:])
@pytest.mark.parametrize("kind", [k for k in MEMORIES if k["mode"] in ("ternary", "frequency")])
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_what_is_left_out_is_what_the_reference_leaves_out(
    kind: dict[str, Any], fitness_on: FitnessOn, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_plan, "_MOST_TABLES", 3)  # several turns
    task = make_task("classes", n_inputs=70, sizes=(203, 5, 5))
    memory = MemorySettings(**kind, fitness_on=fitness_on, blocks=5, sample_rate=rate)
    check_votes(mlx.MlxEvaluator(task, memory), clusters_of(make_genome(task, 3, [4, 60])))


@st.composite
def tasks_at_the_edge(draw: st.DrawFn) -> Task:
    """Draw a task with few or many inputs, and parts that fill no threadgroup."""
    return make_task(
        draw(st.sampled_from(["bits", "classes"])),
        n_inputs=draw(st.sampled_from([1, 2, 65, 1000])),
        n_outputs=draw(st.integers(2, 4)),
        sizes=(draw(st.sampled_from([1, 2, 31, 33])), draw(st.sampled_from([1, 31, 33])), 1),
    )


@settings(max_examples=15)
@given(st.data())
def test_votes_at_the_edge_are_those_of_the_reference(data: st.DataObject) -> None:
    task, memory = data.draw(tasks_at_the_edge()), data.draw(memory_settings())
    bits = data.draw(st.lists(st.sampled_from([1, 22, 23, 80]), min_size=1, max_size=3))
    evaluator = mlx.MlxEvaluator(task, memory)
    evaluator.dense_bits = 10  # type: ignore[misc]
    check_votes(evaluator, clusters_of(make_genome(task, data.draw(st.integers(1, 3)), bits)))


@pytest.mark.parametrize("mode", ["quad_weighted", "frequency"])
@pytest.mark.parametrize(
    ("n_inputs", "n_neurons", "bits", "sizes"),
    [
        (1, 1, [1], (1, 1, 1)),
        (1, 3, [1], (33, 1, 1)),
        (9, 1, [2], (1, 40, 1)),
        (65, 2, [1, 22, 65], (100, 31, 1)),
        (90, 2, [23, 80], (257, 33, 1)),
        (1000, 2, [7, 128], (130, 129, 1)),
        (20, 3, [5, 2], (4100, 1030, 1)),
    ],
)
def test_sizes_at_the_edge_and_grids_that_do_not_divide(
    mode: Any, n_inputs: int, n_neurons: int, bits: list[int], sizes: tuple[int, int, int]
) -> None:
    task = make_task(n_inputs=n_inputs, n_outputs=3, sizes=sizes)
    memory = MemorySettings(mode=mode, vote="mean", sample_rate=0.75)
    check_votes(mlx.MlxEvaluator(task, memory), clusters_of(make_genome(task, n_neurons, bits)))


@pytest.mark.parametrize("api", ["metal", "cuda"])
@pytest.mark.parametrize("kind", [MEMORIES[i] for i in (0, 3, 6)], ids=lambda kind: kind["mode"])
def test_votes_do_not_depend_on_the_order_of_threads(
    api: Any, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if metal.missing() is not None:
        pytest.skip("a GPU has an order of its own")
    metal.install(monkeypatch, api=api, schedules=3, any_order=metal.ANY_ORDER)
    assert gpu_kernels.api() == api
    task = make_task(n_inputs=60, sizes=(203, 50, 5))
    memory = MemorySettings(**kind, sample_rate=0.8)
    check_votes(mlx.MlxEvaluator(task, memory), clusters_of(make_genome(task, 3, [3, 7, 40])))


def test_no_clusters_have_no_votes() -> None:
    task = make_task()
    evaluator = CountingMlx(task)
    assert evaluator.cluster_votes([], part_reading(task, evaluator.memory, "fitness")) == []
    assert evaluator.evaluate_batch([]) == []
    assert evaluator.launched == []


@pytest.mark.parametrize("vote", ["mean", "confidence"])
def test_reading_nothing_gives_nothing(vote: Any) -> None:
    task = make_task()
    nothing = Reading("nothing", 300, Examples(task.train.inputs[:0], task.train.targets[:0]))
    evaluator = mlx.MlxEvaluator(task, MemorySettings(vote=vote))
    (votes, *_) = evaluator.cluster_votes(clusters_of(make_genome(task, 3, [4])), nothing)
    assert votes.sums.shape == (0,)
    assert not votes.scores.any()


@pytest.mark.parametrize(("mode", "device_bytes"), [("wisard", 20_000), ("frequency", 60_000)])
def test_several_launches_give_what_one_gives(mode: Any, device_bytes: int) -> None:
    task = make_task(sizes=(300, 100, 60))
    memory = MemorySettings(mode=mode, vote="mean")
    genome = make_genome(task, 9, [11, 3])
    whole, parts = (CountingMlx(task, memory, device_bytes=most) for most in (None, device_bytes))
    assert same(whole.evaluate(genome), parts.evaluate(genome))
    assert len(whole.launched) == 1
    assert len(parts.launched) > 2
    assert sum(parts.launched) == 27


def test_blocks_that_do_not_fit_together_are_left_out_in_turns() -> None:
    task = make_task(sizes=(240, 5, 5))
    memory = MemorySettings(fitness_on="leave_block_out", blocks=12)
    evaluator = CountingMlx(task, memory, device_bytes=200_000)
    check_votes(evaluator, clusters_of(make_genome(task, 2, [11])))
    assert len(evaluator.launched) > 3


def test_a_population_is_one_launch() -> None:
    task = make_task()
    population = [make_genome(task, n, [n, 4], seed=n) for n in range(1, 12)]
    evaluator = CountingMlx(task)
    results = evaluator.evaluate_batch(population)
    (launched,) = evaluator.launched
    assert launched <= sum(genome.n_neurons for genome in population)
    right = ReferenceEvaluator(task)
    assert all(same(a, right.evaluate(b)) for a, b in zip(results, population, strict=True))


def rewired(genome: Genome, cluster: int, neuron: int, input_: int) -> Genome:
    """Return a genome in which one neuron observes another input in its first slot's place."""
    clusters = [genome.cluster(k).copy() for k in range(genome.n_clusters)]
    unseen = np.setdiff1d(np.arange(20), clusters[cluster][neuron])
    clusters[cluster][neuron, 0] = unseen[input_ % len(unseen)]
    return Genome.of_clusters(clusters)


def neurons_of(genome: Genome) -> set[tuple[int, bytes]]:
    """Return a genome's neurons: their clusters, and what they observe."""
    return {
        (k, row.tobytes()) for k in range(genome.n_clusters) for row in np.sort(genome.cluster(k))
    }


def test_a_neighbourhood_of_hundreds_is_one_launch_of_what_changed() -> None:
    task = make_task(sizes=(60, 30, 5))
    genome = make_genome(task, 10, [4])
    candidates = [rewired(genome, k, n, i) for k in range(3) for n in range(10) for i in range(10)]
    evaluator = CountingMlx(task)
    evaluator.evaluate(genome)
    evaluator.launched.clear()
    results = evaluator.evaluate_batch(candidates)
    differing = neurons_of(genome) ^ set().union(*map(neurons_of, candidates))
    # Each candidate's new neuron, and each of the 30 old ones that leave.
    assert evaluator.launched == [len(differing) + 30]
    assert len(differing) > 250
    plain = create_evaluator(task, backend="cpu", cache_bytes=0)
    assert all(same(a, plain.evaluate(b)) for a, b in zip(results, candidates, strict=True))


def test_thousands_of_candidates_are_one_launch_where_memory_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mlx, "_free_bytes", lambda info: 12 << 30)
    free = psutil.virtual_memory()._replace(available=16 << 30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    task = make_task(sizes=(200_000, 50_000, 1))
    candidates = [lone_cluster(0, c[None]) for c in make_genome(task, 3000, [16]).cluster(0)]
    evaluator = mlx.MlxEvaluator(task)
    reading = part_reading(task, evaluator.memory, "fitness")
    assert len(evaluator.launches(candidates, reading)) == 1
    assert evaluator._finder.room_bytes >= 3000 * 8 * 50_000


def test_only_what_changed_is_launched() -> None:
    task = make_task()
    genome = make_genome(task, 8, [4])
    evaluator = CountingMlx(task)
    evaluator.evaluate(genome)
    evaluator.evaluate(genome)
    evaluator.evaluate(genome.reordered(np.arange(24).reshape(3, 8)[:, ::-1].ravel()))
    assert evaluator.launched == [24]
    evaluator.evaluate(rewired(genome, 1, 3, 0))
    assert evaluator.launched == [24, 2]  # the neuron that came, and the one that left


@pytest.mark.parametrize("negatives", [None, 20])
def test_a_cluster_per_token_is_evaluated_as_by_the_reference(negatives: int | None) -> None:
    task = make_task("tokens", n_outputs=70, sizes=(200, 60, 5))
    memory = MemorySettings(vote="mean", negatives=negatives)
    genome = make_genome(task, 2, [3, 5])
    expected = ReferenceEvaluator(task, memory).evaluate(genome)
    evaluator = CountingMlx(task, memory)
    assert same(evaluator.evaluate(genome), expected)
    assert sum(evaluator.launched) == genome.n_neurons


def test_a_population_with_a_cluster_per_token_is_one_launch() -> None:
    task = make_task("tokens", n_outputs=70, sizes=(200, 60, 5))
    first, second = make_genome(task, 2, [3, 5]), make_genome(task, 3, [4], seed=1)
    changed = [second.cluster(k) if k == 7 else first.cluster(k) for k in range(70)]
    population = [first, second, Genome.of_clusters(changed), first]
    evaluator = CountingMlx(task)
    results = evaluator.evaluate_batch(population)
    assert evaluator.launched == [first.n_neurons + second.n_neurons]  # each cluster once
    right = ReferenceEvaluator(task)
    assert all(same(a, right.evaluate(b)) for a, b in zip(results, population, strict=True))


def test_votes_of_tokens_beyond_the_room_are_launched_in_turns() -> None:
    task = make_task("tokens", n_outputs=200, sizes=(200, 60, 5))
    population = [make_genome(task, 1, [3], seed=seed) for seed in range(2)]
    evaluator = CountingMlx(task)
    evaluator._finder.room_bytes = 2 * 3 * 64 * 8 * 60  # of three blocks, twice
    results = evaluator.evaluate_batch(population)
    assert evaluator.launched == [192, 136, 72]
    right = ReferenceEvaluator(task)
    assert all(same(a, right.evaluate(b)) for a, b in zip(results, population, strict=True))


def test_flags_of_many_clusters_are_made_for_each_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlx, "_FLAGS_BYTES", 0)
    task = make_task("classes", n_outputs=5)
    check_votes(mlx.MlxEvaluator(task), clusters_of(make_genome(task, 2, [3]))[1::2])


def check_answers(evaluator: Evaluator, clusters: Sequence[Cluster], queries: Queries) -> None:
    """Check that answers are the reference's; every cluster is asked something else."""
    asked = [
        (cluster, Queries(queries.rows[k:], queries.inputs[k:]))
        for k, cluster in enumerate(clusters)
    ]
    job = asked, part_reading(evaluator.task, evaluator.memory, "fitness")
    right = reference_of(evaluator).query_votes(*job)
    for votes, expected in zip(evaluator.query_votes(*job), right, strict=True):
        assert np.array_equal(votes, expected)


@settings(max_examples=25)
@given(st.data())
def test_inputs_that_no_example_has_are_answered_as_by_the_reference(data: st.DataObject) -> None:
    task = data.draw(tasks(("chained_bits",)))
    task = dataclasses.replace(task, clusters_per_output=data.draw(st.integers(1, 2)))
    memory = data.draw(memory_settings(MEMORIES + CALIBRATED))
    gains = memory.vote == "calibrated"
    evaluator = calibrated(task, memory) if gains else CountingMlx(task, memory)
    evaluator.dense_bits = data.draw(st.sampled_from([3, 14]))  # type: ignore[misc]
    reading = part_reading(task, memory, "fitness")
    queries = random_queries(reading, data.draw(st.integers(0, 60)), data.draw(st.integers(0, 9)))
    check_answers(evaluator, clusters_of(data.draw(genomes(task))), queries)


@pytest.mark.parametrize("fitness_on", FITNESSES)
def test_more_inputs_than_a_launch_takes_are_asked_in_parts(
    fitness_on: FitnessOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_plan, "_MOST_TABLES", 3)  # several turns where blocks are left out
    task = make_task("chained_bits", sizes=(150, 90, 5))
    memory = MemorySettings(vote="mean", fitness_on=fitness_on, blocks=5)
    evaluator = CountingMlx(task, memory, device_bytes=10_000)
    queries = random_queries(part_reading(task, memory, "fitness"), 700)
    check_answers(evaluator, clusters_of(make_genome(task, 9, [4])), queries)
    assert len(evaluator.asked) > 5


def test_a_bit_of_a_whole_population_is_asked_in_one_launch() -> None:
    task = dataclasses.replace(make_task("chained_bits", n_outputs=8), clusters_per_output=3)
    population = [make_genome(task, n, [3, n + 5], seed=n) for n in range(1, 5)]
    evaluator = calibrated(task, MemorySettings(vote="calibrated"))
    results, right = evaluator.evaluate_batch(population), reference_of(evaluator)
    assert all(same(a, right.evaluate(b)) for a, b in zip(results, population, strict=True))
    # One neuron that is checked, and all of the second and of the third bit.
    assert evaluator.asked == [1, 3 * 10, 3 * 10]


def test_of_a_neighbourhood_a_cluster_that_all_share_is_asked_once() -> None:
    task = make_task("chained_bits", n_outputs=8)
    genome = make_genome(task, 4, [3])
    candidates = [rewired(genome, 1, n, i) for n in range(4) for i in range(3)]
    evaluator = CountingMlx(task)
    results, right = evaluator.evaluate_batch(candidates), ReferenceEvaluator(task)
    assert all(same(a, right.evaluate(b)) for a, b in zip(results, candidates, strict=True))
    assert evaluator.asked == [1, 4 * 12, 4]
    evaluator.evaluate(candidates[5])
    assert len(evaluator.asked) == 3  # it is known


class WrongMlx(mlx.MlxEvaluator):
    """Has a GPU that miscounts the votes of one neuron, or of one example."""

    wrong_sums = 0

    def _launch(self, *launch: Any) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        sums, scores = super()._launch(*launch)
        sums, scores = sums.copy(), scores.copy()
        sums[-1, 0, 0] += self.wrong_sums
        scores[0, 0] += 1
        return sums, scores

    def _launch_queries(self, *launch: Any) -> NDArray[np.int32]:
        return super()._launch_queries(*launch) + 1


@pytest.mark.parametrize(("wrong_sums", "what"), [(0, "differ"), (1, "a neuron votes")])
def test_a_gpu_that_computes_something_else_is_found_out(wrong_sums: int, what: str) -> None:
    evaluator = WrongMlx(make_task())
    evaluator.wrong_sums = wrong_sums
    with pytest.raises(InputError, match=rf"mlx is wrong on this machine.*{what}.*take cpu"):
        evaluator.evaluate(make_genome(make_task(), 2, [3]))


def test_a_gpu_that_answers_something_else_is_found_out() -> None:
    task = make_task("chained_bits")
    evaluator = WrongMlx(task)
    reading = part_reading(task, evaluator.memory, "fitness")
    asked = [(cluster_of(make_genome(task, 2, [3]), 1), random_queries(reading, 9))]
    with pytest.raises(InputError, match=r"mlx is wrong on this machine.*a neuron answers"):
        evaluator.query_votes(asked, reading)


def test_without_a_gpu_auto_takes_the_processor_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpu_kernels, "api", lambda: None)
    registry.say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert create_evaluator(make_task()).backend == "cpu"
    (record,) = caplog.records
    assert "MLX finds no GPU" in record.message
    assert "cpu runs" in record.message


def test_where_mlx_is_not_installed_auto_says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(registry.BACKENDS, "mlx", ("no_such_module", "Nothing"))
    registry.say_once.cache_clear()
    assert create_evaluator(make_task()).backend == "cpu"
    assert not caplog.records


def test_without_a_gpu_mlx_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_kernels, "api", lambda: None)
    with pytest.raises(InputError, match=r"MLX finds no GPU.*NVIDIA.*pip install.*another"):
        create_evaluator(make_task(), backend="mlx")
    with pytest.raises(InputError, match="MLX finds no GPU"):
        mlx.MlxEvaluator(make_task())


@pytest.mark.parametrize("device_bytes", [0, -5])
def test_impossible_budgets_are_refused(device_bytes: int) -> None:
    with pytest.raises(InputError, match="device_bytes"):
        create_evaluator(make_task(), device_bytes=device_bytes)


def test_a_budget_below_the_examples_is_refused() -> None:
    evaluator = create_evaluator(make_task(), backend="mlx", device_bytes=1000)
    with pytest.raises(InputError, match=r"device_bytes: the examples and .* choose cpu"):
        evaluator.evaluate(make_genome(make_task(), 1, [3]))


def test_examples_of_other_readings_stay_only_where_there_is_room() -> None:
    task, memory = make_task(sizes=(300, 600, 500)), MemorySettings(mode="wisard", vote="mean")
    genome, kept = make_genome(task, 2, [3]), []
    for device_bytes in (1 << 20, 16_000):
        evaluator = mlx.MlxEvaluator(task, memory, device_bytes=device_bytes)
        for part in ("fitness", "test", "fitness", "test"):
            evaluator.evaluate_batch([genome], part)
        kept.append({name for _, name in evaluator._on_device})
    assert kept == [{"train", "validation", "test"}, {"train", "test"}]


def test_a_budget_below_one_neuron_is_refused() -> None:
    evaluator = create_evaluator(make_task(), backend="mlx", device_bytes=40_000)
    with pytest.raises(InputError, match=r"device_bytes: a neuron of 16 bits"):
        evaluator.evaluate(make_genome(make_task(), 1, [16]))


def test_the_benchmark_runs_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    evaluation: Any = importlib.import_module("evaluation")
    on_gpu: Any = importlib.import_module("gpu_evaluation")
    memories = {name: on_gpu.MEMORIES[name] for name in ("quad_weighted", "confidence")}
    monkeypatch.setattr(on_gpu, "WIDTHS", (8,))
    monkeypatch.setattr(on_gpu, "MEMORIES", memories)
    sizes = "--examples 60 20 --neurons 2 --population 2 --moves 5 --copy-bytes 4096 --repeats 1"
    sizes += " --refine-moves 20"
    evaluation.main(["--backend", "mlx", *sizes.split(), "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())["gpu"]
    for row in report["populations"]:
        (launch,) = row["launches"]
        assert launch["bytes"] > 2 * 16 * 2 * 2**8
        assert launch["pairs"] == 80 * 2 * 16 * 2
        assert launch["operations"] > 6 * 8 * launch["pairs"]
        assert row["genomes_per_second"] > 0
    for row in report["moves"].values():
        assert row["launches"] == 1
        for backend in ("mlx", "cpu"):
            assert row[f"{backend}_moves_per_second"] > 0
            assert row[f"{backend}_refined_per_second"] > 0
    assert "one-slot moves" in capsys.readouterr().out


def test_the_benchmark_says_what_does_not_fit_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    evaluation: Any = importlib.import_module("evaluation")
    on_gpu: Any = importlib.import_module("gpu_evaluation")
    monkeypatch.setattr(on_gpu, "WIDTHS", (8, 16))
    monkeypatch.setattr(on_gpu, "MEMORIES", {"mean": MemorySettings(vote="mean")})
    sizes = "--examples 60 20 --neurons 2 --population 1 --moves 2 --refine-moves 3 --repeats 1"
    evaluation.main(
        ["--backend", "mlx", *sizes.split(), "--copy-bytes", "4096", "--device-bytes", "100000"]
    )
    printed = capsys.readouterr().out
    assert "mean    8         1" in printed
    assert printed.count("a neuron of 16 bits") == 2  # a population, and the neighbours


def test_clusters_of_an_output_share_its_positive_examples() -> None:
    task = dataclasses.replace(make_task("chained_bits"), clusters_per_output=2)
    genome = make_genome(task, 2, [3, 9])
    memory = MemorySettings(fitness_on="leave_one_out")
    right, fast = ReferenceEvaluator(task, memory), mlx.MlxEvaluator(task, memory)
    assert same(fast.evaluate(genome), right.evaluate(genome))
