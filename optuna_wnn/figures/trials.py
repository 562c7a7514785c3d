"""Figures of trials: cross-entropy over a run, and what accuracy costs in it and in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import sample_colorscale

from optuna_wnn.figures import style
from optuna_wnn.traces import PhaseTrace
from optuna_wnn.traces import RunTrace


_MOST_POINTS: Final = 4_000  # trials in a figure
_LETTERS: Final = 80  # of phase names, that have room side by side
_CE: Final = "cross-entropy, nats per example"
_DOT: Final = {"symbol": "circle", "size": 5, "opacity": 0.75}
_CROSS: Final = {"symbol": "x-thin-open", "size": 6, "opacity": 0.6}


def progress(run: RunTrace) -> go.Figure:
    """Return how cross-entropy falls, trial after trial, over all phases of a run.

    The line is the lowest cross-entropy so far. Of each phase's best trial, which the run's
    fitness chose and which need not be the lowest, the figure shows what it reaches on the
    validation part and on the test part. Baselines are lines; all are of the test part.
    """
    figure = go.Figure()
    step = _step(sum(len(phase.losses) for phase in run.phases))
    starts = np.cumsum([0, *(len(phase.losses) for phase in run.phases)])
    for phase, start in zip(run.phases, starts.tolist(), strict=False):
        places = np.arange(start + 1, start + 1 + len(phase.losses))
        for feasible, look in ((True, _DOT), (False, _CROSS)):
            shown = np.flatnonzero(phase.feasible == feasible)[::step]
            figure.add_scatter(
                x=places[shown].tolist(),
                y=style.rounded(phase.losses[shown]),
                mode="markers",
                marker={**look, "color": style.GREY},
                name="trial" if feasible else "below the accuracy bar",
                legendgroup="trial" if feasible else "below",
                showlegend=False,
                hovertemplate=f"{phase.label}<br>trial %{{x}} of all: CE %{{y}}<extra></extra>",
            )
    _name_once(figure)
    losses = np.concatenate([np.zeros(0), *(phase.losses for phase in run.phases)])
    if len(losses):
        lowest = np.minimum.accumulate(losses)
        falls = np.flatnonzero(np.diff(lowest, prepend=np.inf))
        figure.add_scatter(
            x=[*(falls + 1).tolist(), len(losses)],
            y=style.rounded(lowest[[*falls, -1]]),
            line={"color": style.BLUE, "width": 2, "shape": "hv"},
            mode="lines",
            name="lowest so far",
            hovertemplate="from trial %{x} of the run<br>CE %{y}<extra>lowest so far</extra>",
        )
    ends = starts[1:].tolist()
    for part, colour, symbol in (
        ("validation", style.BLUE, "circle"),
        ("test", style.VERMILION, "diamond"),
    ):
        found = [
            (end, phase.label, values[0])
            for end, phase in zip(ends, run.phases, strict=True)
            if (values := getattr(phase.summary, part)) is not None and np.isfinite(values[0])
        ]
        if found:
            figure.add_scatter(
                x=[end for end, _, _ in found],
                y=style.rounded(np.array([loss for _, _, loss in found])),
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 9},
                name=f"best of the phase, {part}",
                text=[label for _, label, _ in found],
                hovertemplate=f"best of %{{text}}<br>{part} CE %{{y}}<extra></extra>",
            )
    _mark_phases(figure, [phase.label for phase in run.phases], starts.tolist())
    _mark_baselines(figure, run, losses)
    figure.update_xaxes(title="trials of the run", range=[0, max(1, len(losses)) * 1.01])
    figure.update_yaxes(title=_CE)
    return style.styled(figure, f"Progress of {run.summary.name}", _thinned(step), legend=True)


def trade_off(run: RunTrace) -> go.Figure:
    """Return cross-entropy against accuracy of all trials, with the front of the best of them.

    Trials below the accuracy bar of their phase are crosses, and no part of the front.
    """
    figure, note = _accuracies(run, "losses", "CE")
    figure.update_xaxes(title=_CE)
    return style.styled(
        figure, f"Cross-entropy and accuracy of {run.summary.name}", note, legend=True
    )


def size(run: RunTrace) -> go.Figure:
    """Return the size of trained networks against accuracy of all trials, with their front.

    Trials below the accuracy bar of their phase are crosses, and no part of the front.
    """
    figure, note = _accuracies(run, "sizes", "KiB")
    figure.update_xaxes(title="memory of the trained network, KiB (logarithmic)", type="log")
    return style.styled(figure, f"Size and accuracy of {run.summary.name}", note, legend=True)


def _accuracies(run: RunTrace, across: str, unit: str) -> tuple[go.Figure, str]:
    """Return accuracy against something of all trials that know it, and what the title adds.

    Args:
        run: The run.
        across: Which array of a phase; lower is better.
        unit: What its values are called.
    """
    figure = go.Figure()
    step = _step(sum(len(phase.losses) for phase in run.phases))
    colours = _in_order(len(run.phases))
    for phase, colour in zip(run.phases, colours, strict=True):
        values = getattr(phase, across)
        for feasible, look in ((True, _DOT), (False, _CROSS)):
            shown = np.flatnonzero((phase.feasible == feasible) & np.isfinite(values))[::step]
            figure.add_scatter(
                x=style.rounded(values[shown]),
                y=style.rounded(phase.accuracies[shown]),
                mode="markers",
                marker={**look, "color": colour},
                name=phase.label if feasible else "below the accuracy bar",
                legendgroup=phase.label if feasible else "below",
                showlegend=False,
                hovertemplate=f"{phase.label}<br>{unit} %{{x}}<br>accuracy %{{y:.2%}}"
                "<extra></extra>",
            )
    _name_once(figure)
    values, accuracies = _feasible(run.phases, across)
    front = pareto_front(values, accuracies)
    if len(front):
        figure.add_scatter(
            x=style.rounded(values[front]),
            y=style.rounded(accuracies[front]),
            mode="lines+markers",
            line={"color": style.VERMILION, "width": 2, "shape": "hv"},
            marker={"symbol": "diamond", "size": 8},
            name="Pareto front",
            hovertemplate=f"{unit} %{{x}}<br>accuracy %{{y:.2%}}<extra>Pareto front</extra>",
        )
    bars = {phase.bar: phase.label for phase in run.phases if phase.bar is not None}
    for bar, label in bars.items():
        figure.add_hline(bar, line={"color": style.DARK, "width": 1.5, "dash": "dash"})
        figure.add_annotation(
            x=1,
            y=bar,
            xref="paper",
            xanchor="right",
            yanchor="bottom",
            text="accuracy bar" if len(bars) == 1 else f"accuracy bar of {label}",
            font={"color": style.DARK, "size": 12},
            showarrow=False,
        )
    figure.update_yaxes(title="accuracy, share of examples", tickformat=".0%")
    return figure, _thinned(step)


def pareto_front(losses: NDArray[np.float64], accuracies: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the trials that no other dominates, by rising loss; of equal ones the first.

    Args:
        losses: ``float64[T]``, lower is better.
        accuracies: ``float64[T]``, higher is better.
    """
    order = np.lexsort((-accuracies, losses))
    highest_before = np.maximum.accumulate(np.append(-np.inf, accuracies[order]))[:-1]
    return order[accuracies[order] > highest_before]


def _mark_phases(figure: go.Figure, labels: Sequence[str], starts: Sequence[int]) -> None:
    """Draw the boundaries of phases, and their names above; slanted where there is no room."""
    widths = np.diff(starts) / max(1, starts[-1]) * _LETTERS
    slanted = any(len(label) > width for label, width in zip(labels, widths, strict=True))
    for label, start in zip(labels, starts, strict=False):
        if start:
            figure.add_vline(start + 0.5, line={"color": style.GREY, "width": 1}, layer="below")
        figure.add_annotation(
            x=start + 0.5,
            y=1,
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            text=label,
            textangle=-25 if slanted else 0,
            font={"size": 11},
            showarrow=False,
        )


def _mark_baselines(figure: go.Figure, run: RunTrace, losses: NDArray[np.float64]) -> None:
    """Draw the baselines that are near enough to the trials to be seen beside them."""
    tests = [phase.summary.test[0] for phase in run.phases if phase.summary.test is not None]
    if not len(losses):
        return
    near = max([float(losses.max()), *tests]) * 1.25
    for name, loss in run.summary.baselines.items():
        if not loss <= near:
            continue
        figure.add_hline(loss, line={"color": style.GREEN, "width": 1.5, "dash": "dash"})
        figure.add_annotation(
            x=1,
            y=loss,
            xref="paper",
            xanchor="right",
            yanchor="bottom",
            text=f"{name}, test",
            font={"color": style.GREEN, "size": 12},
            showarrow=False,
        )


def _name_once(figure: go.Figure) -> None:
    """Show the first trace of each group that has points in the legend."""
    seen: set[str] = set()
    for trace in figure.data:
        if len(trace.x) and trace.legendgroup not in seen:
            seen.add(trace.legendgroup)
            trace.showlegend = True


def _feasible(
    phases: Sequence[PhaseTrace], across: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return an array and the accuracy of all trials that reach the bar of their phase."""
    found = [np.zeros((2, 0))]
    for phase in phases:
        values = getattr(phase, across)
        shown = phase.feasible & np.isfinite(values)
        found.append(np.stack([values[shown], phase.accuracies[shown]]))
    values, accuracies = np.concatenate(found, axis=1)
    return values, accuracies


def _in_order(count: int) -> list[str]:
    """Return colours for things that follow each other, from dark to light."""
    shares = np.linspace(0, 0.8, max(count, 2))[:count]
    return list(sample_colorscale("Viridis", shares.tolist())) if count else []


def _step(n_trials: int) -> int:
    """Return that every so manieth trial is shown."""
    return max(1, -(-n_trials // _MOST_POINTS))


def _thinned(step: int) -> str:
    return "" if step == 1 else f"one trial of {step} is shown"
