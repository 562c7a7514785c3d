"""Neurons that several clusters have in common: each is computed once, for all of them.

Clusters are cut into parts: the neurons that exactly the same clusters have. Votes are integers,
so adding up the votes of its parts gives a cluster the votes that it has as a whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.difference import rows_of
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes


ComputeVotes = Callable[[Sequence[Cluster], Reading], list[ClusterVotes]]

ROOM_BYTES: Final = 1 << 28  # for votes that are computed together, unless a backend has more


@dataclass(frozen=True, eq=False)
class Part:
    """Neurons that exactly the same clusters have.

    Attributes:
        cluster: These neurons, as a cluster.
        owners: Which of the clusters have them, and where there: a number and ``int64[n]``.
            One that has every one of them twice is named twice.
    """

    cluster: Cluster
    owners: list[tuple[int, NDArray[np.int64]]]


def cut(clusters: Sequence[Cluster]) -> list[Part]:
    """Return parts in which no neuron of an output comes twice; together they are the clusters.

    Neurons can be shared only by clusters of the same output: what is a positive example differs
    between outputs.
    """
    families: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, cluster in enumerate(clusters):
        families[cluster.index, cluster.connections.shape[1]].append(number)
    parts = []
    for numbers in families.values():
        hashes = np.sort(np.concatenate([clusters[number].hashes for number in numbers]))
        if (hashes[1:] == hashes[:-1]).any():
            parts += _cut_family(clusters, numbers)
        else:
            parts += [_whole(clusters[number], number) for number in numbers]
    return parts


def _whole(cluster: Cluster, number: int) -> Part:
    return Part(cluster, [(number, np.arange(len(cluster.hashes)))])


def _cut_family(clusters: Sequence[Cluster], numbers: list[int]) -> list[Part]:
    """Do what :func:`cut` does for clusters of one output and of one width."""
    places: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for number in numbers:
        for position, row in enumerate(rows_of(clusters[number].connections)):
            places[row].append((number, position))
    together: dict[tuple[int, ...], list[list[int]]] = defaultdict(list)
    for found in places.values():
        together[tuple(number for number, _ in found)].append([where for _, where in found])
    parts = []
    for owners, positions in together.items():
        each = np.array(positions, np.int64).T
        first = clusters[owners[0]]
        cluster = Cluster(
            first.index,
            first.connections[each[0]],
            first.hashes[each[0]],
            np.arange(each.shape[1]),
        )
        parts.append(Part(cluster, list(zip(owners, each, strict=True))))
    return parts


def shared_votes(
    clusters: Sequence[Cluster], reading: Reading, compute: ComputeVotes, room_bytes: int
) -> list[ClusterVotes]:
    """Return the votes of clusters; no neuron that they share is computed twice.

    Args:
        clusters: Of any genomes.
        reading: Which examples write the memory and which are read.
        compute: See :meth:`Evaluator.cluster_votes`.
        room_bytes: For votes that are computed together; all clusters' are, however many.
    """
    results: list[ClusterVotes | None] = [None] * len(clusters)
    parts = cut(clusters)
    at_once = max(len(clusters), room_bytes // (8 * len(reading.examples)), 1)
    for first in range(0, len(parts), at_once):
        some = parts[first : first + at_once]
        computed = compute([part.cluster for part in some], reading)
        for part, votes in zip(some, computed, strict=True):
            if part.cluster is clusters[part.owners[0][0]]:
                results[part.owners[0][0]] = votes
                continue
            for number, positions in part.owners:
                known = results[number]
                if known is None:
                    n_neurons = len(clusters[number].hashes)
                    known = ClusterVotes(votes.sums.copy(), np.empty((n_neurons, 2), np.int64))
                    results[number] = known
                else:
                    known.sums[:] += votes.sums
                known.scores[positions] = votes.scores
    return [votes for votes in results if votes is not None]
