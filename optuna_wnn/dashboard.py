"""What a run adds to optuna-dashboard: a note and figures with each of its studies."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING
from typing import Final

import optuna
from optuna.storages import BaseStorage

from optuna_wnn import notes
from optuna_wnn.leaderboard import leaderboard
from optuna_wnn.leaderboard import study_name
from optuna_wnn.store.settings import read_figure
from optuna_wnn.traces import read_trace


if TYPE_CHECKING:
    import plotly.graph_objects as go


LAST_LINE: Final = "*optuna-wnn writes what stands above this line; what you write below stays.*"

PREFIX: Final = "optuna-wnn-"
_ATTEMPTS: Final = 5  # to write what another worker writes at the same time, in pieces


@cache
def is_available() -> bool:
    """Return whether what :func:`refresh` needs is installed, and can be imported."""
    try:
        import optuna_dashboard  # noqa: F401
        import plotly  # noqa: F401
    except ImportError:
        return False
    return True


def refresh(storage: BaseStorage, run: str, only: int | None = None) -> None:
    """Bring the notes and figures of a run's studies up to date; what is so is not written.

    Trials stay as they are. Needs optuna-dashboard and plotly; see :func:`is_available`.

    Args:
        storage: Where the studies live.
        run: The run's name.
        only: Index of the phase whose study alone is to be brought up to date.

    Raises:
        InputError: If there is no such run.
    """
    from optuna_wnn import figures

    trace = read_trace(storage, run)
    shared = figures.of_run(trace)
    for index, phase in enumerate(trace.phases):
        if only not in (None, index):
            continue
        study = optuna.load_study(study_name=phase.summary.study, storage=storage)
        _update_note(study, notes.of_phase(trace, index))
        for name, figure in {**shared, **figures.of_phase(trace, index)}.items():
            _update_figure(study, PREFIX + name, figure)


def refresh_sweep(storage: BaseStorage, sweep: str) -> None:
    """Bring the figure of a sweep's study up to date.

    Args:
        storage: Where the studies live.
        sweep: The sweep's name.

    Raises:
        InputError: If there is no such sweep.
    """
    from optuna_wnn import figures

    study = optuna.load_study(study_name=study_name(sweep), storage=storage)
    _update_figure(study, f"{PREFIX}sweep", figures.effects(leaderboard(storage, sweep)))


def _update_note(study: optuna.Study, text: str) -> None:
    from optuna_dashboard import get_note
    from optuna_dashboard import save_note

    for _ in range(_ATTEMPTS):
        before = get_note(study)
        _, line, kept = before.partition(LAST_LINE)
        if not line and before and not before.startswith(notes.BEGINNING):
            kept = f"\n\n{before}"  # the user was first
        note = f"{text}\n---\n{LAST_LINE}{kept}"
        if before == note:
            return
        save_note(study, note)


def _update_figure(study: optuna.Study, name: str, figure: go.Figure) -> None:
    from optuna_dashboard import save_plotly_graph_object

    for _ in range(_ATTEMPTS):
        if read_figure(study, name) == figure.to_json():
            return
        save_plotly_graph_object(study, figure, graph_object_id=name)
