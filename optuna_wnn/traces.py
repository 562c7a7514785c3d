"""What figures of a run show: its trials as arrays, and best genomes, read from its studies."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_wnn import report
from optuna_wnn.genome import Genome
from optuna_wnn.space import GenomeSpace
from optuna_wnn.store.places import read_child
from optuna_wnn.store.reader import genome_reader
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.version import reads_storage


@dataclass(frozen=True, eq=False)
class PhaseTrace:
    """What happened in one phase, in the order of its trials.

    Trials that were taken over from the phase before, failed or gave no finite values are left
    out: ``T`` remain.

    Attributes:
        summary: What the phase came to.
        losses: Cross-entropy in nats per example, ``float64[T]``.
        accuracies: Accuracy in [0, 1], ``float64[T]``.
        sizes: KiB that the trained network takes, ``float64[T]``; NaN where a trial does not say.
        feasible: Whether the accuracy reaches the phase's final bar, ``bool[T]``.
        bar: That bar, or ``None`` if there is none.
        genome: Genome of the phase's best trial so far, or ``None`` before the first.
        seed: Where trial 0 was taken from, and its cross-entropy and accuracy; ``None`` if the
            phase started at random.
    """

    summary: report.PhaseSummary
    losses: NDArray[np.float64]
    accuracies: NDArray[np.float64]
    sizes: NDArray[np.float64]
    feasible: NDArray[np.bool_]
    bar: float | None
    genome: Genome | None
    seed: tuple[str, tuple[float, float]] | None

    @property
    def label(self) -> str:
        """The study's name without the run's: ``1-ga-neurons``."""
        return self.summary.study.rpartition("/")[2]


@dataclass(frozen=True, eq=False)
class RunTrace:
    """What happened in a run.

    Attributes:
        summary: What the run came to.
        phases: Its phases, as far as they were started.
        configuration: What it was started with; see :func:`report.read_configuration`.
        n_inputs: ``B``, the number of input bits.
        input_groups: How the inputs are laid out: (positions, bits per position).
    """

    summary: report.RunSummary
    phases: tuple[PhaseTrace, ...]
    configuration: Mapping[str, Any]
    n_inputs: int
    input_groups: tuple[int, int]


@reads_storage
def read_trace(storage: BaseStorage, run: str) -> RunTrace:
    """Return what happened in a run, from its studies alone.

    Args:
        storage: Where they live.
        run: The run's name.

    Raises:
        InputError: If there is no such run.
    """
    summary = report.summarise(storage, run)
    studies = [
        optuna.load_study(study_name=phase.study, storage=storage) for phase in summary.phases
    ]
    first = studies[0]
    space = GenomeSpace.read(first)
    n_inputs = 1 if space is None else space.bounds.n_inputs  # killed before it was written
    return RunTrace(
        summary=summary,
        phases=tuple(map(_phase, studies, summary.phases)),
        configuration=report.read_configuration(first) or {},
        n_inputs=n_inputs,
        input_groups=report.read_input_groups(first) or (n_inputs, 1),
    )


def _phase(study: optuna.Study, summary: report.PhaseSummary) -> PhaseTrace:
    everything = all_trials(study)
    trials = list(filter(_was_evaluated, everything))
    values = np.array([trial.values[:2] for trial in trials], np.float64).reshape(-1, 2)
    sizes = np.array([report.size_of(trial) for trial in trials], np.float64)
    feasible = np.array([max(t.constraints.values(), default=0.0) <= 0 for t in trials], bool)
    finite = np.isfinite(values).all(axis=1)
    threshold = report.read_threshold(study)
    best = summary.best_trial
    return PhaseTrace(
        summary=summary,
        losses=values[finite, 0],
        accuracies=values[finite, 1],
        sizes=sizes[finite],
        feasible=feasible[finite],
        bar=None if threshold is None else threshold.highest,
        genome=None if best is None else genome_reader(study).read(best),
        seed=_seed(everything),
    )


def _was_evaluated(trial: FrozenTrial) -> bool:
    child = read_child(trial.system_attrs)
    return trial.state == TrialState.COMPLETE and child is not None and not child.is_seed


def _seed(trials: Sequence[FrozenTrial]) -> tuple[str, tuple[float, float]] | None:
    """Return where trial 0 was taken from and what it came to there."""
    if not trials or report.SEEDED_FROM not in trials[0].user_attrs:
        return None
    loss, accuracy = trials[0].values[:2]
    return trials[0].user_attrs[report.SEEDED_FROM], (loss, accuracy)
