"""A run's figures as files: one HTML page that opens offline, or a PNG picture of each."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Final

from optuna_wnn import leaderboard
from optuna_wnn import notes
from optuna_wnn import report
from optuna_wnn.errors import InputError
from optuna_wnn.genome import write_atomically
from optuna_wnn.importance import Importance
from optuna_wnn.leaderboard import Leaderboard
from optuna_wnn.traces import RunTrace


if TYPE_CHECKING:
    import plotly.graph_objects as go


_WIDTH: Final = 1000  # pixels of a picture
_HEIGHT: Final = 480
_STYLE: Final = """
body { font-family: sans-serif; color: #333; max-width: 1100px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse }
th, td { padding: 0.2em 0.8em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left }
tr.best { font-weight: bold }
pre { background: #f5f5f5; padding: 1em; overflow-x: auto }
"""


def write_page(run: RunTrace, path: Path, importance: Importance | None = None) -> None:
    """Write a run's table, figures and settings as one HTML page that needs no network.

    Args:
        run: The run.
        path: The file; one that is there is replaced.
        importance: What matters to the best genome, to be drawn as well.

    Raises:
        InputError: If plotly is not installed, or the file cannot be written.
    """
    figures = _figures(run, importance, "plotly")
    settings = html.escape(notes.settings(run.summary.name, run.configuration))
    parts = [_table(run.summary), f"<p>{html.escape(report.verdict(run.summary))}</p>"]
    end = f"<h2>Settings</h2><pre>{settings}</pre>"
    _write(path, f"Run {run.summary.name}", parts, figures, end)


def write_sweep_page(board: Leaderboard, path: Path) -> None:
    """Write a sweep's leaderboard and figure as one HTML page that needs no network.

    Args:
        board: What the sweep came to.
        path: The file; one that is there is replaced.

    Raises:
        InputError: As :func:`write_page`.
    """
    figures = _sweep_figures(board, "plotly")
    rows = [f"<tr>{_cells('td', row)}</tr>" for row in leaderboard.rows(board)]
    head = f"<tr>{_cells('th', leaderboard.HEADINGS)}</tr>"
    parts = ["<table>", head, *rows, "</table>", f"<p>{html.escape(board.verdict)}</p>"]
    _write(path, f"Sweep {board.name}", parts, figures, "")


def _write(
    path: Path, name: str, parts: Sequence[str], figures: dict[str, go.Figure], end: str
) -> None:
    """Write a page: its heading, some parts, the figures, and what comes last."""
    from plotly.offline import get_plotlyjs

    title = html.escape(name)
    drawn = [
        figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            default_height=f"{_HEIGHT}px",
            div_id=name,
            config={"responsive": True, "displaylogo": False},
        )
        for name, figure in figures.items()
    ]
    lines = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body>",
        f"<h1>{title}</h1>",
        *parts,
        *drawn,
        end,
        "</body></html>\n",
    ]
    write_atomically(path, "\n".join(lines).encode())


def write_pictures(
    run: RunTrace, folder: Path, importance: Importance | None = None
) -> list[Path]:
    """Write each of a run's figures as a PNG picture and return where they are.

    Chrome or Chromium draws them, through kaleido.

    Args:
        run: The run.
        folder: Where to; it is made if it is not there. Pictures that are there are replaced.
        importance: What matters to the best genome, to be drawn as well.

    Raises:
        InputError: If plotly, kaleido or Chrome is not installed, or the folder cannot be
            written into.
    """
    return _draw(_figures(run, importance, "plotly", "kaleido"), folder)


def write_sweep_pictures(board: Leaderboard, folder: Path) -> list[Path]:
    """Write a sweep's figure as a PNG picture and return where it is.

    Args:
        board: What the sweep came to.
        folder: Where to, as of :func:`write_pictures`.

    Raises:
        InputError: As :func:`write_pictures`.
    """
    return _draw(_sweep_figures(board, "plotly", "kaleido"), folder)


def _draw(figures: dict[str, go.Figure], folder: Path) -> list[Path]:
    from plotly.io import write_images

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # a name that no folder can have is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder}: no folder can be made there ({reason})") from error
    paths = [folder / f"{name}.png" for name in figures]
    with tempfile.TemporaryDirectory() as place:
        drawn = [Path(place, path.name) for path in paths]
        try:
            write_images(list(figures.values()), drawn, width=_WIDTH, height=_HEIGHT)
        except RuntimeError as error:
            raise InputError(
                "--png: pictures are drawn by Chrome or Chromium, which is not there or did not "
                "start; install it (Debian: apt install chromium), or use --html"
            ) from error
        for source, path in zip(drawn, paths, strict=True):
            write_atomically(path, source.read_bytes())
    return paths


def _figures(run: RunTrace, importance: Importance | None, *needed: str) -> dict[str, go.Figure]:
    """Return the figures of a run and of its best genome, by name."""
    _check_installed(needed)
    from optuna_wnn import figures

    best = run.summary.best_phase
    drawn = figures.of_run(run)
    if best is not None:
        drawn |= figures.of_phase(run, best)
    if importance is not None and best is not None:
        drawn["importance"] = figures.matters(importance, run.summary.phases[best].study)
    return drawn


def _sweep_figures(board: Leaderboard, *needed: str) -> dict[str, go.Figure]:
    _check_installed(needed)
    from optuna_wnn import figures

    return {"sweep": figures.effects(board)}


def _check_installed(needed: Sequence[str]) -> None:
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise InputError(
            f"figures need {' and '.join(missing)}, which is not installed; run: "
            "pip install 'optuna-wnn[plot]'"
        )


def _table(summary: report.RunSummary) -> str:
    lines = [f"<tr>{_cells('th', report.HEADINGS)}</tr>"]
    for i, row in enumerate(report.rows(summary)):
        mark = ' class="best"' if i == summary.best_phase else ""
        lines.append(f"<tr{mark}>{_cells('td', row)}</tr>")
    return "\n".join(["<table>", *lines, "</table>"])


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)
