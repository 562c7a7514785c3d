"""The figure of which inputs matter: a picture for every cluster, of pixels or of positions."""

from __future__ import annotations

from typing import Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from optuna_wnn.figures import style
from optuna_wnn.importance import Importance


_MOST_PANELS: Final = 20  # clusters that are shown one by one
_MOST_CELLS: Final = 16_384  # in all panels
_COLUMNS: Final = 5


def matters(found: Importance, owner: str) -> go.Figure:
    """Return how much each input matters to each cluster, a heat map for each.

    Pixels of pictures are drawn where they are, the bits of a pixel summed up; other inputs by
    position and bit. More than 20 clusters, or inputs too many to be seen, are summed up into one
    panel of all.

    Args:
        found: What matters.
        owner: Whose genome it is, for the title.
    """
    panels = np.stack([_panel(row, found) for row in found.weights])
    names = [f"{found.clusters} {k}" for k in range(len(panels))]
    if len(panels) > _MOST_PANELS or panels.size > _MOST_CELLS:
        panels, names = panels.sum(axis=0)[None], [f"all {len(panels)} clusters"]
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=names, horizontal_spacing=0.03,
        vertical_spacing=0.3 / rows,
    )  # fmt: skip
    for i, panel in enumerate(panels):
        figure.add_trace(
            go.Heatmap(
                z=[[None if np.isnan(w) else float(f"{w:.3g}") for w in line] for line in panel],
                coloraxis="coloraxis",
                hovertemplate="column %{x}, row %{y}: %{z}<extra></extra>",
            ),
            row=i // columns + 1,
            col=i % columns + 1,
        )
    title = "weight of a pixel" if found.picture else "position across, bit down"
    figure = style.styled(
        figure,
        "Inputs that matter",
        f"best of {owner}: connections, weighed by the separation of their neurons; {title}",
    )
    figure.update_xaxes(showgrid=False, showticklabels=False, ticks="")
    figure.update_yaxes(showgrid=False, showticklabels=False, ticks="", autorange="reversed")
    if found.picture:
        for place in range(len(panels)):
            number = "" if place == 0 else str(place + 1)
            figure.update_layout(
                {f"yaxis{number}": {"scaleanchor": f"x{number}", "constrain": "domain"},
                 f"xaxis{number}": {"constrain": "domain"}}
            )  # fmt: skip
    return figure.update_layout(
        coloraxis={"colorscale": "Cividis", "cmin": 0, "colorbar": {"thickness": 14}}
    )


def _panel(weights: NDArray[np.float64], found: Importance) -> NDArray[np.float64]:
    """Return one cluster's weights as rows from top to bottom."""
    positions, width = found.input_groups
    if found.picture is not None:
        pixels: NDArray[np.float64] = weights.reshape(positions, width).sum(axis=1)
        return pixels.reshape(found.picture)
    positions = max(positions, -(-len(weights) // width))  # the target's own bits come last
    padded = np.full(positions * width, np.nan)
    padded[: len(weights)] = weights
    return padded.reshape(positions, width).T
