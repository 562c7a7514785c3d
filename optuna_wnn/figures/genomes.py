"""Figures of a genome: how large its clusters are, and which inputs it observes."""

from __future__ import annotations

from typing import Any
from typing import Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from optuna_wnn.figures import style
from optuna_wnn.genome import Genome


_MOST_BARS: Final = 256  # clusters that are shown one by one
_MOST_CELLS: Final = (256, 64)  # positions and bits that are shown one by one


def clusters(genome: Genome, owner: str) -> go.Figure:
    """Return how many neurons each cluster has, and how many input bits each of those observes.

    More than 256 clusters are shown in groups of neighbours: the mean, and the range from the
    lowest to the highest.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    size = -(-genome.n_clusters // _MOST_BARS)
    firsts = np.arange(0, genome.n_clusters, size)
    for row, (name, counts, colour) in enumerate(
        (("neurons", genome.neurons, style.BLUE), ("bits per neuron", genome.bits, style.GREEN)),
        start=1,
    ):
        if size == 1:
            figure.add_bar(
                y=counts.tolist(),
                marker={"color": colour},
                hovertemplate=f"cluster %{{x}}: %{{y}} {name}<extra></extra>",
                row=row,
                col=1,
            )
        else:
            lows, highs = np.minimum.reduceat(counts, firsts), np.maximum.reduceat(counts, firsts)
            members = np.diff(firsts, append=genome.n_clusters)
            means = np.add.reduceat(counts.astype(np.int64), firsts) / members
            _add_band(figure, row, firsts, (lows, means, highs), name, colour)
        figure.update_yaxes(title=name, rangemode="tozero", row=row, col=1)
    grouped = "" if size == 1 else f" (mean and range of {size} neighbours each)"
    figure.update_xaxes(title=f"cluster{grouped}", row=2, col=1)
    bits = genome.n_connections / genome.n_neurons
    return style.styled(
        figure,
        "Neurons and bits per cluster",
        f"best of {owner}: {genome.n_clusters:,} clusters, {genome.n_neurons:,} neurons, "
        f"{bits:.1f} bits per neuron",
    ).update_layout(bargap=0.1 if genome.n_clusters <= 64 else 0)


def inputs(genome: Genome, n_inputs: int, input_groups: tuple[int, int], owner: str) -> go.Figure:
    """Return how many neurons observe each input bit, as a heat map over position and bit.

    Args:
        genome: The genome.
        n_inputs: ``B``, the number of input bits.
        input_groups: How they are laid out: (positions, bits per position). Inputs beyond these,
            the target's own bits, make further positions.
        owner: Whose genome it is, for the title.
    """
    width = input_groups[1]
    beyond = n_inputs > input_groups[0] * width
    positions = max(input_groups[0], -(-n_inputs // width))
    counts = np.full(positions * width, np.nan)
    counts[:n_inputs] = np.bincount(genome.connections, minlength=n_inputs)[:n_inputs]
    grid, (across, down) = _summed(counts.reshape(positions, width))
    cells = [[None if np.isnan(c) else int(c) for c in row] for row in grid.T]
    figure = go.Figure(
        go.Heatmap(
            z=cells,
            x0=(across - 1) / 2,
            dx=across,
            y0=(down - 1) / 2,
            dy=down,
            zmin=0,
            colorscale="Cividis",
            colorbar={"title": {"text": "neurons", "side": "right"}, "thickness": 14},
            hovertemplate="position %{x}, bit %{y}<br>observed by %{z} neurons<extra></extra>",
        )
    )
    ticks = {"tickformat": "d", "showgrid": False, "zeroline": False}
    figure.update_xaxes(title=f"position{_of_sum(across)}", **ticks, **_few(positions))
    figure.update_yaxes(title=f"bit{_of_sum(down)}", autorange="reversed", **ticks, **_few(width))
    return style.styled(
        figure,
        "Observed input bits",
        f"best of {owner}: {n_inputs:,} input bits, {genome.n_connections:,} connections"
        + (f"; from position {input_groups[0]} on the target's own" if beyond else ""),
    )


def _add_band(
    figure: go.Figure,
    row: int,
    firsts: NDArray[np.int64],
    heights: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    name: str,
    colour: str,
) -> None:
    """Draw a mean with the range around it; ``heights`` are lowest, mean and highest."""
    lows, means, highs = heights
    edge = {"width": 0, "shape": "hv", "color": colour}
    for what, y, line, fill in (
        ("lowest", lows, edge, None),
        ("highest", highs, edge, "tonexty"),
        ("mean", means, {"width": 2, "shape": "hv", "color": colour}, None),
    ):
        figure.add_scatter(
            x=firsts.tolist(),
            y=style.rounded(y),
            mode="lines",
            line=line,
            fill=fill,
            hovertemplate=f"from cluster %{{x}} on: {what} %{{y}} {name}<extra></extra>",
            row=row,
            col=1,
        )


def _summed(grid: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Return a grid with neighbours summed up until it is small, and how many by axis."""
    steps = []
    for axis, most in enumerate(_MOST_CELLS):
        steps.append(-(-grid.shape[axis] // most))
        if steps[axis] > 1:
            firsts = np.arange(0, grid.shape[axis], steps[axis])
            grid = np.add.reduceat(np.nan_to_num(grid), firsts, axis=axis)
    return grid, (steps[0], steps[1])


def _of_sum(step: int) -> str:
    return "" if step == 1 else f" (sums of {step} neighbours each)"


def _few(count: int) -> dict[str, int]:
    """Return what puts a tick at every whole number, where there are few."""
    return {"dtick": 1} if count <= 16 else {}
