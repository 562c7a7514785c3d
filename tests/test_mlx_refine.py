"""Refinement by launches of the ``mlx`` backend: the moves of the plain climb, judged together."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from networks import CALIBRATED
from networks import MEMORIES
from networks import genomes
from networks import make_genome
from networks import make_task
from networks import memory_settings
from networks import random_gains
from networks import tasks
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators import gpu_kernels
from optuna_wnn.evaluators import loss
from optuna_wnn.evaluators import refine_gpu
from optuna_wnn.evaluators import registry
from optuna_wnn.evaluators.base import Moves
from optuna_wnn.evaluators.cells import make_cells
from optuna_wnn.evaluators.gpu_judge import Batch
from optuna_wnn.evaluators.loss import BitLoss
from optuna_wnn.evaluators.reference import ReferenceEvaluator
from optuna_wnn.genome import DIMENSIONS
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Dimension
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Head
from optuna_wnn.tasks.base import Task


mx: Any = pytest.importorskip("mlx.core", exc_type=ImportError)
mlx: Any = pytest.importorskip("optuna_wnn.evaluators.mlx", exc_type=ImportError)
pytestmark = pytest.mark.usefixtures("gpu")

FREE: tuple[set[Dimension], ...] = ({"connections"}, {"neurons"}, {"bits"}, set(DIMENSIONS))
MOVES: tuple[Moves, ...] = ("blind", "informed")
HEADS: tuple[Head, ...] = ("bits", "chained_bits", "classes")


def bounds_of(task: Task) -> Bounds:
    most_bits = min(min(task.visible or (task.n_inputs,)), 128)
    return Bounds(task.n_clusters, task.n_inputs, (1, 9), (1, most_bits), task.visible)


@settings(max_examples=10)
@given(st.data())
def test_refined_genomes_are_those_of_the_reference(data: st.DataObject) -> None:
    check_refined(data.draw(tasks()), data.draw(memory_settings()), None, data)


@settings(max_examples=10)
@given(st.data())
def test_clusters_with_gains_of_their_own_are_refined_as_by_the_reference(
    data: st.DataObject,
) -> None:
    task = data.draw(tasks(("bits", "chained_bits")))
    gains = random_gains(task, data.draw(st.integers(0, 99)))
    check_refined(task, data.draw(memory_settings(CALIBRATED)), gains, data)


def check_refined(
    task: Task, memory: MemorySettings, gains: NDArray[np.int64] | None, data: st.DataObject
) -> None:
    """Check that launches keep the moves that the reference keeps, from some genome on."""
    genome = data.draw(genomes(task, most_bits=25))
    free: set[Dimension] = data.draw(st.sampled_from(FREE))
    moves: Moves = data.draw(st.sampled_from(MOVES))
    job = genome, bounds_of(task), free, data.draw(st.integers(1, 16)), data.draw(st.integers())
    evaluator = mlx.MlxEvaluator(task, memory)
    reference: Evaluator = ReferenceEvaluator(task, memory)
    if gains is not None:
        evaluator, reference = evaluator.with_gains(gains), reference.with_gains(gains)
    evaluator.dense_bits = data.draw(st.sampled_from([3, 14]))
    refined, evaluation = evaluator.refine(*job, moves)
    right, expected = reference.refine(*job, moves)
    assert refined == right
    assert evaluation.cross_entropy == expected.cross_entropy


@pytest.mark.parametrize("kind", MEMORIES, ids=lambda kind: f"{kind['mode']}-{kind['vote']}")
@pytest.mark.parametrize("head", HEADS)
def test_every_head_and_vote_is_refined_as_by_the_reference(
    head: Head, kind: dict[str, Any]
) -> None:
    task = make_task(head)
    memory = MemorySettings(**kind, temperature=0.3)
    job = make_genome(task, 4, [3, 6]), bounds_of(task), FREE[0], 12, 5
    right, _ = ReferenceEvaluator(task, memory).refine(*job)
    assert mlx.MlxEvaluator(task, memory).refine(*job)[0] == right


class CountingMlx(mlx.MlxEvaluator):  # type: ignore[misc]
    """Counts how many candidates each launch judges, and may find all of them too bad."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.judged_at_once: list[int] = []
        self.extra_loss = 0

    def judged(self, batch: Batch, *others: Any) -> NDArray[np.int64]:
        self.judged_at_once.append(len(batch.candidates))
        found: NDArray[np.int64] = super().judged(batch, *others)
        return found + self.extra_loss


@pytest.mark.parametrize("vote", ["log_odds", "calibrated"])
def test_hundreds_of_moves_of_all_clusters_are_judged_in_one_launch(
    vote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refine_gpu, "_FEWEST", 100)
    task = make_task(sizes=(60, 30, 5))
    genome = make_genome(task, 3, [3])
    evaluator = CountingMlx(task, MemorySettings(vote=vote))
    if vote == "calibrated":
        evaluator = evaluator.with_gains(random_gains(task))
    evaluator.extra_loss = 1 << 40
    refined, _ = evaluator.refine(genome, bounds_of(task), FREE[0], 300, 4)
    assert evaluator.judged_at_once == [300]
    assert refined.digest == genome.digest


@pytest.mark.parametrize("head", ["bits", "classes"])
def test_how_far_one_looks_ahead_changes_nothing(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "REBASE_EVERY", 4)
    monkeypatch.setattr(refine_gpu, "REBASE_EVERY", 4)
    task = make_task(head, sizes=(60, 30, 5))
    job = make_genome(task, 2, [3]), bounds_of(task), FREE[0], 10, 4
    right, _ = ReferenceEvaluator(task).refine(*job)
    for fewest in (1, 16):
        monkeypatch.setattr(refine_gpu, "_FEWEST", fewest)
        assert CountingMlx(task).refine(*job)[0] == right


def test_one_looks_farther_while_nothing_is_kept_and_less_far_where_much_is_lost() -> None:
    cells = make_cells(MemorySettings(), "bits", 2, 9)
    chain = refine_gpu._Chain(0, BitLoss(cells, 1, 0, np.zeros(9, np.int64)), 9999)
    looked = []
    for _ in range(8):
        looked.append(chain.end - chain.step)
        chain.looked = chain.end
        chain.go_on(None)
    assert looked == [16, 32, 64, 128, 256, 512, 1024, 1024]
    chain.looked, before = chain.end, chain.step
    chain.go_on(before + 5)
    assert (chain.step, chain.end - chain.step) == (before + 6, 512)
    chain.go_on(chain.step + 400)  # most of them were needed
    assert chain.end - chain.step == 512


def test_moves_that_no_launch_has_room_for_are_tried_one_by_one() -> None:
    task = make_task(sizes=(60, 30, 5))
    memory = MemorySettings(vote="mean")
    job = make_genome(task, 6, [5]), bounds_of(task), FREE[2], 6, 4
    small = CountingMlx(task, memory, device_bytes=5000)
    right, _ = ReferenceEvaluator(task, memory).refine(*job)
    assert small.refine(*job)[0] == right
    assert sum(small.judged_at_once) < 6


def test_where_memory_is_short_it_refines_as_the_cpu_backend_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = make_task(sizes=(300, 100, 5))
    job = make_genome(task, 2, [3]), bounds_of(task), FREE[1], 3, 4
    small = CountingMlx(task, device_bytes=28_000)
    right, _ = ReferenceEvaluator(task).refine(*job)
    registry.say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert small.refine(*job)[0] == right
    assert small.judged_at_once == []
    (record,) = caplog.records
    assert "refines as cpu does" in record.message


class WrongMlx(mlx.MlxEvaluator):  # type: ignore[misc]
    """Has a GPU that finds every move free of loss."""

    def judged(self, *job: Any) -> NDArray[np.int64]:
        return np.zeros_like(super().judged(*job))


def test_a_gpu_that_judges_wrong_is_found_out() -> None:
    task = make_task(sizes=(60, 30, 5))
    with pytest.raises(InputError, match=r"mlx is wrong on this machine.*a move's loss"):
        WrongMlx(task).refine(make_genome(task, 2, [3]), bounds_of(task), FREE[0], 5, 4)


@st.composite
def divisions(draw: st.DrawFn) -> tuple[int, int, float]:
    """Draw a sum, a weight and a scale; often so that their value is next to a half."""
    size = draw(st.integers(0, 2**31 - 1)) >> draw(st.integers(0, 30))
    weight = draw(st.integers(0, 2**32 - 1)) >> draw(st.integers(0, 31))
    if size and weight and draw(st.booleans()):
        value = draw(st.integers(0, 2000)) + 0.5
        scale = value * weight / size if draw(st.booleans()) else size / value
        for _ in range(draw(st.integers(0, 2))):
            scale = float(np.nextafter(scale, draw(st.sampled_from([0.0, np.inf]))))
    else:
        scale = 2.0 ** draw(st.floats(-30, 30))
    return draw(st.sampled_from([-1, 1])) * size, weight, scale


@settings(max_examples=15)
@given(st.lists(divisions(), min_size=8, max_size=200), st.booleans())
def test_the_kernel_divides_as_binary64_does(
    drawn: list[tuple[int, int, float]], packed: bool
) -> None:
    sums, weights, scales = (np.array(column) for column in zip(*drawn, strict=True))
    if packed:
        value = np.divide(sums * scales, weights, out=np.zeros(len(sums)), where=weights > 0)
    else:
        value = sums / scales
    right = np.clip(np.floor(value + 0.5), -(2**26), 2**26)
    kernel = next(k for k in gpu_kernels.KERNELS if k.name == "wnn_judge_states")
    api = gpu_kernels.api()
    assert api is not None
    quantise = gpu_kernels.make_kernel(
        api,
        "quantise",
        ("totals", "weights", "scales", "packed"),
        ("steps",),
        "RAM_IDS\n"
        "const uint32_t i = threadgroup_position_in_grid.x;\n"
        "const uint64_t scale = ram_wide(scales[2u * i], scales[2u * i + 1u]);\n"
        "steps[i] = ram_quantise(totals[i], weights[i], packed[i] != 0u, scale);\n",
        kernel.header(api),
    )
    (steps,) = quantise(
        inputs=[
            mx.array(sums.astype(np.int32)),
            mx.array(weights.astype(np.uint32)),
            mx.array(scales.astype(np.float64).view(np.uint32)),
            mx.array(np.full(len(sums), packed, np.uint32)),
        ],
        output_shapes=[(len(sums),)],
        output_dtypes=[mx.int32],
        grid=(len(sums), 1, 1),
        threadgroup=(1, 1, 1),
    )
    found = np.array(steps)
    assert np.array_equal(found, right)
