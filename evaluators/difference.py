"""A cluster's votes from those of a relative: neurons that left subtracted, new ones added.

Votes are integers, so the result is the same as computing the whole cluster. A neuron alone is a
cluster of one: that is how the votes of single neurons are computed, named and cached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.evaluators.votes import lone_cluster


@dataclass(frozen=True, eq=False)
class Difference:
    """What distinguishes two clusters of the same width, neuron by neuron.

    Attributes:
        cluster: The cluster that is wanted.
        base: The connections of the one that is known, in the order of its scores.
        added: Neurons that only the wanted one has, as bytes.
        removed: Neurons that only the known one has.
    """

    cluster: Cluster
    base: NDArray[np.int32]
    added: list[bytes]
    removed: list[bytes]

    @cached_property
    def neurons(self) -> dict[bytes, Cluster]:
        """The neurons that differ, each as a cluster of one."""
        index, n_bits = self.cluster.index, self.base.shape[1]
        return {
            row: lone_cluster(index, np.frombuffer(row, np.int32).reshape(1, n_bits))
            for row in (*self.added, *self.removed)
        }

    def votes(self, base: ClusterVotes, alone: Mapping[bytes, ClusterVotes]) -> ClusterVotes:
        """Return the votes of the cluster.

        Args:
            base: The votes of the cluster that is known.
            alone: The votes of the neurons that differ.
        """
        sums = base.sums.copy()
        for row in self.added:
            sums += alone[row].sums
        for row in self.removed:
            sums -= alone[row].sums
        scores = dict(zip(rows_of(self.base), base.scores, strict=True))
        scores |= {row: votes.scores[0] for row, votes in alone.items()}
        return ClusterVotes(
            sums, np.array([scores[row] for row in rows_of(self.cluster.connections)])
        )


def rows_of(connections: NDArray[np.int32]) -> list[bytes]:
    """Return every neuron's connections as bytes."""
    size = connections.shape[1] * connections.itemsize
    whole = connections.tobytes()
    return [whole[first : first + size] for first in range(0, len(whole), size)]


def difference(cluster: Cluster, base: NDArray[np.int32]) -> Difference | None:
    """Return what distinguishes a cluster from a known one, if that is less than the cluster."""
    if base.shape[1] != cluster.connections.shape[1]:
        return None
    wanted, known = Counter(rows_of(cluster.connections)), Counter(rows_of(base))
    added, removed = list((wanted - known).elements()), list((known - wanted).elements())
    if 2 * (len(added) + len(removed)) > len(cluster.hashes):
        return None
    return Difference(cluster, base, added, removed)
