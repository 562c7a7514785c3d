"""Figures: what they show is what happened, and they stay small."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from optuna.storages import InMemoryStorage
from runs import DigestEvaluator
from runs import genome_of
from runs import small_search
from runs import studies
from strategies import bounded_genomes

from optuna_wnn import report
from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators.base import EvaluationPart
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Genome
from optuna_wnn.report import PhaseSummary
from optuna_wnn.report import RunSummary
from optuna_wnn.traces import PhaseTrace
from optuna_wnn.traces import RunTrace
from optuna_wnn.traces import read_trace
from optuna_wnn.variation import random_genome


pytest.importorskip("plotly")

import plotly.graph_objects as go

from optuna_wnn import figures
from optuna_wnn.figures.trials import pareto_front


MOST_BYTES = 300_000
THRESHOLD = {"start": 0.1, "end": 0.4}


@pytest.fixture(scope="module")
def storage() -> InMemoryStorage:
    """A finished run of six phases, some trials of which are below the accuracy bar."""
    storage = InMemoryStorage()
    small_search(storage, threshold=THRESHOLD).run()
    return storage


@pytest.fixture(scope="module")
def run(storage: InMemoryStorage) -> RunTrace:
    return read_trace(storage, "small")


def made_up(n_trials: int, n_phases: int = 6, seed: int = 0) -> RunTrace:
    """Return a run of random trials."""
    rng = np.random.default_rng(seed)
    phases = []
    for i in range(n_phases):
        losses = rng.random(n_trials // n_phases) + n_phases - i
        accuracies, sizes = rng.random(len(losses)), rng.random(len(losses)) * 100 + 1
        summary = PhaseSummary(
            study=f"made-up/{i + 1}-ga-connections",
            n_trials=len(losses),
            seconds=1.0,
            ended="all",
            best_trial=0 if len(losses) else None,
            validation=(float(losses.min()), 0.5) if len(losses) else None,
            test=(float(losses.min()) + 0.1, 0.5) if len(losses) else None,
        )
        bar = (i + 1) / 10
        phases.append(
            PhaseTrace(summary, losses, accuracies, sizes, accuracies >= bar, bar, None, None)
        )
    summaries = tuple(phase.summary for phase in phases)
    whole = RunSummary("made-up", summaries, n_phases - 1, (9.0, 0.1), {"unigram": 3.0})
    return RunTrace(whole, tuple(phases), {}, 8, (8, 1))


def points(figure: go.Figure, name: str) -> list[tuple[float, float]]:
    """Return the points of all traces of a name."""
    traces = [trace for trace in figure.data if trace.name == name]
    return [point for trace in traces for point in zip(trace.x, trace.y, strict=True)]


# -- what happened -------------------------------------------------------------------------------


def test_a_trace_has_each_evaluated_trial_once_and_no_seed(
    run: RunTrace, storage: InMemoryStorage
) -> None:
    assert [len(phase.losses) for phase in run.phases] == 6 * [9]
    for phase, study in zip(run.phases, studies(storage), strict=True):
        trials = [t for t in study.trials if report.SEEDED_FROM not in t.user_attrs]
        assert phase.losses.tolist() == [t.values[0] for t in trials]
        assert phase.accuracies.tolist() == [t.values[1] for t in trials]
        assert phase.bar is not None
        assert phase.feasible.tolist() == [t.values[1] >= phase.bar for t in trials]
        best = phase.summary.best_trial
        assert best is not None
        assert phase.genome == genome_of(study, best)
    assert 0 < sum(int(phase.feasible.sum()) for phase in run.phases) < 54


def test_a_trace_tells_where_trial_0_came_from(run: RunTrace) -> None:
    assert run.phases[0].seed is None
    for before, phase in zip(run.phases[:-1], run.phases[1:], strict=True):
        origin = f"{before.summary.study} #{before.summary.best_trial}"
        assert phase.seed == (origin, before.summary.validation)


def test_a_trace_knows_how_the_inputs_are_laid_out(run: RunTrace) -> None:
    assert (run.n_inputs, run.input_groups) == (12, (12, 1))


class Infinite(DigestEvaluator):
    """Every third genome has an infinite cross-entropy."""

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        found = super().evaluate(genome, part)
        if part == "fitness" and len(self.seen) % 3 == 0:
            return Evaluation(
                float("inf"), found.accuracy, found.neuron_order, found.cluster_losses, 8
            )
        return found


def test_trials_without_a_finite_value_are_not_drawn() -> None:
    storage = InMemoryStorage()
    small_search(storage, Infinite()).run()
    trace = read_trace(storage, "small")
    assert all(len(phase.losses) == 6 for phase in trace.phases)
    for figure in figures.of_run(trace).values():
        assert not {"NaN", "Infinity"} & set(re.findall(r"\w+", figure.to_json()))


# -- progress ------------------------------------------------------------------------------------


def test_progress_shows_every_trial_at_its_place(run: RunTrace) -> None:
    figure = figures.progress(run)
    losses = np.concatenate([phase.losses for phase in run.phases])
    shown = dict(points(figure, "trial")) | dict(points(figure, "below the accuracy bar"))
    assert sorted(shown) == list(range(1, 55))
    assert [shown[place] for place in sorted(shown)] == pytest.approx(losses.tolist(), rel=1e-4)


def test_progress_shows_the_lowest_loss_so_far(run: RunTrace) -> None:
    losses = np.concatenate([phase.losses for phase in run.phases])
    line = points(figures.progress(run), "lowest so far")
    for place, loss in line:
        assert loss == pytest.approx(losses[: int(place)].min(), rel=1e-4)
    assert len({loss for _, loss in line}) == len(set(np.minimum.accumulate(losses).tolist()))
    assert line[-1][0] == 54


def test_progress_shows_what_each_phase_came_to_on_both_parts(run: RunTrace) -> None:
    figure = figures.progress(run)
    for part in ("validation", "test"):
        expected = [getattr(phase.summary, part)[0] for phase in run.phases]
        shown = points(figure, f"best of the phase, {part}")
        assert [place for place, _ in shown] == [9, 18, 27, 36, 45, 54]
        assert [loss for _, loss in shown] == pytest.approx(expected, rel=1e-4)


def test_progress_shows_the_phases_and_the_baselines_that_are_near() -> None:
    trace = made_up(600)
    figure = figures.progress(trace)
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert texts == [*(phase.label for phase in trace.phases), "unigram, test"]
    boundaries = [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1]
    assert boundaries == [100.5, 200.5, 300.5, 400.5, 500.5]
    (line,) = [shape for shape in figure.layout.shapes if shape.y0 == shape.y1]
    assert line.y0 == 3.0


def test_a_baseline_far_off_does_not_squeeze_the_trials() -> None:
    trace = made_up(600)
    trace.summary.baselines["uniform"] = 100.0  # type: ignore[index]
    texts = [annotation.text for annotation in figures.progress(trace).layout.annotations]
    assert "uniform, test" not in texts


# -- trade-off -----------------------------------------------------------------------------------


def dominated(losses: NDArray[np.float64], accuracies: NDArray[np.float64], i: int) -> bool:
    no_worse = (losses <= losses[i]) & (accuracies >= accuracies[i])
    return bool((no_worse & ((losses < losses[i]) | (accuracies > accuracies[i]))).any())


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30))
def test_the_front_has_one_of_each_pair_of_values_that_nothing_dominates(
    pairs: list[tuple[int, int]],
) -> None:
    values = np.array(pairs, np.float64).reshape(-1, 2)
    front = pareto_front(values[:, 0], values[:, 1])
    expected = {
        pairs[i] for i in range(len(pairs)) if not dominated(values[:, 0], values[:, 1], i)
    }
    assert [pairs[i] for i in front] == sorted(expected)
    assert len(front) == len(expected)


def test_the_trade_off_marks_what_is_below_the_bar_and_leaves_it_out_of_the_front() -> None:
    trace = made_up(600)
    figure = figures.trade_off(trace)
    below = points(figure, "below the accuracy bar")
    assert len(below) == sum(int((~phase.feasible).sum()) for phase in trace.phases)
    assert {t.marker.symbol for t in figure.data if t.name == "below the accuracy bar"} == {
        "x-thin-open"
    }
    fit = [point for phase in trace.phases for point in points(figure, phase.label)]
    front = points(figure, "Pareto front")
    assert set(front) <= set(fit)
    assert not set(front) & set(below)


def test_trials_that_do_not_say_how_large_they_are_are_not_drawn_by_size() -> None:
    trace = made_up(60, n_phases=1)
    (phase,) = trace.phases
    phase.sizes[::3] = np.nan
    figure = figures.size(trace)
    drawn = points(figure, phase.label) + points(figure, "below the accuracy bar")
    assert len(drawn) == np.isfinite(phase.sizes).sum()
    front = points(figure, "Pareto front")
    assert max(accuracy for _, accuracy in front) == pytest.approx(
        phase.accuracies[np.isfinite(phase.sizes)].max(), rel=1e-4
    )


def test_the_trade_off_shows_the_bars(run: RunTrace) -> None:
    bars = {phase.bar for phase in run.phases}
    assert bars == {0.4}
    (line,) = figures.trade_off(run).layout.shapes
    assert line.y0 == line.y1 == 0.4
    many = figures.trade_off(made_up(600)).layout.annotations
    assert [a.text for a in many][:1] == ["accuracy bar of 1-ga-connections"]


# -- genomes -------------------------------------------------------------------------------------


def test_clusters_are_shown_one_by_one_where_they_are_few(run: RunTrace) -> None:
    for index, phase in enumerate(run.phases):
        assert phase.genome is not None
        neurons, bits = figures.of_phase(run, index)["clusters"].data
        assert list(neurons.y) == phase.genome.neurons.tolist()
        assert list(bits.y) == phase.genome.bits.tolist()


def test_many_clusters_are_shown_as_the_mean_and_range_of_neighbours() -> None:
    genome = random_genome(Bounds(50_257, 128, (1, 9), (2, 7)), np.random.default_rng(0))
    figure = figures.clusters(genome, "big")
    assert len(figure.to_json()) < MOST_BYTES
    for counts, traces in ((genome.neurons, figure.data[:3]), (genome.bits, figure.data[3:])):
        lows, highs, means = (np.array(trace.y) for trace in traces)
        size = traces[0].x[1]
        assert len(lows) == -(-50_257 // size) <= 256
        for k in (0, 7, len(lows) - 1):
            group = counts[k * size : (k + 1) * size]
            assert (lows[k], highs[k]) == (group.min(), group.max())
            assert means[k] == pytest.approx(group.mean(), rel=1e-4)
    assert f"mean and range of {size} neighbours" in figure.layout.xaxis2.title.text


@settings(max_examples=30)
@given(bounded_genomes(), st.integers(1, 8))
def test_the_heat_map_counts_the_neurons_that_observe_each_input(
    drawn: tuple[Bounds, Genome], width: int
) -> None:
    bounds, genome = drawn
    groups = (-(-bounds.n_inputs // width), width)
    (heat,) = figures.inputs(genome, bounds.n_inputs, groups, "it").data
    for i in range(groups[0] * width):
        count = heat.z[i % width][i // width]
        if i >= bounds.n_inputs:
            assert count is None
        else:
            assert count == int((genome.connections == i).sum())


def test_many_inputs_are_summed_up_and_none_is_lost() -> None:
    genome = random_genome(Bounds(10, 40_000, (50, 50), (20, 20)), np.random.default_rng(0))
    for groups in ((40_000, 1), (400, 100), (1, 40_000)):
        figure = figures.inputs(genome, 40_000, groups, "big")
        (heat,) = figure.data
        assert np.sum(np.array(heat.z)) == genome.n_connections
        assert len(heat.z[0]) <= 256
        assert len(heat.z) <= 64
        assert "neighbours each" in figure.layout.xaxis.title.text + figure.layout.yaxis.title.text
        assert len(figure.to_json()) < MOST_BYTES


def test_the_target_s_own_bits_are_positions_of_their_own() -> None:
    genome = random_genome(Bounds(8, 71, (4, 4), (8, 8)), np.random.default_rng(0))
    figure = figures.inputs(genome, 71, (8, 8), "chained")
    (heat,) = figure.data
    assert (len(heat.z), len(heat.z[0])) == (8, 9)
    assert heat.z[7][8] is None
    assert "from position 8 on the target's own" in figure.layout.title.text


# -- all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_trials", [3_000, 30_000])
def test_many_trials_are_thinned_out(n_trials: int) -> None:
    trace = made_up(n_trials)
    for figure in figures.of_run(trace).values():
        assert len(figure.to_json()) < MOST_BYTES
        thinned = "is shown" in figure.layout.title.text
        assert thinned == (n_trials > 4_000)


@pytest.mark.parametrize("draw", [figures.progress, figures.trade_off, figures.size])
def test_a_run_without_a_trial_has_empty_figures(draw: Callable[[RunTrace], go.Figure]) -> None:
    assert not any(trace.x for trace in draw(made_up(0)).data)


def axes(figure: go.Figure) -> list[Any]:
    return [*figure.select_xaxes(), *figure.select_yaxes()]


def test_every_figure_says_what_it_shows_and_in_which_units(run: RunTrace) -> None:
    drawn = {**figures.of_run(run), **figures.of_phase(run, 3)}
    assert sorted(drawn) == ["clusters", "inputs", "progress", "size", "trade-off"]
    for figure in drawn.values():
        assert figure.layout.title.text
        assert figure.layout.paper_bgcolor == "white"
        assert len(figure.to_json()) < 20_000
    assert [a.title.text for a in axes(drawn["progress"])] == [
        "trials of the run",
        "cross-entropy, nats per example",
    ]
    assert [a.title.text for a in axes(drawn["trade-off"])] == [
        "cross-entropy, nats per example",
        "accuracy, share of examples",
    ]
    assert [a.title.text for a in axes(drawn["size"])] == [
        "memory of the trained network, KiB (logarithmic)",
        "accuracy, share of examples",
    ]
    assert [a.title.text for a in axes(drawn["inputs"])] == ["position", "bit"]
    assert [a.title.text for a in axes(drawn["clusters"])] == [
        None,
        "cluster",
        "neurons",
        "bits per neuron",
    ]
