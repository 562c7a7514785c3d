"""Search weightless neural networks with Optuna."""

from __future__ import annotations

from importlib.metadata import version

from optuna_wnn.errors import InputError
from optuna_wnn.fitness import Fitness
from optuna_wnn.fitness import FitnessCalculatorType
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings
from optuna_wnn.network import RAMNetwork
from optuna_wnn.samplers import WNNGeneticSampler
from optuna_wnn.samplers import WNNTabuSearchSampler
from optuna_wnn.schedule import AdaptiveScaling
from optuna_wnn.schedule import Threshold
from optuna_wnn.space import GenomeSpace
from optuna_wnn.space import genome
from optuna_wnn.space import set_genome
from optuna_wnn.storages import open_storage
from optuna_wnn.tasks import load_task


__version__ = version("optuna-wnn")

__all__ = [
    "AdaptiveScaling",
    "Bounds",
    "Fitness",
    "FitnessCalculatorType",
    "Genome",
    "GenomeSpace",
    "InputError",
    "MemorySettings",
    "RAMNetwork",
    "Threshold",
    "WNNGeneticSampler",
    "WNNTabuSearchSampler",
    "__version__",
    "genome",
    "load_task",
    "open_storage",
    "set_genome",
]
