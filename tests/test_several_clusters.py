"""Several clusters per output: their votes are added up, whatever the width of their neurons.

Under the calibrated vote a cluster's part in that is its own, whatever the number of its neurons.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import make_genome
from networks import make_task
from networks import same
from searches import child_of
from searches import generations
from searches import genomes_of
from searches import study_of

from optuna_wnn import Bounds
from optuna_wnn import Genome
from optuna_wnn import GenomeSpace
from optuna_wnn import InputError
from optuna_wnn import MemorySettings
from optuna_wnn import RAMNetwork
from optuna_wnn import WNNGeneticSampler
from optuna_wnn import load_task
from optuna_wnn import set_genome
from optuna_wnn.config import parse_config
from optuna_wnn.container import read_container
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.importance import importance
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Head
from optuna_wnn.tasks.base import Task


CONSTANT = 5  # an input that is 0 in every example
HEADS: list[Head] = ["classes", "bits", "chained_bits"]
KINDS: tuple[dict[str, Any], ...] = (
    {"mode": "frequency", "vote": "mean", "fitness_on": "leave_one_out"},
    {"mode": "frequency", "vote": "confidence"},
    {"mode": "frequency", "vote": "log_odds", "fitness_on": "leave_block_out"},
    {"mode": "quad_weighted", "vote": "mean"},
)


def plain_task(head: Head, n_outputs: int = 6) -> Task:
    """Return a task of one cluster per output in which one input never varies."""
    task = make_task(head, n_outputs=n_outputs)

    def without(examples: Examples) -> Examples:
        return Examples(examples.inputs & ~np.uint64(1 << CONSTANT), examples.targets)

    train, validation, test = map(without, (task.train, task.validation, task.test))
    return replace(task, train=train, validation=validation, test=test)


def alike(task: Task, widths: tuple[int, int] = (4, 3)) -> tuple[Task, Genome, Genome]:
    """Return a task of two clusters per output, a genome for it, and one that computes the same.

    The first genome has 3 neurons in one cluster of an output and 2 narrower ones in the other.
    The second has all 5 in one cluster, for ``task``: what the narrow ones lack is the input that
    never varies, so they address as many cells.
    """
    rng = np.random.default_rng(1)
    visible = task.visible or (task.n_inputs,) * task.n_clusters
    apart, together = [], []
    for n_visible in visible:
        varying = np.delete(np.arange(n_visible), CONSTANT)
        first, second = (
            np.array([np.sort(rng.permutation(varying)[:width]) for _ in range(n)])
            for n, width in zip((3, 2), widths, strict=True)
        )
        constant = np.full((2, widths[0] - widths[1]), CONSTANT)
        padded = np.sort(np.concatenate([second, constant], axis=1), axis=1)
        apart += [first, second]
        together.append(np.concatenate([first, padded]))
    several = replace(task, clusters_per_output=2)
    return several, Genome.of_clusters(apart), Genome.of_clusters(together)


# What an evaluation makes of them


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("widths", [(4, 4), (4, 3)], ids=["as wide", "of other width"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind['mode']}-{kind['vote']}")
@pytest.mark.parametrize("head", HEADS)
def test_clusters_of_an_output_vote_as_one_with_all_their_neurons(
    head: Head, kind: dict[str, Any], widths: tuple[int, int], backend: str
) -> None:
    task = plain_task(head)
    several, apart, together = alike(task, widths)
    memory = MemorySettings(**kind, temperature="fit")
    found, right = (
        create_evaluator(t, memory, backend=backend, threads=1) for t in (several, task)
    )
    for part in ("fitness", "test"):
        one, other = found.evaluate(apart, part), right.evaluate(together, part)
        assert one.cross_entropy == other.cross_entropy
        assert one.accuracy == other.accuracy
    assert found.temperature(apart) == right.temperature(together)
    assert np.array_equal(found.separations(apart), right.separations(together))


def test_a_vocabulary_that_is_whole_is_no_exception() -> None:
    for head in HEADS:
        several, apart, together = alike(plain_task(head, n_outputs=8))
        one = create_evaluator(several, backend="cpu").evaluate(apart)
        other = create_evaluator(plain_task(head, n_outputs=8), backend="cpu").evaluate(together)
        assert (one.cross_entropy, one.accuracy) == (other.cross_entropy, other.accuracy)


@pytest.mark.parametrize("head", HEADS)
def test_clusters_of_any_widths_are_those_of_the_reference(head: Head) -> None:
    task = replace(make_task(head), clusters_per_output=3)
    genome = make_genome(task, 3, [2, 7, 12])
    memory = MemorySettings(mode="frequency", vote="confidence", sample_rate=0.5)
    fast, right = (create_evaluator(task, memory, backend=name) for name in ("cpu", "reference"))
    for part in ("fitness", "test"):
        assert same(fast.evaluate(genome, part), right.evaluate(genome, part))


@pytest.mark.parametrize("head", ["bits", "chained_bits"])
def test_every_cluster_of_a_bit_has_the_bits_whole_loss(head: Head) -> None:
    task = plain_task(head)
    several, apart, together = alike(task)
    losses = create_evaluator(several, backend="cpu").evaluate(apart).cluster_losses
    expected = create_evaluator(task, backend="cpu").evaluate(together).cluster_losses
    assert losses is not None
    assert expected is not None
    assert losses.tolist() == np.repeat(expected, 2).tolist()


@pytest.mark.parametrize("head", HEADS)
def test_what_is_remembered_of_an_output_depends_on_all_its_clusters(head: Head) -> None:
    several, apart, _ = alike(plain_task(head))
    evaluator = create_evaluator(several, backend="cpu")
    evaluator.evaluate(apart)
    for k in (0, 1):  # either cluster of the first output
        clusters = [apart.cluster(i) for i in range(apart.n_clusters)]
        clusters[k] = (clusters[k] + 1) % 7
        changed = Genome.of_clusters([np.sort(rows, axis=1) for rows in clusters])
        fresh = create_evaluator(several, backend="cpu").evaluate(changed)
        assert same(evaluator.evaluate(changed), fresh)


def test_a_cluster_sees_what_its_output_may_see() -> None:
    task = replace(make_task("chained_bits"), clusters_per_output=2)
    assert task.n_clusters == 2 * task.n_head_outputs == 6
    assert task.visible == (20, 20, 21, 21, 22, 22)
    genome = make_genome(task, 2, [3])
    rows = [genome.cluster(k).copy() for k in range(6)]
    rows[3][0, -1] = 21
    with pytest.raises(InputError, match="its cluster sees only 21"):
        create_evaluator(task, backend="reference").evaluate(Genome.of_clusters(rows))


def test_an_output_has_no_more_neurons_than_can_be_counted() -> None:
    task = replace(make_task("bits", n_outputs=2), clusters_per_output=2)
    rows = np.zeros((40_000, 1), np.int64)
    with pytest.raises(InputError, match="80000 in the clusters of one output is above 65536"):
        create_evaluator(task, backend="reference").evaluate(Genome.of_clusters([rows, rows]))


def test_inputs_matter_to_outputs() -> None:
    task = plain_task("bits")
    several, apart, together = alike(task, (4, 4))
    found = importance(create_evaluator(several, backend="cpu"), apart)
    right = importance(create_evaluator(task, backend="cpu"), together)
    assert found.weights == pytest.approx(right.weights)


def doubled(genome: Genome) -> Genome:
    """Return a genome in which the first of every two clusters has each of its neurons twice."""
    clusters = [genome.cluster(k) for k in range(genome.n_clusters)]
    return Genome.of_clusters(np.repeat(c, 2 - k % 2, axis=0) for k, c in enumerate(clusters))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("head", ["bits", "chained_bits"])
def test_under_the_calibrated_vote_copies_of_a_clusters_neurons_change_nothing(
    head: Head, backend: str
) -> None:
    task, genome, _ = alike(plain_task(head))
    memory = MemorySettings(vote="calibrated", fitness_on="leave_block_out")
    evaluator = create_evaluator(task, memory, backend=backend).calibrated(genome)
    for part in ("fitness", "test"):
        one, other = (evaluator.evaluate(its, part) for its in (genome, doubled(genome)))
        assert one.cross_entropy == pytest.approx(other.cross_entropy, rel=1e-12)
        assert one.accuracy == other.accuracy
    gains, again = evaluator.gains, evaluator.calibrated(doubled(genome)).gains
    assert gains is not None
    assert again is not None
    assert np.abs(gains - again).max() <= 1


@pytest.mark.parametrize("head", ["bits", "chained_bits"])
def test_calibrated_networks_predict_as_their_evaluators(head: Head) -> None:
    several, apart, _ = alike(plain_task(head))
    memory = MemorySettings(vote="calibrated")
    evaluator = create_evaluator(several, memory, backend="cpu").calibrated(apart)
    network = RAMNetwork.for_task(several, apart, memory)
    network.fit(several.train.inputs, several.train.targets)
    log_p = network.predict_log_proba(several.test.inputs)
    of_targets = log_p[np.arange(len(several.test)), several.test.targets]
    expected = evaluator.evaluate(apart, "test").cross_entropy
    assert -of_targets.mean() == pytest.approx(expected, rel=1e-12)


# Networks


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("head", HEADS)
def test_a_network_predicts_as_one_with_all_neurons_in_one_cluster(
    head: Head, compiled: bool, tmp_path: Path
) -> None:
    task = plain_task(head)
    several, apart, together = alike(task)
    memory = MemorySettings(temperature="fit")
    networks = []
    for its_task, genome in ((several, apart), (task, together)):
        network = RAMNetwork.for_task(its_task, genome, memory, compiled=compiled)
        network.fit(task.train.inputs, task.train.targets)
        network.save(tmp_path / "model.npz")
        networks.append(RAMNetwork.load(tmp_path / "model.npz", compiled=compiled))
    found, right = networks
    assert (found.clusters_per_output, right.clusters_per_output) == (2, 1)
    inputs = task.test.inputs
    assert np.array_equal(found.predict(inputs), right.predict(inputs))
    assert np.array_equal(found.predict_log_proba(inputs), right.predict_log_proba(inputs))
    if head == "bits":
        assert np.array_equal(found.predict_bits(inputs), right.predict_bits(inputs))
    log_p = found.predict_log_proba(inputs)[np.arange(len(inputs)), task.test.targets]
    expected = create_evaluator(several, memory, backend="cpu").evaluate(apart, "test")
    assert -log_p.mean() == pytest.approx(expected.cross_entropy, rel=1e-12)


@pytest.mark.parametrize("head", ["bits", "chained_bits"])
def test_a_network_generates_as_one_with_all_neurons_in_one_cluster(head: Head) -> None:
    task = replace(make_task(head, n_inputs=24, n_outputs=256), input_groups=(3, 8))
    several, apart, together = alike(task, (4, 4))
    texts = [
        RAMNetwork.for_task(its_task, genome)
        .fit(task.train.inputs, task.train.targets)
        .generate(np.array([1, 2, 3]), 20, seed=4)
        .tolist()
        for its_task, genome in ((several, apart), (task, together))
    ]
    assert texts[0] == texts[1]


def test_files_of_one_cluster_per_output_are_as_they_were(tmp_path: Path) -> None:
    task = make_task("bits")
    network = RAMNetwork.for_task(task, make_genome(task, 2, [3]))
    network.fit(task.train.inputs, task.train.targets).save(tmp_path / "model.npz")
    names = ("neurons", "bits", "connections", "votes", "codes", "sizes", "keys")
    dtypes = dict.fromkeys(names, ("<i4", "<i8", "<u8", "|u1", "<u2"))
    header, _ = read_container(tmp_path / "model.npz", "optuna-wnn network", 1, dtypes)
    assert "clusters_per_output" not in header


# Searches


def test_informed_crossover_takes_all_clusters_of_an_output_from_one_trial() -> None:
    space = GenomeSpace(Bounds(6, 40, (1, 6), (2, 8)))

    def objective(trial: Any) -> float:
        genome = space.suggest(trial)
        # Few different losses, so that many trials are as good as each other.
        losses = [
            float(np.concatenate([genome.cluster(k).ravel() for k in (i, i + 1)]).mean() // 4)
            for i in (0, 2, 4)
        ]
        set_genome(trial, genome, np.repeat(losses, 2))
        return sum(losses)

    sampler = WNNGeneticSampler(
        seed=1, population_size=8, crossover_rate=1.0, mutation_rate=0.2, crossover="informed"
    )
    study = study_of(sampler)
    study.optimize(objective, n_trials=96)
    genomes = genomes_of(study)
    n_mixed = 0
    for trial in (trial for generation in generations(study)[1:] for trial in generation):
        gave = [genomes[number] for number in child_of(trial).parents]
        child = genomes[trial.number]
        from_ = [[np.array_equal(child.cluster(k), g.cluster(k)) for g in gave] for k in range(6)]
        for first, second in ((0, 1), (2, 3), (4, 5)):
            if any(from_[first]) and any(from_[second]):  # neither of them has mutated
                assert any(np.logical_and(from_[first], from_[second]))
                n_mixed += len(gave) > 1
    assert n_mixed > 50


# What is refused


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, None])
def test_what_is_no_number_of_clusters_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"task\.clusters_per_output: .* is not a whole number"):
        load_task("python-docs", clusters_per_output=value)


def test_more_clusters_than_an_output_can_have_are_refused() -> None:
    with pytest.raises(InputError, match=r"task\.clusters_per_output: 65537 is above 65536"):
        load_task("python-docs", clusters_per_output=65537)


def test_tokens_have_one_cluster_each() -> None:
    with pytest.raises(InputError, match=r"task\.clusters_per_output: the tokens head has one"):
        replace(make_task("tokens"), clusters_per_output=2)


def test_a_search_could_not_grow_more_neurons_than_can_be_counted() -> None:
    task = replace(make_task("bits"), clusters_per_output=2)
    config = parse_config(
        {"name": "x", "task": {"kind": "python-docs"}, "space": {"neurons": [1, 40_000]}}
    )
    with pytest.raises(InputError, match=r"space\.neurons: 40000 in each of 2 .* above 65536"):
        PhasedSearch(config, task=task)


def test_several_clusters_are_not_refined(tmp_path: Path) -> None:
    task = replace(make_task("bits"), clusters_per_output=2)
    bounds = Bounds(task.n_clusters, task.n_inputs, (1, 4), (1, 4))
    with pytest.raises(InputError, match="refine: several clusters per output are not refined"):
        create_evaluator(task, backend="cpu").refine(
            make_genome(task, 2, [3]), bounds, {"connections"}, 5, 0
        )
    config = parse_config(
        {
            "name": "x",
            "storage": f"sqlite:///{tmp_path / 'x.db'}",
            "task": {"kind": "python-docs"},
            "space": {"bits": [2, 8]},
            "search": {"refine_steps": 5},
        }
    )
    with pytest.raises(InputError, match=r"refine: .* set refine_steps to 0"):
        PhasedSearch(config, task=task)
    assert not (tmp_path / "x.db").exists()
