"""Ray Tune runs the trials, and the genetic sampler proposes them.

Ray hands parameters to its workers, not genomes: they look the genome up in the study's storage
by the parameter ``genome``, which names it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import optuna
from problem import n_trials
from problem import space
from ray import tune
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

import optuna_wnn


def propose(trial: Any) -> None:
    """Store the genome that the sampler gives out; its name is among the trial's parameters.

    Ray hands over a trial of its own around Optuna's, which notes the parameters.
    """
    optuna_wnn.set_genome(trial.ot_trial, space.suggest(trial.ot_trial))
    space.suggest(trial)


def trainable(config: dict[str, Any], url: str = "") -> dict[str, float]:
    """Evaluate the genome that a configuration names."""
    from problem import evaluator  # in the worker: it has threads, and is not sent there

    study = optuna.load_study(study_name="ray", storage=optuna_wnn.open_storage(url))
    named = (t for t in study.get_trials(deepcopy=False) if t.params == config)
    result = evaluator.evaluate(optuna_wnn.genome(next(named), study))
    return {"cross_entropy": result.cross_entropy}


def main() -> None:
    """Tune on this machine, two trials at a time."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder).as_posix()}/ray.db"
        search = OptunaSearch(
            propose,
            metric="cross_entropy",
            mode="min",
            sampler=optuna_wnn.WNNGeneticSampler(seed=0, population_size=6),
            storage=optuna_wnn.open_storage(url),
            study_name="ray",
        )
        tuner = tune.Tuner(
            tune.with_parameters(trainable, url=url),
            tune_config=tune.TuneConfig(
                metric="cross_entropy",
                mode="min",
                search_alg=ConcurrencyLimiter(search, max_concurrent=2),
                num_samples=n_trials(),
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        results = tuner.fit()
        best = results.get_best_result().metrics
        print(f"{len(results)} trials, best {best['cross_entropy']:.4f}")


if __name__ == "__main__":
    main()
