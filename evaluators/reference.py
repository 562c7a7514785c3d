"""The definition of what a RAM network computes, in plain NumPy: short, right, and slow.

Every other backend is tested against this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.base import Evaluator
from optuna_wnn.evaluators.cells import sample_keys
from optuna_wnn.evaluators.cells import sampled
from optuna_wnn.evaluators.plain import neuron_votes
from optuna_wnn.evaluators.plain import number_cells
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.tasks.base import unpack_bits


class ReferenceEvaluator(Evaluator):
    """Evaluates with NumPy alone, one neuron at a time."""

    backend: ClassVar[str] = "reference"

    def cluster_votes(self, clusters: Sequence[Cluster], reading: Reading) -> list[ClusterVotes]:
        train = unpack_bits(self.task.train.inputs[: reading.n_trained], self.task.n_inputs)
        read = unpack_bits(reading.examples.inputs, self.task.n_inputs)
        return [self._votes_of(cluster, train, read, reading) for cluster in clusters]

    def _votes_of(
        self,
        cluster: Cluster,
        train: NDArray[np.uint8],
        read: NDArray[np.uint8],
        reading: Reading,
    ) -> ClusterVotes:
        written = self.trained_positives(reading, cluster.index)
        wanted = self.positives(reading, cluster.index)
        trained_on = self.trained_on(reading, cluster.index)
        votes, rule = [], self.cells.of_cluster(cluster.index)
        keys = sample_keys(cluster.hashes, self.memory.sample_seed)
        for observed, key in zip(cluster.connections, keys, strict=True):
            cells = number_cells(np.concatenate([train[:, observed], read[:, observed]]))
            train_cells, read_cells = cells[: len(train)], cells[len(train) :]
            kept = np.ones(len(train), bool)
            if trained_on is not None:
                kept = np.isin(np.arange(len(train)), trained_on)
            if self.memory.sample_rate < 1:
                kept = sampled(key, len(train), self.memory.sample_rate)
            votes.append(
                neuron_votes(rule, train_cells, written, kept, read_cells, reading.blocks)
            )
        table = np.array(votes)
        scores = np.stack([table[:, wanted == 0].sum(1), table[:, wanted == 1].sum(1)], axis=1)
        return ClusterVotes(table.sum(axis=0), scores)
