"""What a sampler keeps of a study while it samples for it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from optuna_wnn.genome import Genome
from optuna_wnn.samplers.history import History
from optuna_wnn.schedule import Plan
from optuna_wnn.space import GenomeSpace
from optuna_wnn.store.places import Child


@dataclass(frozen=True)
class Start:
    """What a sampler knows when a generation starts; a pure function of those before it.

    Attributes:
        plan: Threshold, level, population and mutation rate of the generation.
        best: The lowest loss of each objective before the generation, ``float64[m]``.
        state: What the algorithm itself knows.
    """

    plan: Plan
    best: NDArray[np.float64]
    state: Any


@dataclass(frozen=True)
class Held:
    """What a sampler keeps of a running trial: a look into the storage costs milliseconds.

    Attributes:
        child: Its place.
        genome: Its genome, if it has one yet.
        is_named: Whether ``enqueue_trial`` fixed its parameter ``genome``.
    """

    child: Child
    genome: Genome | None
    is_named: bool


class KnownStudy:
    """What a sampler keeps of one study; all of it can be had from the storage again."""

    def __init__(self, study: optuna.Study) -> None:
        self.lock = threading.RLock()
        self.history = History(study)
        self.space = GenomeSpace.read(study)
        self.seed: int | None = None
        self.in_flight: dict[int, Held] = {}  # by number of the trial
        self.starts: list[Start] = []  # by generation
        self.planned: set[int] = set()  # generations whose plan is in the storage
