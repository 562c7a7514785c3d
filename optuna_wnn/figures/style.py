"""What all figures look like. Colour-blind readers can tell the colours apart.

The single colours are of the palette of Okabe and Ito, "Color universal design", 2008.
"""

from __future__ import annotations

from typing import Any
from typing import Final

import plotly.graph_objects as go
from numpy.typing import NDArray


BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
DARK: Final = "#333333"
GREY: Final = "#999999"
GRID: Final = "#E5E5E5"


def styled(figure: go.Figure, title: str, subtitle: str, legend: bool = False) -> go.Figure:
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": DARK,
        "ticks": "outside",
        "title_standoff": 8,
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure.update_layout(
        template="none",  # the default one adds 6 kB to each figure
        title={
            "text": f"{title}<br><sup>{subtitle}</sup>" if subtitle else title,
            "x": 0,
            "xref": "paper",
            "font": {"size": 16},
        },
        font={"family": "sans-serif", "size": 13, "color": DARK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        legend={
            "orientation": "h",
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "itemsizing": "constant",
        },
        showlegend=legend,
        margin={"l": 70, "r": 30, "t": 90, "b": 140 if legend else 60},
    )


def rounded(values: NDArray[Any]) -> list[float]:
    """Return five significant digits of each value, which no screen can tell from all."""
    return [float(f"{value:.5g}") for value in values.tolist()]
