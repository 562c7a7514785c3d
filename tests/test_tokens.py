"""The ``tokens`` head against brute force, and its promises at any size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from networks import MEMORIES
from networks import make_genome
from networks import make_task

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators.cpu import CpuEvaluator
from optuna_wnn.evaluators.readings import part_reading
from optuna_wnn.evaluators.reference import ReferenceEvaluator
from optuna_wnn.evaluators.token_blocks import NARROW_BITS
from optuna_wnn.evaluators.tokens import BLOCK
from optuna_wnn.evaluators.tokens import RUN
from optuna_wnn.evaluators.votes import clusters_of
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Task


def make_network(task: Task, seed: int = 0) -> Genome:
    """Return clusters that differ in neurons and in bits."""
    rng = np.random.default_rng(seed)
    return Genome.of_clusters(
        [
            np.array([rng.permutation(task.n_inputs)[:width] for _ in range(rng.integers(1, 7))])
            for width in rng.integers(1, 9, task.n_clusters)
        ]
    )


def by_brute_force(evaluator: Evaluator, genome: Genome) -> tuple[float, float]:
    """Return cross-entropy and accuracy from all outputs at once."""
    reading = part_reading(evaluator.task, evaluator.memory, "fitness")
    votes = evaluator.cluster_votes(clusters_of(genome), reading)
    outputs = evaluator.cells.outputs(np.stack([v.sums for v in votes]), genome.neurons)
    targets, temperature = reading.examples.targets, float(evaluator.memory.temperature)
    every = np.arange(len(targets))
    scores = outputs / temperature
    losses = np.log(np.exp(scores - scores.max(0)).sum(0)) + scores.max(0) - scores[targets, every]
    best = outputs == outputs.max(0)
    return float(losses.mean()), float((best[targets, every] / best.sum(0)).mean())


@pytest.mark.parametrize("kind", MEMORIES, ids=lambda kind: f"{kind['mode']}-{kind['vote']}")
@pytest.mark.parametrize("n_outputs", [5, 2 * BLOCK, 2 * BLOCK + 3])
@pytest.mark.parametrize("negatives", [None, 20])
def test_backends_agree_and_equal_brute_force(
    kind: dict[str, Any], n_outputs: int, negatives: int | None
) -> None:
    task = make_task("tokens", n_outputs=n_outputs)
    memory = MemorySettings(**kind, temperature=0.1, negatives=negatives)
    genome = make_network(task)
    reference = ReferenceEvaluator(task, memory)
    right = reference.evaluate(genome)
    assert (right.cross_entropy, right.accuracy) == pytest.approx(
        by_brute_force(reference, genome)
    )
    for threads in (1, 3):
        found = CpuEvaluator(task, memory, threads=threads).evaluate(genome)
        assert found.cross_entropy == right.cross_entropy
        assert found.accuracy == right.accuracy
        assert np.array_equal(found.neuron_order, right.neuron_order)


@pytest.mark.parametrize("kind", [MEMORIES[1], MEMORIES[3], MEMORIES[4], MEMORIES[6]])
@pytest.mark.parametrize("negatives", [None, 20])
def test_narrow_and_wide_clusters_go_together_over_many_examples(
    kind: dict[str, Any], negatives: int | None
) -> None:
    task = make_task("tokens", n_outputs=BLOCK + 3, sizes=(400, 2 * RUN + 1, 5))
    rng = np.random.default_rng(1)
    widths = rng.integers(1, 2 * NARROW_BITS, task.n_clusters).clip(1, task.n_inputs)
    genome = Genome.of_clusters(
        np.array([rng.permutation(task.n_inputs)[:width] for _ in range(rng.integers(1, 7))])
        for width in widths
    )
    memory = MemorySettings(**kind, negatives=negatives)
    right = ReferenceEvaluator(task, memory).evaluate(genome)
    found = CpuEvaluator(task, memory, threads=2).evaluate(genome)
    assert found.cross_entropy == right.cross_entropy
    assert found.accuracy == right.accuracy
    assert np.array_equal(found.neuron_order, right.neuron_order)


@pytest.mark.parametrize("fitness_on", ["leave_one_out", "leave_block_out"])
def test_examples_can_be_left_out(fitness_on: Any) -> None:
    task = make_task("tokens", n_outputs=9)
    memory = MemorySettings(fitness_on=fitness_on, sample_rate=0.7)
    genome = make_network(task)
    right = ReferenceEvaluator(task, memory).evaluate(genome)
    assert CpuEvaluator(task, memory).evaluate(genome).cross_entropy == right.cross_entropy


@settings(max_examples=25)
@given(st.integers(0, 99), st.integers(0, 99), st.sampled_from([0, 10_000, None]))
def test_what_is_known_changes_no_result(first: int, second: int, cache_bytes: int | None) -> None:
    task = make_task("tokens", n_outputs=2 * BLOCK + 3, sizes=(60, 30, 5))
    parent, other = make_network(task, first), make_network(task, second)
    taken = range(first, first + 30)
    child = Genome.of_clusters(
        (other if k in taken else parent).cluster(k) for k in range(task.n_clusters)
    )
    evaluator = CpuEvaluator(task, cache_bytes=cache_bytes)
    evaluator.evaluate_batch([parent, other])
    again = CpuEvaluator(task, cache_bytes=0).evaluate(child)
    found = evaluator.evaluate(child)
    assert found.cross_entropy == again.cross_entropy
    assert np.array_equal(found.neuron_order, again.neuron_order)


def test_only_blocks_that_changed_are_computed_again() -> None:
    class Counting(ReferenceEvaluator):
        computed = 0

        def votes_here(self, clusters: Any, reading: Any) -> Any:
            self.computed += len(clusters)
            return super().votes_here(clusters, reading)

    task = make_task("tokens", n_outputs=3 * BLOCK, sizes=(60, 30, 5))
    genome = make_genome(task, 2, [3])
    clusters = [genome.cluster(k) for k in range(task.n_clusters)]
    clusters[BLOCK + 1] = np.array([[0, 1, 2], [3, 4, 5]])
    evaluator = Counting(task)
    evaluation = evaluator.evaluate(genome)
    assert evaluator.computed == 3 * BLOCK
    evaluator.evaluate(genome.reordered(evaluation.neuron_order))
    assert evaluator.computed == 3 * BLOCK
    evaluator.evaluate(Genome.of_clusters(clusters))
    assert evaluator.computed == 4 * BLOCK


def test_negatives_are_drawn_by_the_seed() -> None:
    task = make_task("tokens", n_outputs=9)
    genome = make_network(task)

    def loss(seed: int, negatives: int | None) -> float:
        memory = MemorySettings(sample_seed=seed, negatives=negatives)
        return create_evaluator(task, memory).evaluate(genome).cross_entropy

    assert loss(1, 40) == loss(1, 40) != loss(2, 40)
    assert loss(1, None) == loss(2, None)


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ({"temperature": "fit"}, "temperature: the tokens head cannot fit it"),
        ({"negatives": 5, "sample_rate": 0.5}, "negatives: it goes with sample_rate: 1"),
        ({"negatives": 5, "fitness_on": "leave_one_out"}, "and fitness_on: validation"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(memory: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_evaluator(make_task("tokens"), MemorySettings(**memory))


def test_other_heads_draw_no_negatives() -> None:
    with pytest.raises(InputError, match="negatives: the bits head takes all"):
        create_evaluator(make_task(), MemorySettings(negatives=3))
