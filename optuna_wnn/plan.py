"""What a run will do: its phases, its memory, and an estimate of its time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np
import psutil
from rich.console import Group
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators.base import Moves
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Dimension
from optuna_wnn.genome import Genome
from optuna_wnn.phases import PhasedSearch


_STEPS: Final = 128  # moves that are timed where trials refine
_PARTS: Final = ("train", "validation", "test")


@dataclass(frozen=True)
class PhasePlan:
    """What one phase will do.

    Attributes:
        label: Its method and what it frees.
        trials: The most trials that it evaluates.
        refine_steps: Moves that each of them tries by itself.
        seconds: How long its trials take as estimated, one process working.
    """

    label: str
    trials: int
    refine_steps: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        phases: Its phases.
        backend: What evaluates.
        evaluation: Seconds of the evaluation that was timed.
        data_kib: KiB of packed inputs and targets.
        network_kib: KiB of tables of a network as the first phase starts with, and of the
            largest that the space allows.
        process_kib: KiB of memory that this process takes after the evaluation.
        n_examples: Examples of train, validation and test.
    """

    phases: tuple[PhasePlan, ...]
    backend: str
    evaluation: float
    data_kib: float
    network_kib: tuple[float, float]
    process_kib: float
    n_examples: tuple[int, int, int]


def plan(search: PhasedSearch) -> Plan:
    """Return what a search will do, from timing one evaluation; nothing is stored.

    Every trial is taken to cost as much as a random genome of the phase's start does. Genomes
    that grow cost more; votes that the evaluator remembers, and phases that end early, less.
    """
    config, task, evaluator = search.config, search.task, search.evaluator
    rng = np.random.default_rng(config.seed)
    warm, timed = (search.spaces[0].sample(rng) for _ in range(2))
    evaluator.evaluate(warm)  # compiles, and reads the data
    started = time.perf_counter()
    evaluator.evaluate(timed)
    evaluation = time.perf_counter() - started

    timings: dict[tuple[tuple[str, ...], str], tuple[float, float]] = {}
    phases = []
    for phase, space in zip(config.phases, search.spaces, strict=True):
        kind = phase.free, phase.refine_moves
        if phase.refine_steps and kind not in timings:
            timings[kind] = _refinement(evaluator, timed, space.bounds, *kind)
        fixed, each = timings[kind] if phase.refine_steps else (0.0, 0.0)
        seconds = max(evaluation, fixed) + phase.refine_steps * each
        total = phase.trials * seconds
        phases.append(PhasePlan(phase.label, phase.trials, phase.refine_steps, total))

    bounds = search.spaces[0].bounds
    start = config.memory.kib(timed, len(task.train))
    widest = [min(bounds.bits[1], visible) for visible in bounds.visible_inputs.tolist()]
    most = config.memory.kib_of([bounds.neurons[1]] * len(widest), widest, len(task.train))
    parts = (task.train, task.validation, task.test)
    return Plan(
        phases=tuple(phases),
        backend=evaluator.backend,
        evaluation=evaluation,
        data_kib=sum(part.inputs.nbytes + part.targets.nbytes for part in parts) / 1024,
        network_kib=(start, most),
        process_kib=psutil.Process().memory_info().rss / 1024,
        n_examples=(len(task.train), len(task.validation), len(task.test)),
    )


def _refinement(
    evaluator: Evaluator,
    genome: Genome,
    bounds: Bounds,
    free: tuple[Dimension, ...],
    moves: Moves,
) -> tuple[float, float]:
    """Return the seconds that a refinement takes in any case, and those of each move."""
    seconds = []
    for steps in (1, 1, 1 + _STEPS):  # the first one compiles
        started = time.perf_counter()
        evaluator.refine(genome, bounds, free, steps, 0, moves)
        seconds.append(time.perf_counter() - started)
    return seconds[1], max(0.0, seconds[2] - seconds[1]) / _STEPS


def plan_table(planned: Plan, name: str) -> RenderableType:
    """Return what a run will do, for a console."""
    result = Table(title=f"Run {name}: nothing is stored", title_justify="left")
    for heading in ("phase", "trials", "moves per trial", "time"):
        result.add_column(heading, justify="left" if heading == "phase" else "right")
    for i, phase in enumerate(planned.phases):
        cells = (str(phase.trials), str(phase.refine_steps or ""), _duration(phase.seconds))
        result.add_row(f"{i + 1}-{phase.label}", *cells)
    result.add_section()
    total = _duration(sum(phase.seconds for phase in planned.phases))
    result.add_row("all", str(sum(phase.trials for phase in planned.phases)), "", total)
    low, high = planned.network_kib
    lines = [
        f"Time is estimated from one evaluation, {1000 * planned.evaluation:.2f} ms on "
        f"{planned.backend}, without storage.",
        f"Memory: {_size(low)} of tables for a network at the start, at most {_size(high)}; "
        f"{_size(planned.data_kib)} of data; this process takes {_size(planned.process_kib)}.",
        f"Examples: {', '.join(map(_count, planned.n_examples, _PARTS))}.",
    ]
    return Group(result, Text("\n".join(lines)))


def _count(number: int, part: str) -> str:
    return f"{number:,} {part}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _size(kib: float) -> str:
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        if kib < 1000 or unit == "TiB":
            break
        kib /= 1024
    return f"{kib:.3g} {unit}" if kib < 1e6 else f"over a million {unit}"
