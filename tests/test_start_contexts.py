"""Where a search starts: neurons that observe whole tokens, and the target's bits so far."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from networks import make_task
from runs import place
from searches import genomes_of

from optuna_wnn import Bounds
from optuna_wnn import Genome
from optuna_wnn import GenomeSpace
from optuna_wnn import InputError
from optuna_wnn import WNNGeneticSampler
from optuna_wnn import load_task
from optuna_wnn.config import parse_config
from optuna_wnn.genome import DIMENSIONS
from optuna_wnn.models import trained_winner
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Head
from optuna_wnn.tasks.base import Task


SPACE = GenomeSpace(Bounds(2, 9, (1, 4), (1, 4)), start_inputs=((0, 3), (1, 2, 8)))


def text(head: Head = "chained_bits", clusters_per_output: int = 3, context: int = 4) -> Task:
    """Return a task of tokens of 3 bits that has no examples."""
    none = Examples(np.zeros((0, 1), np.uint64), np.zeros(0, np.int64))
    n_inputs = 3 * context + (2 if head == "chained_bits" else 0)
    return Task(
        "t", head, n_inputs, 6, none, none, none, (context, 3),
        clusters_per_output=clusters_per_output,
    )  # fmt: skip


def rows(genome: Genome | None) -> list[list[list[int]]]:
    """Return what the neurons of each cluster observe."""
    assert genome is not None
    return [genome.cluster(k).tolist() for k in range(genome.n_clusters)]


# The starting genome


def test_neurons_observe_whole_tokens_and_the_bits_of_the_target_so_far() -> None:
    space = GenomeSpace.for_task(
        text(), neurons=(1, 5), bits=(1, 12), start_contexts=[[], [1], [1, 3]]
    )
    last, two = [9, 10, 11], [3, 4, 5, 9, 10, 11]
    assert rows(space.starting_genome()) == [
        *([[9]], [last], [two]),  # nothing is known of the target: the last token's first bit
        *([[12]], [[*last, 12]], [[*two, 12]]),
        *([[12, 13]], [[*last, 12, 13]], [[*two, 12, 13]]),
    ]


def test_a_token_may_be_seen_by_its_leading_bits_alone() -> None:
    task = text()
    n_tokens, width = task.input_groups
    space = GenomeSpace.for_task(
        task, neurons=1, bits=(1, 9), start_contexts=[[], [[1, 2]], [1, [2, 1]]]
    )
    last, before = (n_tokens - 1) * width, (n_tokens - 2) * width
    start = space.starting_genome()
    assert rows(start)[1] == [[last, last + 1]]
    assert rows(start)[2] == [[before, *range(last, last + width)]]


def test_bits_that_are_predicted_by_themselves_see_no_bit_of_the_target() -> None:
    space = GenomeSpace.for_task(
        text("bits", 2), neurons=(1, 5), bits=(1, 6), start_contexts=[[2], []]
    )
    assert rows(space.starting_genome()) == 3 * [[[6, 7, 8]], [[9]]]


def test_where_one_neuron_is_too_few_the_others_have_one_random_input() -> None:
    space = GenomeSpace.for_task(
        text("bits", 1), neurons=(3, 5), bits=(3, 6), start_contexts=[[2]]
    )
    genome = space.starting_genome()
    assert genome == space.starting_genome()
    for first, *others in rows(genome):
        assert first == [6, 7, 8]
        assert [len(set(first) & set(other)) for other in others] == [2, 2]


def test_without_contexts_there_is_none() -> None:
    assert GenomeSpace.for_task(text(), neurons=2, bits=2).starting_genome() is None


# Samples


@given(st.integers(0, 2**32), st.lists(st.sampled_from(DIMENSIONS), min_size=1, unique=True))
def test_a_sample_is_the_starting_genome_mutated_in_what_is_free(seed: int, free: Any) -> None:
    space = GenomeSpace(SPACE.bounds, tuple(free), (1, 1), SPACE.start_inputs)
    genome = space.sample(np.random.default_rng(seed))
    genome.check(space.bounds)
    start = space.starting_genome()
    assert start is not None
    assert genome != start
    if "neurons" not in free:
        assert genome.neurons.tolist() == [1, 1]
    if "bits" not in free:
        assert genome.bits.tolist() == [2, 3]
    if free == ["bits"]:  # what a neuron keeps, it observes as before
        for (before,), (after,) in zip(rows(start), rows(genome), strict=True):
            assert set(before) <= set(after) or set(after) <= set(before)


def test_about_half_of_the_clusters_of_a_sample_are_mutated() -> None:
    start_inputs = tuple((k, k + 1) for k in range(40))
    space = GenomeSpace(Bounds(40, 50, (1, 9), (1, 9)), start_inputs=start_inputs)
    same = [
        rows(space.sample(np.random.default_rng(seed)))[k] == [list(inputs)]
        for seed in range(20)
        for k, inputs in enumerate(start_inputs)
    ]
    assert 0.45 < np.mean(same) < 0.55


# Where it travels


def test_it_survives_as_json_and_what_was_stored_before_is_read() -> None:
    assert GenomeSpace.from_json(SPACE.to_json()) == SPACE
    plain = GenomeSpace(SPACE.bounds)
    assert len(plain.to_json()) < len(SPACE.to_json())
    old = '[2, 9, [1, 4], [1, 4], null, ["neurons", "bits", "connections"], [1, 1]]'
    assert GenomeSpace.from_json(old) == plain
    assert plain.to_json() == old


@pytest.mark.parametrize(
    "sampler",
    [
        lambda: WNNGeneticSampler(seed=1, population_size=4),
        lambda: optuna.samplers.TPESampler(seed=1, n_startup_trials=4),
        lambda: optuna.samplers.RandomSampler(seed=1),
    ],
    ids=["genetic", "tpe", "random"],
)
def test_every_sampler_finds_genomes_within_the_bounds(
    sampler: Callable[[], optuna.samplers.BaseSampler],
) -> None:
    study = optuna.create_study(sampler=sampler())

    def objective(trial: optuna.Trial) -> float:
        genome = SPACE.suggest(trial)
        genome.check(SPACE.bounds)
        assert SPACE.parameters(genome).items() >= {
            (name, value) for name, value in trial.params.items() if name != "genome"
        }
        return float(genome.connections.sum())

    study.enqueue_trial({"neurons_0": 3})
    study.optimize(objective, n_trials=16)
    assert GenomeSpace.read(study) == SPACE
    assert genomes_of(study)[0].neurons[0] == 3


def test_it_is_part_of_what_a_run_is() -> None:
    document = {"name": "x", "task": {"kind": "text", "path": "x"}}
    plain = parse_config(document).identity()
    assert "start_contexts" not in plain["space"]
    found = parse_config({**document, "space": {"start_contexts": [[], [2, 1]]}}).identity()
    assert found["space"]["start_contexts"] == [[], [2, 1]]


@pytest.mark.parametrize("method", ["ga", "ts"])
def test_the_first_generation_of_a_run_starts_from_it(method: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = rng.choice(["to be", "or not", "a rose", "is", "the rain"], 300)
    (tmp_path / "poem.txt").write_text(" ".join(words))
    config = parse_config(
        {
            "name": "x",
            "storage": f"sqlite:///{tmp_path / 'x.db'}",
            "backend": "cpu",
            "task": {
                "kind": "text",
                "path": str(tmp_path / "poem.txt"),
                "context": 2,
                "head": "chained_bits",
                "clusters_per_output": 2,
            },
            "space": {"neurons": [1, 4], "bits": [1, 16], "start_contexts": [[], [1]]},
            "search": {"trials": 10, "population_size": 5},
            "phases": [{"method": method, "free": ["neurons", "bits", "connections"]}],
        }
    )
    search = PhasedSearch(config)
    summary = search.run()
    study = optuna.load_study(study_name=summary.phases[0].study, storage=config.storage)
    first = [genomes_of(study)[t.number] for t in study.trials if place(t)[0] == 0]
    start = search.spaces[0].starting_genome()
    assert len(first) == {"ga": 5, "ts": 1}[method]
    assert rows(start)[2 * 3 : 2 * 3 + 2] == [[[16, 17, 18]], [[*range(8, 19)]]]
    assert [sorted(r) for r in rows(first[0])] == [sorted(r) for r in rows(start)]
    for genome in first[1:]:
        kept = sum(
            sorted(one) == sorted(other)
            for one, other in zip(rows(genome), rows(start), strict=True)
        )
        assert 3 <= kept < 16
    network = trained_winner(search.storage, "x")
    assert network.clusters_per_output == 2
    assert len(network.generate(np.array([65, 66]), 4)) == 4


# What is refused


@pytest.mark.parametrize(
    ("task", "bits", "contexts", "message"),
    [
        (text(), (1, 9), [[1]], r"start_contexts: 1 lists of tokens for 3 clusters per output"),
        (text(), (1, 9), [[], [5], []], r"start_contexts\.1: \[5\] are not .* from 1 .* to 4"),
        (text(), (1, 9), [[], [], [2, 2]], r"start_contexts\.2: \[2, 2\] are not distinct"),
        (text(), (1, 7), [[], [], [1, 2]], r"observe 1 to 8 inputs.*set it to \[1, 8\], or name"),
        (text(), (2, 9), [[], [1], [1]], r"observe 1 to 5 inputs.*set it to \[1, 9\], or name"),
        (
            text(context=2),
            (1, 6),
            [[], [], [1, 2]],
            r"set it to \[1, 8\] and raise task\.context, or",
        ),
        (text(), (1, 9), [[], [[1, 9]], []], r"start_contexts\.1: 9 leading bits of token 1"),
        (text(), (1, 9), [[], [1, [1, 2]], []], r"start_contexts\.1: \[1, 1\] are not distinct"),
        (text("tokens", 1), (1, 9), [[1]], r"\(head tokens\) are not the codes of tokens"),
        (make_task("classes"), (1, 9), [[1]], r"\(head classes\) are not the codes of tokens"),
        (make_task("bits"), (1, 9), [[1]], r"\(head bits\) are not the codes of tokens"),
    ],
)
def test_contexts_that_do_not_fit_are_refused(
    task: Task, bits: tuple[int, int], contexts: list[list[int]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        GenomeSpace.for_task(task, neurons=2, bits=bits, start_contexts=contexts)


@pytest.mark.parametrize(
    ("start_inputs", "message"),
    [
        (((0, 3),), r"start_inputs: 1 sets for 2 clusters"),
        (((0, 3), ()), r"start_inputs\.1: 0 inputs are outside space\.bits, \[1, 4\]"),
        (((0, 1, 2, 3, 4), (1,)), r"start_inputs\.0: 5 inputs are outside"),
        (((3, 0), (1,)), r"start_inputs\.0: \[3, 0\] are not distinct ascending inputs below 9"),
        (((0,), (9,)), r"start_inputs\.1: \[9\] are not"),
        (((-1,), (1,)), r"start_inputs\.0: \[-1\] are not"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(start_inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        GenomeSpace(SPACE.bounds, start_inputs=start_inputs)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"start_contexts": [[0]]}, r"space\.start_contexts\.0\.0: a position of 1 or more"),
        ({"start_contexts": 1}, r"space\.start_contexts: a list is needed"),
        ({"start_contexts": [1]}, r"space\.start_contexts\.0: a list is needed"),
        ({"start_contexts": [[]], "start_bits": 5}, r"space\.start_bits: start_contexts says"),
        ({"start_contexts": [[]], "start_neurons": 5}, r"space\.start_neurons: start_cont"),
    ],
)
def test_a_wrong_configuration_is_named(space: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_config({"name": "x", "task": {"kind": "text", "path": "x"}, "space": space})


@settings(max_examples=20)
@given(st.integers(0, 7), st.lists(st.sampled_from([1, 2, 3]), unique=True, max_size=2))
def test_inputs_are_the_bits_that_the_task_shows(bit: int, positions: list[int]) -> None:
    task = _python_docs()
    space = GenomeSpace.for_task(task, neurons=1, bits=(1, 24), start_contexts=[positions])
    observed = np.array(rows(space.starting_genome())[bit][0])
    inputs, targets = task.test.inputs[5000:5100], task.test.targets
    found = [[int(row[i // 64]) >> int(i % 64) & 1 for i in observed] for row in inputs]
    codes = [[targets[5000 + e - p] for p in sorted(positions)[::-1]] for e in range(100)]
    expected = [
        [int(b) for code in its for b in f"{code:08b}"]
        + [int(b) for b in f"{targets[5000 + e]:08b}"[:bit]]
        for e, its in enumerate(codes)
    ]
    if positions or bit:
        assert found == expected
    else:
        assert found == [[int(targets[5000 + e - 1]) >> 7] for e in range(100)]


@functools.cache
def _python_docs() -> Task:
    return load_task("python-docs", context=4, head="chained_bits")
