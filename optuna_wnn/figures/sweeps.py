"""Figure of a sweep: what each value of each varied key did."""

from __future__ import annotations

import json
from typing import Any
from typing import Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from optuna_wnn.figures import style
from optuna_wnn.leaderboard import Entry
from optuna_wnn.leaderboard import Leaderboard
from optuna_wnn.sweep_config import shown


_MOST_KEYS: Final = 9
_COLUMNS: Final = 3
_MOST_RUNS: Final = 1_000  # in each panel; the best ones
_BASE: Final = "as the base"


def effects(board: Leaderboard) -> go.Figure:
    """Return a panel for each varied key: the runs by its value, and the best of each value.

    Keys that take one value only are left out; of the others, the first nine are shown, and of
    the runs the best thousand.

    Args:
        board: What the sweep came to.
    """
    runs = [entry for entry in board.entries if entry.validation is not None][:_MOST_RUNS]
    keys = [key for key in _keys(runs) if len({_text(entry, key) for entry in runs}) > 1]
    keys = keys[:_MOST_KEYS]
    figure = make_subplots(
        rows=max(1, -(-len(keys) // _COLUMNS)),
        cols=max(1, min(_COLUMNS, len(keys))),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.5 / max(1, -(-len(keys) // _COLUMNS)),
    )
    for i, key in enumerate(keys):
        place = {"row": i // _COLUMNS + 1, "col": i % _COLUMNS + 1}
        _add_panel(figure, board, runs, key, place)
    label = "CE, nats" if board.objective == "cross-entropy" else "accuracy"
    subtitle = f"{len(runs)} finished runs; {board.objective} on what guided their search"
    styled = style.styled(figure, f"Sweep {board.name}", subtitle, legend=True)
    styled.update_yaxes(title_text=label, col=1)
    return styled


def _add_panel(
    figure: go.Figure, board: Leaderboard, runs: list[Entry], key: str, place: dict[str, int]
) -> None:
    """Add the runs by the value of a key; numbers on an axis of numbers, all else side by side."""
    values = [entry.overrides.get(key) for entry in runs]
    is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    x: list[Any] = values if is_number else [_text(entry, key) for entry in runs]
    index = 0 if board.objective == "cross-entropy" else 1
    y = style.rounded(np.array([entry.validation[index] for entry in runs if entry.validation]))
    is_first = place == {"row": 1, "col": 1}
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"size": 6, "opacity": 0.75, "color": style.GREY},
        name="run",
        legendgroup="run",
        showlegend=is_first,
        text=[f"{entry.run}<br>{shown(entry.overrides)}" for entry in runs],
        hovertemplate="%{text}<br>%{y}<extra></extra>",
        **place,
    )
    best: dict[Any, float] = {}
    for value, found in zip(x, y, strict=True):
        best.setdefault(value, found)  # they come best first
    order = sorted(best) if is_number else list(best)
    figure.add_scatter(
        x=order,
        y=[best[value] for value in order],
        mode="lines+markers" if is_number else "markers",
        line={"color": style.BLUE, "width": 2},
        marker={"size": 9, "symbol": "diamond", "color": style.BLUE},
        name="best of the value",
        legendgroup="best",
        showlegend=is_first,
        hovertemplate=f"{key}=%{{x}}<br>%{{y}}<extra>best</extra>",
        **place,
    )
    figure.update_xaxes(title_text=key, type="linear" if is_number else "category", **place)


def _keys(runs: list[Entry]) -> list[str]:
    """Return all keys that runs override, in the order of their first mention."""
    return list(dict.fromkeys(key for entry in runs for key in entry.overrides))


def _text(entry: Entry, key: str) -> str:
    if key not in entry.overrides:
        return _BASE
    value = entry.overrides[key]
    return value if isinstance(value, str) else json.dumps(value)
