"""Hydra's Optuna sweeper with this package's sampler: python hydra_app.py --multirun.

Needs hydra-optuna-sweeper 1.4 (``pip install --pre hydra-optuna-sweeper``). Hydra hands over
parameters only, so what it searches are settings, here of one random network.
"""

from __future__ import annotations

from dataclasses import dataclass

import hydra
from hydra.core.config_store import ConfigStore
from hydra_plugins.hydra_optuna_sweeper.config import SamplerConfig
from omegaconf import DictConfig
from problem import space
from problem import task

from optuna_wnn import MemorySettings
from optuna_wnn.evaluators import create_evaluator


@dataclass
class GeneticSamplerConfig(SamplerConfig):
    """The sampler's arguments that a configuration may set."""

    _target_: str = "optuna_wnn.WNNGeneticSampler"
    seed: int | None = None
    population_size: int = 50
    mutation_rate: float = 0.1


ConfigStore.instance().store("wnn_genetic", GeneticSamplerConfig, "hydra/sweeper/sampler")


# Hydra 1.4 creates objects of its own packages only, unless the program lists others.
@hydra.main(
    config_path=".",
    config_name="hydra_app",
    execution_whitelist=["optuna_wnn.*"],
)
def main(config: DictConfig) -> float:
    """Return the cross-entropy of the wiring that a number seeds, under some settings."""
    memory = MemorySettings(vote=config.vote, prior=config.prior)
    evaluator = create_evaluator(task, memory, threads=1)
    return evaluator.evaluate(space.seeded(config.wiring)).cross_entropy


if __name__ == "__main__":
    main()
