"""What passes between an evaluator and its backend: clusters in, summed votes out."""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar
from typing import cast

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.genome import Genome


T = TypeVar("T", bound=np.integer)


@dataclass(frozen=True, eq=False)
class Cluster:
    """One cluster of some genome, its neurons in an order that depends on content alone.

    Attributes:
        index: Which cluster of the head it is, in ``[0, K)``.
        connections: The inputs of its neurons, ascending in each, ``int32[n, bits]``.
        hashes: What each neuron observes, as a hash; ascending, ``uint64[n]``.
        order: Where each of these neurons stands in the genome's cluster, ``int64[n]``.
    """

    index: int
    connections: NDArray[np.int32]
    hashes: NDArray[np.uint64]
    order: NDArray[np.int64]

    @cached_property
    def key(self) -> Hashable:
        """What distinguishes it from clusters that compute something else: its connections."""
        return self.index, self.connections.shape, self.connections.tobytes()


@dataclass(frozen=True, eq=False)
class ClusterVotes:
    """What a cluster's neurons vote.

    Attributes:
        sums: Summed over neurons, per example read, ``int64[E]``.
        scores: Summed over the negative and over the positive examples read, per neuron in the
            order of :class:`Cluster`, ``int64[n, 2]``.
    """

    sums: NDArray[np.int64]
    scores: NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        return self.sums.nbytes + self.scores.nbytes


@dataclass(frozen=True, eq=False)
class OutputClusters:
    """The clusters that vote for one output of the head.

    Attributes:
        index: Which output it is, in ``[0, U)``.
        clusters: Its clusters, in their order.
    """

    index: int
    clusters: Sequence[Cluster]

    @cached_property
    def key(self) -> Hashable:
        """What distinguishes it from outputs that compute something else: its clusters' keys."""
        if len(self.clusters) == 1:
            return self.clusters[0].key
        return tuple(cluster.key for cluster in self.clusters)

    @property
    def neurons(self) -> list[int]:
        """How many neurons each of its clusters has."""
        return [len(cluster.hashes) for cluster in self.clusters]


def outputs_of(clusters: Sequence[Cluster], per_output: int) -> list[OutputClusters]:
    """Return the outputs that all clusters of a genome vote for."""
    firsts = range(0, len(clusters), per_output)
    return [
        OutputClusters(k, clusters[first : first + per_output]) for k, first in enumerate(firsts)
    ]


def added_up(numbers: NDArray[T], per_output: int) -> NDArray[T]:
    """Return numbers of clusters added up by output.

    Args:
        numbers: Integers of any kind, ``[K, ...]``.
        per_output: Clusters of an output.

    Returns:
        The sums, ``[U, ...]``; with one cluster per output, what was given.
    """
    if per_output == 1:
        return numbers
    by_output = numbers.reshape(-1, per_output, *numbers.shape[1:])
    sums: NDArray[T] = by_output.sum(axis=1, dtype=numbers.dtype)
    return sums


def connections_of(key: Hashable) -> NDArray[np.int32]:
    """Return the connections that are part of a cluster's key within a reading."""
    _, (_, shape, content) = cast("tuple[str, tuple[int, tuple[int, int], bytes]]", key)
    return np.frombuffer(content, np.int32).reshape(shape)


def clusters_of(genome: Genome) -> list[Cluster]:
    """Return all clusters of ``genome``."""
    return [cluster_of(genome, k) for k in range(genome.n_clusters)]


def cluster_of(genome: Genome, index: int) -> Cluster:
    """Return one cluster of ``genome``."""
    first, last = genome.cluster_starts[index], genome.cluster_starts[index + 1]
    hashes = genome.neuron_hashes[first:last]
    order = np.argsort(hashes, kind="stable")
    return Cluster(
        index=index,
        connections=genome.cluster(index)[order],
        hashes=hashes[order],
        order=order,
    )


def lone_cluster(index: int, connections: NDArray[np.int32]) -> Cluster:
    """Return the cluster with the given connections, ``int32[n, bits]`` ascending in a row."""
    genome = Genome.of_clusters([connections])
    cluster = cluster_of(genome, 0)
    return Cluster(index, cluster.connections, cluster.hashes, cluster.order)
