"""The calibrated vote: gains are fitted on left-out training examples, and obeyed everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from networks import FITNESSES
from networks import make_genome
from networks import make_task
from networks import same
from numpy.typing import NDArray

from optuna_wnn import InputError
from optuna_wnn import MemorySettings
from optuna_wnn import RAMNetwork
from optuna_wnn import report
from optuna_wnn.config import parse_config
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators.calibration import addresses_of
from optuna_wnn.evaluators.calibration import left_out_counts
from optuna_wnn.evaluators.cells import GAIN_SCALE
from optuna_wnn.evaluators.cells import GAINS
from optuna_wnn.evaluators.cpu import CpuEvaluator
from optuna_wnn.evaluators.reference import ReferenceEvaluator
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Genome
from optuna_wnn.memory import FitnessOn
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.store.reader import genome_reader
from optuna_wnn.tasks.base import Head
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.base import pack_bits


def some_gains(task: Task, seed: int = 0) -> NDArray[np.int64]:
    """Return gains that differ from cluster to cluster, some of them below zero."""
    return np.random.default_rng(seed).integers(-200, 700, (task.n_clusters, GAINS))


def fitted(evaluator: Evaluator, genome: Genome) -> NDArray[np.int64]:
    """Return the gains that suit a genome."""
    gains = evaluator.calibrated(genome).gains
    assert gains is not None
    return gains


@given(st.data())
def test_a_cell_is_counted_without_the_block_that_is_left_out(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    addresses = rng.integers(0, 6, size).astype(np.uint64)
    positives = rng.integers(0, 2, size).astype(np.uint8)
    block = np.sort(rng.integers(0, 4, size))
    chosen = np.flatnonzero(rng.random(size) < 0.7)
    negative, positive = left_out_counts(addresses, positives, block, chosen)
    for place, e in enumerate(chosen):
        others = positives[(addresses == addresses[e]) & (block != block[e])]
        assert (negative[place], positive[place]) == ((others == 0).sum(), (others == 1).sum())


@given(st.integers(1, 150), st.integers(0, 99))
def test_the_same_observed_bits_make_the_same_address_and_others_another(
    n_inputs: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (50, n_inputs)) & (rng.random((50, 1)) < 0.5)
    observed = rng.permutation(n_inputs)[: rng.integers(1, n_inputs + 1)].astype(np.int32)
    addresses = addresses_of(pack_bits(bits), observed)
    rows = [tuple(row) for row in bits[:, observed].tolist()]
    for one, address in zip(rows, addresses, strict=True):
        for other, another in zip(rows, addresses, strict=True):
            assert (one == other) == (address == another)


@pytest.mark.parametrize("fitness_on", FITNESSES)
@pytest.mark.parametrize("head", ["bits", "chained_bits"])
@pytest.mark.parametrize("bits", [[3, 8], [15], [23, 100]], ids=["small", "wide", "hashed"])
def test_compiled_votes_obey_the_gains_as_the_reference_does(
    bits: list[int], head: Head, fitness_on: FitnessOn
) -> None:
    task = make_task(head, n_inputs=110 if max(bits) > 64 else 30)
    genome = make_genome(task, 3, bits)
    memory = MemorySettings(vote="calibrated", fitness_on=fitness_on)
    gains = some_gains(task)
    right = ReferenceEvaluator(task, memory).with_gains(gains)
    fast = CpuEvaluator(task, memory).with_gains(gains)
    for part in ("fitness", "test"):
        assert same(fast.evaluate(genome, part), right.evaluate(genome, part))
    assert not same(right.evaluate(genome), ReferenceEvaluator(task, memory).evaluate(genome))


def test_a_gain_of_one_everywhere_is_the_plain_mean_of_log_odds() -> None:
    task = make_task()
    genome = make_genome(task, 4, [4])
    plain = MemorySettings(vote="log_odds", prior=0.8)
    ones = np.full((task.n_clusters, GAINS), GAIN_SCALE)
    memory = MemorySettings(vote="calibrated", prior=0.8)
    mean = ReferenceEvaluator(task, plain).evaluate(genome).cross_entropy
    calibrated = ReferenceEvaluator(task, memory).with_gains(ones).evaluate(genome)
    assert calibrated.cross_entropy == pytest.approx(mean, abs=0.01)  # other fixed point
    assert same(calibrated, ReferenceEvaluator(task, memory).evaluate(genome))


@pytest.mark.parametrize("head", ["bits", "chained_bits"])
def test_refinement_obeys_the_gains(head: Head) -> None:
    task = make_task(head)
    genome = make_genome(task, 3, [5])
    memory = MemorySettings(vote="calibrated")
    bounds = Bounds(task.n_clusters, task.n_inputs, (1, 5), (1, 9), task.visible)
    found = [
        kind(task, memory)
        .with_gains(some_gains(task))
        .refine(genome, bounds, ["connections"], 60, seed=1)
        for kind in (ReferenceEvaluator, CpuEvaluator)
    ]
    assert found[0][0].digest == found[1][0].digest
    assert same(found[0][1], found[1][1])


@pytest.mark.parametrize("head", ["bits", "chained_bits"])
def test_no_small_change_of_a_gain_predicts_left_out_examples_better(head: Head) -> None:
    task = make_task(head, n_outputs=8, sizes=(1200, 50, 50))
    genome = make_genome(task, 3, [2, 6])
    memory = MemorySettings(vote="calibrated", fitness_on="leave_block_out")
    evaluator = ReferenceEvaluator(task, memory)
    found = fitted(evaluator, genome)
    best = evaluator.with_gains(found).evaluate(genome).cross_entropy
    assert best < evaluator.evaluate(genome).cross_entropy - 0.01
    for column in range(0, GAINS, 3):
        for change in (-30, 30):
            gains = found.copy()
            gains[1, column] += change
            # The pull towards the mean is worth one of the 1,200 examples.
            assert evaluator.with_gains(gains).evaluate(genome).cross_entropy > best - 1 / 1200


def test_what_is_validated_and_tested_has_no_part_in_the_gains() -> None:
    task = make_task()
    genome = make_genome(task, 3, [4])
    memory = MemorySettings(vote="calibrated")
    other = Task(
        task.name, task.head, task.n_inputs, task.n_outputs, task.train, task.test,
        task.validation, task.input_groups,
    )  # fmt: skip
    gains = [fitted(CpuEvaluator(t, memory), genome) for t in (task, other)]
    assert np.array_equal(gains[0], gains[1])


def test_a_network_calibrates_itself_on_what_it_is_trained_on() -> None:
    task = make_task("chained_bits")
    genome = make_genome(task, 3, [4])
    memory = MemorySettings(vote="calibrated")
    evaluator = CpuEvaluator(task, memory).calibrated(genome)
    network = RAMNetwork.for_task(task, genome, memory).fit(task.train.inputs, task.train.targets)
    of_target = network.predict_log_proba(task.test.inputs)[
        np.arange(len(task.test)), task.test.targets
    ]
    assert -of_target.mean() == pytest.approx(evaluator.evaluate(genome, "test").cross_entropy)


REFUSED: list[tuple[Any, str]] = [
    (lambda: MemorySettings(vote="calibrated", sample_rate=0.5), "memory.sample_rate"),
    (lambda: MemorySettings(vote="calibrated", mode="wisard"), "memory.vote"),
    (
        lambda: CpuEvaluator(make_task("classes"), MemorySettings(vote="calibrated")),
        "memory.vote: calibrated needs the head bits or chained_bits, not classes",
    ),
    (
        lambda: CpuEvaluator(make_task(), MemorySettings(vote="calibrated")).with_gains(
            np.ones((2, GAINS), np.int64)
        ),
        "gains: they are for 2 clusters, the task has 3",
    ),
    (
        lambda: CpuEvaluator(make_task()).calibrated(make_genome(make_task(), 2, [3])),
        "memory.vote: confidence has no gains to fit",
    ),
]


@pytest.mark.parametrize(("attempt", "line"), REFUSED, ids=[line for _, line in REFUSED])
def test_what_does_not_go_together_is_refused(attempt: Any, line: str) -> None:
    with pytest.raises(InputError) as refused:
        attempt()
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def calibrated_run(storage: optuna.storages.BaseStorage, task: Task) -> PhasedSearch:
    """Return a search of two phases under the calibrated vote."""
    config = parse_config(
        {
            "name": "calibrated",
            "seed": 3,
            "task": {"kind": "text", "path": "unread"},
            "memory": {"vote": "calibrated"},
            "space": {"neurons": 3, "bits": [2, 6]},
            "search": {"trials": 8, "population_size": 4},
            "phases": [
                {"method": "ga", "free": "bits"},
                {"method": "ts", "free": "connections"},
            ],
        }
    )
    return PhasedSearch(config, storage, task=task)


def test_every_phase_has_gains_fitted_to_the_best_genome_before_it() -> None:
    storage, task = optuna.storages.InMemoryStorage(), make_task()
    calibrated_run(storage, task).run()
    first, second = (
        optuna.load_study(study_name=name, storage=storage)
        for name in report.study_names(storage, "calibrated")
    )
    gains = [report.read_gains(study) for study in (first, second)]
    assert gains[0] is not None
    assert gains[1] is not None
    assert not np.array_equal(gains[0], gains[1])
    evaluator = CpuEvaluator(task, MemorySettings(vote="calibrated"))
    winner = genome_reader(second).read(0)  # what the second phase starts with
    assert np.array_equal(fitted(evaluator, winner), gains[1])
    value = evaluator.with_gains(gains[1]).evaluate(winner).cross_entropy
    assert second.trials[0].values[0] == value


@pytest.mark.parametrize("stop_after", [3, 8, 9, 14])
def test_a_stopped_run_goes_on_with_the_gains_that_are_stored(stop_after: int) -> None:
    task, whole = make_task(), optuna.storages.InMemoryStorage()
    calibrated_run(whole, task).run()
    storage, seen = optuna.storages.InMemoryStorage(), 0

    def stop(progress: Any) -> None:
        nonlocal seen
        seen += progress.event in ("trial", "generation")
        if seen == stop_after:
            raise KeyboardInterrupt

    interrupted = calibrated_run(storage, task)
    interrupted.watch(stop)
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    calibrated_run(storage, task).run()
    for name in report.study_names(whole, "calibrated"):
        expected, found = (
            [t.values for t in optuna.load_study(study_name=name, storage=s).trials]
            for s in (whole, storage)
        )
        assert found == expected


@settings(max_examples=20)
@given(st.data())
def test_gains_are_the_same_for_any_number_of_threads(data: st.DataObject) -> None:
    task = make_task("chained_bits", seed=data.draw(st.integers(0, 9)))
    genome = make_genome(task, data.draw(st.integers(1, 4)), [data.draw(st.integers(1, 9))])
    memory = MemorySettings(vote="calibrated")
    gains = [fitted(CpuEvaluator(task, memory, threads=n), genome) for n in (1, 3)]
    assert np.array_equal(gains[0], gains[1])
