"""What a sweep came to: its runs, best first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import Final

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from rich.console import Group
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from optuna_wnn.errors import InputError
from optuna_wnn.report import RunSummary
from optuna_wnn.store.claims import read_claim
from optuna_wnn.store.settings import read_setting
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import is_stale
from optuna_wnn.store.version import check_schema
from optuna_wnn.store.version import reads_storage
from optuna_wnn.sweep_config import Overrides
from optuna_wnn.sweep_config import shown


OBJECTIVE: Final = "objective"
PLANNED: Final = "planned"
REASON: Final = "failed because"
RUN: Final = "run"
OVERRIDES: Final = "overrides"

HEADINGS: Final = (
    *("", "run", "overrides", "CE", "accuracy", "test CE", "test acc.", "trials", "seconds"),
)

_CROSS_ENTROPY: Final = "cross-entropy"
_ACCURACY: Final = "accuracy"
_TEST: Final = "test"
_TRIALS: Final = "trials"
_SECONDS: Final = "seconds"
_STATES: Final = {TrialState.COMPLETE: "", TrialState.FAIL: "failed", TrialState.RUNNING: "runs"}


@dataclass(frozen=True)
class Entry:
    """One run of a sweep.

    Attributes:
        place: Its number within the sweep.
        run: The name of the run; equal overrides share one.
        overrides: What it overrides of the base configuration.
        state: Its state in Optuna's words.
        validation: Cross-entropy and accuracy of its best trial, on what guided the search.
        test: The same on the test part, or ``None`` if there is none.
        n_trials: How many trials it evaluated.
        seconds: How long they took, all together.
        reason: Why it failed; empty if it did not.
    """

    place: int
    run: str
    overrides: Overrides
    state: TrialState
    validation: tuple[float, float] | None
    test: tuple[float, float] | None
    n_trials: int
    seconds: float
    reason: str


@dataclass(frozen=True)
class Leaderboard:
    """What a sweep came to.

    Attributes:
        name: The sweep.
        objective: What its runs are ordered by: ``cross-entropy`` or ``accuracy``.
        planned: How many runs it makes.
        entries: Its runs, as far as they were started: finished ones, best first, running ones,
            failed ones.
    """

    name: str
    objective: str
    planned: int
    entries: tuple[Entry, ...]

    @property
    def verdict(self) -> str:
        """How many runs are finished, and which one to look at."""
        states = [found.state for found in self.entries]
        text = f"{states.count(TrialState.COMPLETE)} of {self.planned} runs are finished"
        n_failed = states.count(TrialState.FAIL)
        text += f", {n_failed} failed." if n_failed else "."
        if self.best is not None:
            text += f" See the best one: optuna-wnn report {self.best.run}"
        return text

    @property
    def best(self) -> Entry | None:
        """The best finished run."""
        return next((e for e in self.entries if e.state == TrialState.COMPLETE), None)


# -- what the study of a sweep says --------------------------------------------------------------


def study_name(sweep: str) -> str:
    """Return the name of a sweep's study."""
    return f"{sweep}/sweep"


def run_name(sweep: str, place: int) -> str:
    """Return the name of one run of a sweep."""
    return f"{study_name(sweep)}-{place:04d}"


def results(summary: RunSummary) -> dict[str, Any]:
    """Return what the trial of a finished run shows, as user attributes."""
    assert summary.best_phase is not None
    best = summary.phases[summary.best_phase]
    assert best.validation is not None
    return {
        _CROSS_ENTROPY: best.validation[0],
        _ACCURACY: best.validation[1],
        _TEST: best.test,
        _TRIALS: sum(phase.n_trials for phase in summary.phases),
        _SECONDS: round(sum(phase.seconds for phase in summary.phases), 3),
    }


def lasting(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that hold a place, by place.

    Of several that claimed a place at the same time, the first has it. Those whose worker was
    gone have none.
    """
    found: dict[int, FrozenTrial] = {}
    for trial in all_trials(study):
        claim = read_claim(trial.system_attrs)
        if claim is not None and not is_stale(trial.system_attrs):
            found.setdefault(claim.place, trial)
    return [found[place] for place in sorted(found)]


def entry(trial: FrozenTrial) -> Entry:
    """Return what a trial tells of its run."""
    claim = read_claim(trial.system_attrs)
    assert claim is not None
    told: Mapping[str, Any] = trial.user_attrs
    values = (told.get(_CROSS_ENTROPY), told.get(_ACCURACY))
    test = told.get(_TEST)
    return Entry(
        place=claim.place,
        run=str(told.get(RUN, "")),
        overrides=dict(claim.overrides),
        state=trial.state,
        validation=None if None in values else (float(values[0] or 0), float(values[1] or 0)),
        test=None if test is None else (float(test[0]), float(test[1])),
        n_trials=int(told.get(_TRIALS, 0)),
        seconds=float(told.get(_SECONDS, 0.0)),
        reason=str(told.get(REASON, "")),
    )


def has_sweep(storage: BaseStorage, name: str) -> bool:
    """Return whether a storage has a sweep of this name."""
    return study_name(name) in optuna.get_all_study_names(storage=storage)


@reads_storage
def leaderboard(storage: BaseStorage, name: str) -> Leaderboard:
    """Return what a sweep came to, from its study alone.

    Raises:
        InputError: If there is no such sweep.
    """
    if not has_sweep(storage, name):
        raise InputError(f"sweep {name}: the storage has none of this name; check --storage")
    study = optuna.load_study(study_name=study_name(name), storage=storage)
    check_schema(study)
    objective = read_setting(study, OBJECTIVE) or _CROSS_ENTROPY
    order = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.FAIL)

    def rank(found: Entry) -> tuple[float, float, int]:
        if found.state != TrialState.COMPLETE or found.validation is None:
            return order.index(found.state), 0.0, found.place
        cross_entropy, accuracy = found.validation
        value = cross_entropy if objective == _CROSS_ENTROPY else -accuracy
        return 0, value, found.place

    entries = sorted((entry(trial) for trial in lasting(study)), key=rank)
    planned = read_setting(study, PLANNED) or len(entries)
    return Leaderboard(name, objective, planned, tuple(entries))


def best_run(storage: BaseStorage, name: str) -> str:
    """Return the name of a sweep's best run.

    Raises:
        InputError: If there is no such sweep, or none of its runs is finished.
    """
    best = leaderboard(storage, name).best
    if best is None:
        raise InputError(f"sweep {name}: none of its runs is finished; resume it, then export")
    return best.run


# -- the table -----------------------------------------------------------------------------------


def leaderboard_table(board: Leaderboard) -> RenderableType:
    """Return a leaderboard, for a console."""
    result = Table(title=f"Sweep {board.name}, best {board.objective} first", title_justify="left")
    for i, heading in enumerate(HEADINGS):
        is_text = heading == "overrides"
        result.add_column(
            heading,
            justify="left" if is_text or i == 1 else "right",
            no_wrap=not is_text,
            overflow="fold",
        )
    for found, row in zip(board.entries, rows(board), strict=True):
        result.add_row(*map(Text, row), style="bold" if found is board.best else "")
    return Group(result, Text(board.verdict))


def rows(board: Leaderboard) -> list[tuple[str, ...]]:
    """Return the rows of a leaderboard's table, a text for each of ``HEADINGS``."""
    found: list[tuple[str, ...]] = []
    for i, run in enumerate(board.entries):
        is_finished = run.state == TrialState.COMPLETE
        told = shown(run.overrides)
        if not is_finished:
            told += f" – {_STATES[run.state]}{': ' if run.reason else ''}{run.reason}"
        numbers = (str(run.n_trials), f"{run.seconds:.1f}") if is_finished else ("", "")
        found.append(
            (
                str(i + 1) if is_finished else "",
                run.run.rpartition("/")[2],
                told,
                *_numbers(run.validation),
                *_numbers(run.test),
                *numbers,
            )
        )
    return found


def _numbers(pair: tuple[float, float] | None) -> tuple[str, str]:
    return ("", "") if pair is None else (f"{pair[0]:.4f}", f"{pair[1]:.4f}")
