"""What a run came to: what its studies say of it, and the final table."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import Final

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from rich.console import Group
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from optuna_wnn.config import DIRECTIONS
from optuna_wnn.errors import InputError
from optuna_wnn.fitness import Fitness
from optuna_wnn.genome import Genome
from optuna_wnn.schedule import Threshold
from optuna_wnn.store.places import read_child
from optuna_wnn.store.reader import genome_reader
from optuna_wnn.store.running import Trials
from optuna_wnn.store.settings import read_generations
from optuna_wnn.store.settings import read_setting
from optuna_wnn.store.settings import write_setting
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import is_stale
from optuna_wnn.store.trials import trial_by_number
from optuna_wnn.store.version import check_schema
from optuna_wnn.store.version import reads_storage


SEEDED_FROM: Final = "seeded from"
TEXTS: Final = ("study", "ended")  # headings of the final table; the others are of numbers
SIZE: Final = "memory_kib"  # a user attribute of trials
HEADINGS: Final = [
    *("study", "trials", "seconds", "CE", "accuracy", "test CE", "test acc.", "KiB", "ended"),
]

_RUN: Final = "run"
_PHASE: Final = "phase"
_LABEL: Final = "method"
_END: Final = "ended"
_BEST: Final = "best trial"  # its number, and what its genome does on the test part
_FIRST: Final = "test of the first random genome"
_BASELINES: Final = "baselines"
_CONFIGURATION: Final = "config"
_THRESHOLD: Final = "threshold"
_SETTINGS: Final = "settings"
_INPUT_GROUPS: Final = "input groups"
_GAINS: Final = "gains"
_SEED: Final = "run seed"


# -- what studies say ----------------------------------------------------------------------------


def describe(
    study: optuna.Study, run: str, index: int, label: str, before: optuna.Study | None
) -> None:
    """Write into a study what it is: which phase of which run, and what it was seeded from."""
    study.set_user_attr(_RUN, run)
    study.set_user_attr(_PHASE, index + 1)
    study.set_user_attr(_LABEL, label)
    if before is not None:
        study.set_user_attr(SEEDED_FROM, f"{before.study_name} #{before.user_attrs[_BEST][0]}")


def write_configuration(study: optuna.Study, configuration: Mapping[str, Any]) -> None:
    """Write into a study what must be the same for its run to go on."""
    write_setting(study, _CONFIGURATION, json.dumps(configuration))


def read_configuration(study: optuna.Study) -> dict[str, Any] | None:
    """Return what :func:`write_configuration` wrote, or ``None``."""
    text = read_setting(study, _CONFIGURATION)
    return None if text is None else dict(json.loads(text))


def write_settings(study: optuna.Study, settings: Sequence[tuple[str, Any, str]]) -> None:
    """Write into a run's first study every key of its configuration, its value and origin."""
    write_setting(study, _SETTINGS, json.dumps(settings))


def write_threshold(study: optuna.Study, threshold: Threshold) -> None:
    """Write into a study the accuracy bars of its phase."""
    fields = [threshold.start, threshold.end, threshold.highest, threshold.ramp]
    write_setting(study, _THRESHOLD, fields)


def read_threshold(study: optuna.Study) -> Threshold | None:
    """Return what :func:`write_threshold` wrote, or ``None``."""
    fields = read_setting(study, _THRESHOLD)
    return None if fields is None else Threshold(*fields)


def write_gains(study: optuna.Study, gains: NDArray[np.int64]) -> None:
    """Write into a study the gains that its phase evaluates with, ``int64[K, GAINS]``."""
    write_setting(study, _GAINS, gains.tolist())


def read_gains(study: optuna.Study) -> NDArray[np.int64] | None:
    """Return what :func:`write_gains` wrote, or ``None``."""
    gains = read_setting(study, _GAINS)
    return None if gains is None else np.array(gains, np.int64)


def write_input_groups(study: optuna.Study, groups: tuple[int, int]) -> None:
    """Write into a study how the task's inputs are laid out: (positions, bits per position)."""
    write_setting(study, _INPUT_GROUPS, list(groups))


def read_input_groups(study: optuna.Study) -> tuple[int, int] | None:
    """Return what :func:`write_input_groups` wrote, or ``None``."""
    groups = read_setting(study, _INPUT_GROUPS)
    return None if groups is None else (int(groups[0]), int(groups[1]))


def write_seed(study: optuna.Study, seed: int) -> None:
    """Write into a study what all random numbers of its run derive from."""
    write_setting(study, _SEED, seed)


def read_seed(study: optuna.Study) -> int | None:
    """Return what :func:`write_seed` wrote, or ``None``."""
    seed: int | None = read_setting(study, _SEED)
    return seed


def write_baselines(study: optuna.Study, baselines: Mapping[str, float]) -> None:
    """Write into a run's first study what simple models reach on the test part."""
    study.set_user_attr(_BASELINES, dict(baselines))


def finish(
    study: optuna.Study,
    reason: str,
    best: int,
    test: tuple[float, float] | None,
    first: tuple[float, float] | None,
) -> None:
    """Write into a study that its phase ended, why, and what it came to.

    Args:
        study: The phase's study.
        reason: Why it ended.
        best: Number of its best trial.
        test: Cross-entropy and accuracy of that trial's genome on the test part.
        first: The same of the run's first random genome, where this is the first phase.
    """
    # Together: of two workers that end a phase at once, both write what fits together.
    study.set_user_attr(_BEST, [best, test])
    if first is not None:
        study.set_user_attr(_FIRST, first)
    study.set_user_attr(_END, reason)  # last: with it the phase is over


def finished(study: optuna.Study) -> str | None:
    """Return why a phase ended, or ``None`` if it did not."""
    reason: str | None = study.user_attrs.get(_END)
    return reason


def study_names(storage: BaseStorage, run: str) -> list[str]:
    """Return the names of a run's studies that exist, in the order of their phases."""
    found = [
        (int(place), name)
        for name in optuna.get_all_study_names(storage=storage)
        for place in [name.removeprefix(f"{run}/").partition("-")[0]]
        if name.startswith(f"{run}/") and place.isdecimal()
    ]
    return [name for _, name in sorted(found)]


# -- the summary ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class PhaseSummary:
    """What one phase came to.

    Attributes:
        study: Name of its study.
        n_trials: How many trials it evaluated.
        seconds: How long they took, all together.
        ended: Why it ended, or ``None`` if it did not.
        best_trial: Number of its best trial so far, or ``None`` before the first.
        validation: Cross-entropy and accuracy of that trial, on what guided the search.
        test: The same on the test part, or ``None`` if there is none.
        size: KiB that the trained network of that trial takes; ``None`` before the first.
        losses: Its objective values, signed so that lower is better; empty before the first.
    """

    study: str
    n_trials: int
    seconds: float
    ended: str | None
    best_trial: int | None
    validation: tuple[float, float] | None
    test: tuple[float, float] | None
    size: float | None = None
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class RunSummary:
    """What a run came to.

    Attributes:
        name: The run.
        phases: Its phases, as far as they were started.
        best_phase: Index of the phase whose best trial is best, or ``None`` before the first.
        first_test: Cross-entropy and accuracy of the first random genome on the test part.
        baselines: Cross-entropy that simple models reach on the test part.
    """

    name: str
    phases: tuple[PhaseSummary, ...]
    best_phase: int | None
    first_test: tuple[float, float] | None
    baselines: Mapping[str, float]


@reads_storage
def summarise(storage: BaseStorage, run: str) -> RunSummary:
    """Return what a run came to, from its studies alone.

    Args:
        storage: Where they live.
        run: The run's name.

    Raises:
        InputError: If there is no such run.
    """
    names = study_names(storage, run)
    if not names:
        raise InputError(f"run {run}: the storage has no studies of it; {_known_runs(storage)}")
    studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
    for study in studies:
        check_schema(study)
    phases = tuple(map(_phase, studies))
    ended = [i for i, phase in enumerate(phases) if phase.validation is not None]
    best = None
    if ended:
        values = [phases[i].validation or (0.0, 0.0) for i in ended]
        losses = [phases[i].losses for i in ended]
        threshold = read_threshold(studies[-1])
        bar = threshold.highest if threshold is not None else 0.0
        missed = np.array([max(0.0, bar - accuracy) for _, accuracy in values])
        best = ended[int(_fitness(studies[0]).order(losses, missed)[0])]
    attributes = studies[0].user_attrs
    return RunSummary(
        run, phases, best, _pair(attributes.get(_FIRST)), attributes.get(_BASELINES, {})
    )


@reads_storage
def best_genome(storage: BaseStorage, run: str) -> Genome:
    """Return the best genome of a run.

    Raises:
        InputError: If there is no such run, or it has no trial yet.
    """
    summary = summarise(storage, run)
    if summary.best_phase is None:
        raise InputError(f"run {run}: it has no trial yet; resume it, then export")
    phase = summary.phases[summary.best_phase]
    study = optuna.load_study(study_name=phase.study, storage=storage)
    assert phase.best_trial is not None
    return genome_reader(study).read(phase.best_trial)


def read_run(storage: BaseStorage, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a run is (see :func:`write_configuration`), and its task's kind and options.

    Raises:
        InputError: If there is no such run, or it was not written by a configuration.
    """
    summarise(storage, run)
    first = optuna.load_study(study_name=study_names(storage, run)[0], storage=storage)
    configuration = read_configuration(first)
    if configuration is None:
        raise InputError(f"run {run}: its studies have no configuration; resume it")
    options = dict(configuration["task"])
    for key, value, _ in json.loads(read_setting(first, _SETTINGS) or "[]"):
        if key == "task.path":
            options["path"] = value
    return configuration, options


def _fitness(study: optuna.Study) -> Fitness:
    """Return which of two trials a run takes for better."""
    configuration = read_configuration(study) or {}
    fields = configuration.get("fitness", {})
    weights = fields.get("weights")
    return Fitness(
        fields.get("calculator", "CE"),
        None if weights is None else tuple(weights),
        fields.get("accuracy_floor"),
    )


def _phase(study: optuna.Study) -> PhaseSummary:
    n_trials, spent = 0, datetime.timedelta()
    numbers, losses = [], []
    attributes = study.user_attrs  # before the trials, which are then all there
    for trial in Trials(study).news():  # one by one: there may be very many
        if trial.state == TrialState.COMPLETE:
            numbers.append(trial.number)
            losses.append(_losses(trial))
        child = read_child(trial.system_attrs)
        if child is None or child.is_seed or not trial.state.is_finished():
            continue
        if is_stale(trial.system_attrs):
            continue  # it lasts until the next run closed it
        n_trials += 1
        spent += trial.duration or datetime.timedelta()
    best, test = attributes.get(_BEST, (None, None))
    if best is None and numbers:
        best = numbers[int(_fitness(study).order(losses)[0])]
    winner = None if best is None else trial_by_number(study, best)
    return PhaseSummary(
        study.study_name,
        n_trials,
        spent.total_seconds(),
        attributes.get(_END),
        best,
        None if winner is None else _pair(winner.values),
        _pair(test),
        None if winner is None else size_of(winner),
        () if winner is None else _losses(winner),
    )


def _losses(trial: FrozenTrial) -> tuple[float, ...]:
    """Return a trial's objective values, signed so that lower is better."""
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in DIRECTIONS]
    return tuple(sign * value for sign, value in zip(signs, trial.values, strict=False))


def size_of(trial: FrozenTrial) -> float | None:
    """Return how many KiB the trained network of a trial takes, or ``None`` if it does not say."""
    size = trial.user_attrs.get(SIZE)
    return float(size) if isinstance(size, int | float) else None


def _pair(values: Any) -> tuple[float, float] | None:
    return None if values is None else (float(values[0]), float(values[1]))


def _known_runs(storage: BaseStorage) -> str:
    names = optuna.get_all_study_names(storage=storage)
    runs = sorted({name.partition("/")[0] for name in names if "/" in name})
    return f"it has {', '.join(runs)}" if runs else "it has none at all; check --storage"


# -- the table -----------------------------------------------------------------------------------


def rows(summary: RunSummary) -> list[list[str]]:
    """Return the rows of a run's final table: its phases, then what to compare them with.

    A row has a cell for each of :data:`HEADINGS`.
    """
    found = [
        [
            phase.study,
            str(phase.n_trials),
            f"{phase.seconds:.1f}",
            *_numbers(phase.validation),
            *_numbers(phase.test),
            "" if phase.size is None else f"{phase.size:.1f}",
            phase.ended or "not yet",
        ]
        for phase in summary.phases
    ]
    if summary.first_test is not None:
        found.append(["first random genome", *4 * [""], *_numbers(summary.first_test), "", ""])
    for name, cross_entropy in summary.baselines.items():
        found.append([f"baseline: {name}", *4 * [""], f"{cross_entropy:.4f}", *3 * [""]])
    return found


def table(summary: RunSummary) -> RenderableType:
    """Return the final table of a run, for a console."""
    result = Table(title=f"Run {summary.name}", title_justify="left")
    for heading in HEADINGS:
        result.add_column(heading, justify="left" if heading in TEXTS else "right")
    for i, row in enumerate(rows(summary)):
        result.add_row(*row, style="bold" if i == summary.best_phase else "")
        if i == len(summary.phases) - 1:
            result.add_section()
    return Group(result, Text(verdict(summary)))


@reads_storage
def generations_table(storage: BaseStorage, run: str) -> RenderableType:
    """Return what every generation of a run started with, and what it came to."""
    result = Table(title=f"Generations of {run}", title_justify="left")
    result.add_column("study")
    for heading in ("generation", "trials", "best CE", "best accuracy"):
        result.add_column(heading, justify="right")
    for heading in ("threshold", "level", "population", "mutation rate"):
        result.add_column(heading, justify="right")
    for name in study_names(storage, run):
        study = optuna.load_study(study_name=name, storage=storage)
        values: dict[int, list[Sequence[float]]] = {}
        for trial in all_trials(study):
            child = read_child(trial.system_attrs)
            if child is not None and trial.state == TrialState.COMPLETE:
                values.setdefault(child.generation, []).append(trial.values)
        plans = read_generations(study)
        for generation, pairs in sorted(values.items()):
            lowest, highest = min(p[0] for p in pairs), max(p[1] for p in pairs)
            threshold, level, population, rate = plans.get(generation, ("", "", "", ""))
            result.add_row(
                name,
                str(generation),
                str(len(pairs)),
                f"{lowest:.4f}",
                f"{highest:.4f}",
                f"{threshold:.4f}" if threshold != "" else "",
                str(level),
                str(population),
                f"{rate:.3f}" if rate != "" else "",
            )
        result.add_section()
    return result


@reads_storage
def settings_table(storage: BaseStorage, run: str) -> RenderableType:
    """Return what a run was made of when it started, and where each value came from.

    Raises:
        InputError: If there is no such run.
    """
    summarise(storage, run)
    first = optuna.load_study(study_name=study_names(storage, run)[0], storage=storage)
    result = Table(title=f"Settings of {run}", title_justify="left")
    for heading in ("key", "value", "from"):
        result.add_column(heading)
    for key, value, origin in json.loads(read_setting(first, _SETTINGS) or "[]"):
        style = "" if origin == "default" else "bold"
        result.add_row(key, Text(json.dumps(value)), Text(origin), style=style)
    return result


def _numbers(pair: tuple[float, float] | None) -> tuple[str, str]:
    return ("", "") if pair is None else (f"{pair[0]:.4f}", f"{pair[1]:.4f}")


def verdict(summary: RunSummary) -> str:
    """Return in a sentence which trial is best."""
    if summary.best_phase is None:
        return "No trial has ended yet."
    best = summary.phases[summary.best_phase]
    return f"Best: trial {best.best_trial} of {best.study}. CE is in nats per example."
