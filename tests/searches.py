"""Small searches that the tests of the samplers share: an objective, and who runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from optuna.trial import Trial
from optuna.trial import TrialState

from optuna_wnn import Bounds
from optuna_wnn import Genome
from optuna_wnn import GenomeSpace
from optuna_wnn import WNNGeneticSampler
from optuna_wnn import WNNTabuSearchSampler
from optuna_wnn.store.places import Child
from optuna_wnn.store.places import read_child
from optuna_wnn.store.reader import genome_reader


SPACE = GenomeSpace(Bounds(4, 40, (1, 6), (2, 8)))

# The contract holds for every line here: a sampler from a seed, small enough to turn over often.
SAMPLERS: dict[str, Callable[[int | None], BaseSampler]] = {
    "genetic": lambda seed: WNNGeneticSampler(seed=seed, population_size=8),
    "tabu": lambda seed: WNNTabuSearchSampler(seed=seed, n_neighbors=6, n_sources=2),
    "hill": lambda seed: WNNTabuSearchSampler(seed=seed, n_neighbors=1),
}


def loss(genome: Genome) -> float:
    """Return a smooth loss: low inputs, 4 neurons and 5 bits per cluster are best."""
    counts = np.abs(genome.neurons - 4).sum() + np.abs(genome.bits - 5).sum()
    return float(genome.connections.mean() + 0.5 * counts)


def objective(trial: Trial) -> float:
    """Return the loss of a trial's genome."""
    return loss(SPACE.suggest(trial))


def study_of(sampler: BaseSampler, storage: Any = None, **options: Any) -> optuna.Study:
    """Create a study, or load the one that is there."""
    return optuna.create_study(
        storage=storage, study_name="s", load_if_exists=True, sampler=sampler, **options
    )


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were not given up."""
    return [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]


def genomes_of(study: optuna.Study) -> list[Genome]:
    """Return the genomes of the finished trials."""
    reader = genome_reader(study)
    return [reader.read(trial.number) for trial in finished(study)]


def child_of(trial: FrozenTrial) -> Child:
    """Return the place of a trial."""
    child = read_child(trial.system_attrs)
    assert child is not None
    return child


def generations(study: optuna.Study) -> list[list[FrozenTrial]]:
    """Return the trials by generation."""
    trials = study.get_trials(deepcopy=False)
    places = [child_of(trial) for trial in trials]
    newest = max(place.generation for place in places)
    return [
        [t for t, place in zip(trials, places, strict=True) if place.generation == g]
        for g in range(newest + 1)
    ]


def told(study: optuna.Study) -> list[tuple[Any, ...]]:
    """Return what must be the same in two runs: parameters, values and genomes to the byte."""
    pairs = zip(finished(study), genomes_of(study), strict=True)
    return [(trial.params, trial.values, genome.checksum) for trial, genome in pairs]
