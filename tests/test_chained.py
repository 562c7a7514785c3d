"""The ``chained_bits`` head against brute force over all codes, and what its clusters may see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from networks import genomes
from networks import make_genome
from networks import make_task
from networks import memory_settings
from networks import same
from numpy.typing import NDArray
from strategies import seeds

from optuna_wnn import Bounds
from optuna_wnn import Genome
from optuna_wnn import GenomeSpace
from optuna_wnn import InputError
from optuna_wnn import load_task
from optuna_wnn.cli import main
from optuna_wnn.evaluators import chained as head
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators.base import Evaluator
from optuna_wnn.evaluators.chained import Queries
from optuna_wnn.evaluators.cpu import CpuEvaluator
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.readings import part_reading
from optuna_wnn.evaluators.reference import ReferenceEvaluator
from optuna_wnn.evaluators.votes import cluster_of
from optuna_wnn.evaluators.votes import clusters_of
from optuna_wnn.genome import DIMENSIONS
from optuna_wnn.genome import Dimension
from optuna_wnn.memory import MemorySettings
from optuna_wnn.moves import add_bit
from optuna_wnn.moves import apply_move
from optuna_wnn.moves import random_move
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.base import chained
from optuna_wnn.tasks.base import unpack_bits
from optuna_wnn.variation import crossover
from optuna_wnn.variation import mutate
from optuna_wnn.variation import rewire


@st.composite
def chained_tasks(draw: st.DrawFn) -> Task:
    """Draw a task of the head; not every code of its bits is one of the vocabulary."""
    return make_task(
        "chained_bits",
        n_inputs=draw(st.sampled_from([6, 9, 62, 130])),
        n_outputs=draw(st.integers(1, 21)),
        sizes=(draw(st.integers(2, 120)), draw(st.integers(1, 30)), 3),
        seed=draw(st.integers(0, 99)),
    )


def code_probabilities(task: Task, memory: MemorySettings, genome: Genome) -> NDArray[np.float64]:
    """Return P(code) of every validation example, ``float64[E, V]``, codes one by one."""
    evaluator = ReferenceEvaluator(task, memory)
    first = task.n_inputs - (task.n_clusters - 1)
    columns = []
    for code in range(task.n_outputs):
        context = unpack_bits(task.validation.inputs, task.n_inputs)[:, :first]
        plain = replace(
            task,
            head="bits",
            n_inputs=first,
            validation=Examples(
                np.packbits(
                    np.pad(context, ((0, 0), (0, -first % 64))), axis=1, bitorder="little"
                ).view(np.uint64),
                np.full(len(task.validation), code),
            ),
            train=Examples(task.train.inputs[:1], task.train.targets[:1]),
            test=Examples(task.test.inputs[:1], task.test.targets[:1]),
        )
        reading = Reading("as-if", len(task.train), chained(plain).validation)
        probability = np.ones(len(task.validation))
        for k, votes in enumerate(evaluator.cluster_votes(clusters_of(genome), reading)):
            output = evaluator.cells.outputs(votes.sums[None], genome.neurons[k : k + 1])[0]
            if evaluator.cells.log_odds:
                output = 1 / (1 + np.exp(-output))
            output = np.clip(output, 1e-7, 1 - 1e-7)
            lowest_with_one = (code >> (task.n_clusters - 1 - k) | 1) << (task.n_clusters - 1 - k)
            if lowest_with_one < task.n_outputs:
                bit = code >> (task.n_clusters - 1 - k) & 1
                probability *= output if bit else 1 - output
        columns.append(probability)
    return np.stack(columns, axis=1)


@settings(max_examples=60)
@given(st.data())
def test_results_are_those_of_every_code_looked_at(data: st.DataObject) -> None:
    task, memory = data.draw(chained_tasks()), data.draw(memory_settings())
    memory = replace(memory, fitness_on="validation")
    genome = data.draw(genomes(task, most_bits=8))
    probabilities = code_probabilities(task, memory, genome)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    of_target = probabilities[np.arange(len(task.validation)), task.validation.targets]
    best = probabilities.max(axis=1)
    tied = np.isclose(probabilities, best[:, None], rtol=1e-8, atol=0)
    hits = np.isclose(of_target, best, rtol=1e-8, atol=0) / tied.sum(axis=1)
    result = CpuEvaluator(task, memory).evaluate(genome)
    assert result.cross_entropy == pytest.approx(-np.log(of_target).mean(), rel=1e-6, abs=1e-9)
    assert result.accuracy == pytest.approx(hits.mean())
    assert result.cluster_losses is not None
    assert result.cluster_losses.sum() == pytest.approx(result.cross_entropy)


@settings(max_examples=30)
@given(st.data())
def test_greedy_accuracy_is_how_often_the_likelier_bits_lead_to_the_target(
    data: st.DataObject,
) -> None:
    task, memory = data.draw(chained_tasks()), data.draw(memory_settings())
    memory = replace(memory, fitness_on="validation", accuracy="greedy")
    genome = data.draw(genomes(task, most_bits=8))
    probabilities = code_probabilities(task, memory, genome)
    codes, hits = np.arange(task.n_outputs), []
    for target, of_codes in zip(task.validation.targets, probabilities, strict=True):
        hit = 1.0
        for free in range(task.n_clusters - 1, -1, -1):
            its_side = of_codes[codes >> free == target >> free].sum()
            other = of_codes[codes >> free == (target >> free) ^ 1].sum()
            alike = np.isclose(its_side, other, rtol=1e-8, atol=0)
            hit *= 0.5 if alike else float(its_side > other)
        hits.append(hit)
    evaluator = CpuEvaluator(task, memory)
    assert evaluator.evaluate(genome).accuracy == pytest.approx(np.mean(hits))
    exact = CpuEvaluator(task, replace(memory, accuracy="exact"))
    for part in ("validation", "test"):
        assert same(evaluator.evaluate(genome, part), exact.evaluate(genome, part))


@pytest.mark.parametrize(("width", "at_once"), [(1, 1), (1, 7), (4, 1 << 22), (1000, 50)])
def test_the_accuracy_does_not_depend_on_how_many_prefixes_are_followed(
    width: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task("chained_bits", n_outputs=50)
    genome = make_genome(task, 3, [2, 5])
    expected = ReferenceEvaluator(task).evaluate(genome).accuracy
    monkeypatch.setattr(head, "_FIRST_WIDTHS", (width, width))
    monkeypatch.setattr(head, "_WIDENING", 2)
    monkeypatch.setattr(head, "_MOST_AT_ONCE", at_once)
    assert ReferenceEvaluator(task).evaluate(genome).accuracy == expected


@pytest.mark.parametrize("room_bytes", [1, 10_000, 1 << 28])
@pytest.mark.parametrize("cache_bytes", [0, None])
def test_genomes_that_are_searched_together_have_the_accuracy_that_they_have_alone(
    room_bytes: int, cache_bytes: int | None
) -> None:
    task = make_task("chained_bits", n_outputs=50)
    population = [make_genome(task, n, [2, 5], seed=n) for n in (1, 2, 3)]
    changed = [population[k == 2].cluster(k) for k in range(task.n_clusters)]
    population += [Genome.of_clusters(changed), population[0]]
    alone = [ReferenceEvaluator(task).evaluate(genome) for genome in population]
    evaluator = ReferenceEvaluator(task, cache_bytes=cache_bytes)
    evaluator._finder.room_bytes = room_bytes
    for _ in range(2):
        together = evaluator.evaluate_batch(population)
        assert all(same(a, b) for a, b in zip(together, alone, strict=True))


def test_a_cluster_that_genomes_share_is_asked_once_and_what_is_known_not_again() -> None:
    class Counting(ReferenceEvaluator):
        asked = 0

        def query_votes(self, asked: Any, reading: Reading) -> Any:
            self.asked += len(asked)
            return super().query_votes(asked, reading)

    task = make_task("chained_bits", n_outputs=8)
    first, second = (make_genome(task, 3, [4], seed=seed) for seed in (0, 1))
    other = Genome.of_clusters([first.cluster(0), first.cluster(1), second.cluster(2)])
    evaluator = Counting(task)
    evaluator.evaluate_batch([first, other, first])
    assert evaluator.asked == 1 + 2  # the second bit's cluster, and two of the third bit
    evaluator.evaluate(first)
    assert evaluator.asked == 3


def test_codes_that_all_tie_share_the_hit() -> None:
    # Cells that saw nothing: every code below 5 has the same probability after its free bits.
    examples = Examples(np.zeros((8, 1), np.uint64), np.zeros(8, np.int64))
    task = chained(Task("same", "bits", 1, 4, examples, examples, examples, (1, 1)))
    memory = MemorySettings("wisard", "mean", empty_value=0.5)
    task = replace(
        task, validation=replace(task.validation, inputs=task.validation.inputs ^ np.uint64(1))
    )
    genome = Genome.of_clusters([np.array([[0]]), np.array([[0]])])
    result = create_evaluator(task, memory).evaluate(genome)
    assert result.accuracy == 0.25
    assert result.cross_entropy == pytest.approx(np.log(4))


@settings(max_examples=40)
@given(st.data())
def test_evaluations_are_those_of_the_reference(data: st.DataObject) -> None:
    task, memory = data.draw(chained_tasks()), data.draw(memory_settings())
    genome = data.draw(genomes(task))
    right = ReferenceEvaluator(task, memory).evaluate(genome)
    for threads in (1, 3):
        found = CpuEvaluator(task, memory, threads=threads).evaluate(genome)
        assert (found.cross_entropy, found.accuracy) == (right.cross_entropy, right.accuracy)
        assert np.array_equal(found.neuron_order, right.neuron_order)
        assert found.cluster_losses is not None
        assert right.cluster_losses is not None
        assert np.array_equal(found.cluster_losses, right.cluster_losses)


@settings(max_examples=30)
@given(st.data())
def test_queries_with_the_examples_own_inputs_are_their_votes(data: st.DataObject) -> None:
    task, memory = data.draw(chained_tasks()), data.draw(memory_settings())
    genome = data.draw(genomes(task))
    reading = part_reading(task, memory, "fitness")
    rows = np.array(data.draw(st.lists(st.integers(0, len(reading.examples) - 1), max_size=40)))
    rows = rows.astype(np.int64)
    queries = Queries(rows, reading.examples.inputs[rows])
    for backend in (ReferenceEvaluator, CpuEvaluator):
        evaluator: Evaluator = backend(task, memory)
        for cluster in clusters_of(genome):
            votes = evaluator.cluster_votes([cluster], reading)[0]
            (asked,) = evaluator.query_votes([(cluster, queries)], reading)
            assert np.array_equal(asked, votes.sums[rows])


@settings(max_examples=30)
@given(st.data())
def test_queries_are_those_of_the_reference(data: st.DataObject) -> None:
    task, memory = data.draw(chained_tasks()), data.draw(memory_settings())
    genome = data.draw(genomes(task))
    reading = part_reading(task, memory, "fitness")
    rng = np.random.default_rng(data.draw(seeds))
    rows = rng.integers(0, len(reading.examples), 30)
    others = reading.examples.inputs[rng.integers(0, len(reading.examples), 30)]
    clusters = clusters_of(genome)
    asked = [Queries(rows[k:], others[k:]) for k in range(len(clusters))]  # each asks its own
    job = list(zip(clusters, asked, strict=True)), reading
    right = ReferenceEvaluator(task, memory).query_votes(*job)
    for threads in (1, 3):
        found = CpuEvaluator(task, memory, threads=threads).query_votes(*job)
        assert all(np.array_equal(a, b) for a, b in zip(found, right, strict=True))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_query_is_read_without_its_examples_own_block(backend: str) -> None:
    task = make_task("chained_bits", n_inputs=9, sizes=(24, 5, 5))
    memory = MemorySettings(fitness_on="leave_block_out", blocks=4)
    cluster = cluster_of(make_genome(task, 3, [4]), 1)
    inputs = task.test.inputs[:1]
    evaluator = create_evaluator(task, memory, backend=backend)
    asked = Queries(np.array([7]), inputs)  # of the second block: examples 6 to 11
    (votes,) = evaluator.query_votes([(cluster, asked)], part_reading(task, memory, "fitness"))
    kept = np.delete(np.arange(24), np.s_[6:12])
    fewer = replace(task, train=Examples(task.train.inputs[kept], task.train.targets[kept]))
    other = create_evaluator(fewer, MemorySettings(), backend=backend)
    other.cells = evaluator.cells
    right = other.cluster_votes([cluster], part_reading(fewer, MemorySettings(), "test"))[0]
    assert votes[0] == right.sums[0]


# -- what clusters may observe -------------------------------------------------------------------


def test_a_cluster_sees_the_context_and_the_bits_before_its_own() -> None:
    task = make_task("chained_bits", n_inputs=10, n_outputs=6)
    assert (task.n_clusters, task.n_inputs, task.visible) == (3, 12, (10, 11, 12))
    appended = unpack_bits(task.train.inputs, task.n_inputs)[:, 10:]
    assert np.array_equal(
        appended, np.stack([task.train.targets >> 2, task.train.targets >> 1 & 1], 1)
    )


def test_inputs_without_the_targets_bits_are_refused() -> None:
    task = replace(make_task("bits"), head="chained_bits")
    with pytest.raises(InputError, match="are not the first bits of its targets"):
        create_evaluator(task)


def test_a_genome_that_sees_its_own_bit_is_refused() -> None:
    task = make_task("chained_bits", n_inputs=10, n_outputs=6)
    genome = Genome.of_clusters([np.array([[3, 9]]), np.array([[2, 10]]), np.array([[1, 11]])])
    for backend in ("reference", "cpu"):
        create_evaluator(task, backend=backend).evaluate(genome)
    genome = Genome.of_clusters([np.array([[3, 10]]), np.array([[2, 10]]), np.array([[1, 11]])])
    with pytest.raises(
        InputError, match="neuron 0 observes input 10, but its cluster sees only 10"
    ):
        create_evaluator(task).evaluate(genome)
    with pytest.raises(
        InputError, match="neuron 0 observes input 10, but its cluster sees only 10"
    ):
        genome.check(GenomeSpace.for_task(task, neurons=(1, 2), bits=(1, 4)).bounds)


def test_a_space_has_no_room_for_more_bits_than_its_first_cluster_sees() -> None:
    task = make_task("chained_bits", n_inputs=10, n_outputs=6)
    with pytest.raises(InputError, match="above the 10 input bits"):
        GenomeSpace.for_task(task, bits=(4, 11))


@st.composite
def chained_bounds(draw: st.DrawFn) -> Bounds:
    n_clusters, context = draw(st.integers(1, 17)), draw(st.integers(1, 12))
    visible = tuple(range(context, context + n_clusters))
    bits = draw(st.integers(1, context))
    return Bounds(n_clusters, visible[-1], (1, 5), (draw(st.integers(1, bits)), bits), visible)


@given(chained_bounds(), seeds, st.sets(st.sampled_from(DIMENSIONS), min_size=1))
def test_every_variation_keeps_to_what_clusters_see(
    bounds: Bounds, seed: int, free: set[Dimension]
) -> None:
    rng = np.random.default_rng(seed)
    space = GenomeSpace(bounds)
    first, second = space.sample(rng), space.sample(rng)
    varied = [
        first,
        mutate(first, bounds, space.free, 1.0, rng),
        mutate(first, bounds, free, 0.5, rng),
        crossover(first, second, rng.random(bounds.n_clusters) < 0.5),
        rewire(first, np.arange(first.n_neurons), bounds, rng),
    ]
    move = random_move(first, bounds, free, rng)
    if move is not None:
        varied.append(apply_move(first, move, bounds))
    if first.bits[-1] < bounds.bits[1]:
        varied.append(add_bit(first, bounds.n_clusters - 1, bounds, rng))
    for genome in varied:
        genome.check(bounds)


@settings(max_examples=30)
@given(st.data())
def test_refinement_keeps_to_what_clusters_see(data: st.DataObject) -> None:
    task = data.draw(chained_tasks())
    memory = data.draw(memory_settings())
    space = GenomeSpace.for_task(task, neurons=(1, 4), bits=(1, min(5, min(task.visible or ()))))
    genome = space.sample(np.random.default_rng(data.draw(seeds)))
    free = data.draw(st.sets(st.sampled_from(DIMENSIONS), min_size=1))
    refined, _ = create_evaluator(task, memory).refine(genome, space.bounds, free, 60, 1)
    refined.check(space.bounds)


def test_later_bits_use_those_before_them() -> None:
    # The second bit repeats the first, and nothing else tells it.
    rng = np.random.default_rng(0)
    parts = [
        Examples(rng.integers(0, 4, (200, 1)).astype(np.uint64), 3 * rng.integers(0, 2, 200))
        for _ in range(3)
    ]
    task = chained(Task("twice", "bits", 2, 4, parts[0], parts[1], parts[2], (1, 2)))
    blind = Genome.of_clusters([np.array([[0, 1]])] * 2)
    seeing = Genome.of_clusters([np.array([[0, 1]]), np.array([[0, 2]])])
    evaluator = create_evaluator(task)
    assert evaluator.evaluate(blind).cross_entropy > 1.3
    assert evaluator.evaluate(seeing).cross_entropy < 0.8


def test_text_has_the_head_as_an_option() -> None:
    plain, task = (load_task("python-docs", context=2, head=h) for h in ("bits", "chained_bits"))
    assert (task.n_inputs, task.visible) == (23, tuple(range(16, 24)))
    assert task.input_groups == plain.input_groups == (2, 8)
    assert task.baselines == plain.baselines
    with pytest.raises(InputError, match=r"task\.head: 'tree' is not one of bits, chained_bits"):
        load_task("python-docs", head="tree")


def test_a_run_of_the_head_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the cat sat on the mat; the dog did not. " * 40)
    Path("run.yaml").write_text(
        "name: tiny\n"
        "task: {kind: text, path: text.txt, context: 1, head: chained_bits}\n"
        "space: {neurons: [2, 3], bits: [2, 4]}\n"
        "search: {trials: 4, population_size: 3, n_neighbors: 3, crossover: informed,"
        " refine_steps: 8}\n"
    )
    assert main(["run", "run.yaml"]) == 0
    assert main(["export", "tiny", "best.json.gz"]) == 0
    task = load_task("text", path="text.txt", context=1, head="chained_bits")
    Genome.load("best.json.gz").check(
        GenomeSpace.for_task(task, neurons=(2, 3), bits=(2, 4)).bounds
    )
