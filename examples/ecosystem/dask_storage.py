"""Workers of a Dask cluster share one study: python examples/ecosystem/dask_storage.py."""

from __future__ import annotations

import logging

import optuna
from dask.distributed import Client
from dask.distributed import LocalCluster
from dask.distributed import wait
from optuna_integration import DaskStorage
from problem import n_trials
from problem import objective

from optuna_wnn import WNNGeneticSampler
from optuna_wnn import genome


def main() -> None:
    """Run a study on two workers; give Client the address of your own scheduler instead."""
    # A sampler that looks for a trial which is not there yet is no error, but Dask logs it as one.
    logging.getLogger("distributed.core").setLevel(logging.CRITICAL)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        study = optuna.create_study(
            storage=DaskStorage(client=client),
            sampler=WNNGeneticSampler(seed=0, population_size=6),
        )
        share = -(-n_trials() // 2)
        wait([client.submit(study.optimize, objective, share, pure=False) for _ in range(2)])
        found = genome(study.best_trial, study)
        print(f"{len(study.trials)} trials, best {study.best_value:.4f}: {found}")


if __name__ == "__main__":
    main()
