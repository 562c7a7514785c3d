"""Votes of genomes' clusters: what is known is not computed again, and relatives help out."""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Iterator
from collections.abc import Sequence

from optuna_wnn.evaluators.cache import Relatives
from optuna_wnn.evaluators.cache import VoteCache
from optuna_wnn.evaluators.difference import Difference
from optuna_wnn.evaluators.difference import difference
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.sharing import ROOM_BYTES
from optuna_wnn.evaluators.sharing import ComputeVotes
from optuna_wnn.evaluators.sharing import shared_votes
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.evaluators.votes import clusters_of
from optuna_wnn.evaluators.votes import connections_of
from optuna_wnn.genome import Genome


class VoteFinder:
    """Finds votes in a cache, derives them from those of relatives, or lets them be computed.

    Args:
        cache: What is known.
        cluster_votes: Computes what is not; see :meth:`Evaluator.cluster_votes`.

    Attributes:
        room_bytes: For votes that are computed together.
    """

    def __init__(
        self,
        cache: VoteCache,
        cluster_votes: ComputeVotes,
    ) -> None:
        self.cache = cache
        self._cluster_votes = cluster_votes
        self._relatives = Relatives()
        self.room_bytes = ROOM_BYTES

    def votes(
        self, genomes: Sequence[Genome], reading: Reading
    ) -> Iterator[tuple[list[Cluster], list[ClusterVotes]]]:
        """Yield each genome's clusters and their votes; what is known is not computed again.

        Clusters of several genomes are computed together, as many as their votes fit into a
        bounded room, so that all threads have work.
        """
        most = max(1, self.room_bytes // (8 * len(reading.examples)))
        waiting: list[list[Cluster]] = []
        known: dict[Hashable, ClusterVotes] = {}
        missing: dict[Hashable, Cluster] = {}
        for genome in genomes:
            clusters = clusters_of(genome)
            for cluster in clusters:
                key = (reading.name, cluster.key)
                votes = self.cache.get(key)
                if votes is not None:
                    known[key] = votes
                elif key not in known:
                    missing[key] = cluster
            waiting.append(clusters)
            if len(known) + len(missing) >= most:
                yield from self._flush(waiting, known, missing, reading)
        yield from self._flush(waiting, known, missing, reading)

    def _flush(
        self,
        waiting: list[list[Cluster]],
        known: dict[Hashable, ClusterVotes],
        missing: dict[Hashable, Cluster],
        reading: Reading,
    ) -> Iterator[tuple[list[Cluster], list[ClusterVotes]]]:
        """Compute what is missing, yield the votes of those who wait, and empty all three."""
        computed, changed = self._compute(missing, reading)
        known |= computed
        for clusters in waiting:
            votes = []
            for cluster in clusters:
                key = reading.name, cluster.key
                if key in known:
                    votes.append(known[key])
                else:
                    votes.append(self._derived(cluster, *changed[key], known, reading))
            yield clusters, votes
        waiting.clear()
        known.clear()
        missing.clear()

    def _derived(
        self,
        cluster: Cluster,
        base: Hashable,
        change: Difference,
        known: dict[Hashable, ClusterVotes],
        reading: Reading,
    ) -> ClusterVotes:
        """Return the votes of a cluster from those of a relative; only the cache keeps them."""
        key = reading.name, cluster.key
        votes: ClusterVotes | None = self.cache.get(key)
        if votes is None:
            singles = {row: known[reading.name, n.key] for row, n in change.neurons.items()}
            votes = change.votes(known[base], singles)
            self.cache.put(key, votes)
        return votes

    def _compute(
        self, missing: dict[Hashable, Cluster], reading: Reading
    ) -> tuple[dict[Hashable, ClusterVotes], dict[Hashable, tuple[Hashable, Difference]]]:
        """Return the votes from which those of all clusters follow that are not known.

        Where a cluster shares most of its neurons with one that is known, only the neurons that
        differ are computed; where several need the same neuron, it is computed once.

        Returns:
            Votes, and which relative the other clusters differ from, and how. What follows is
            left to be made one by one: a thousand neighbours then take no more than their
            thousand new neurons do.
        """
        found: dict[Hashable, ClusterVotes] = {}
        wanted: dict[Hashable, Cluster] = {}
        changed: dict[Hashable, tuple[Hashable, Difference]] = {}
        for key, cluster in missing.items():
            base = self._relatives.find(*_kinship(cluster, reading))
            votes = self.cache.get(base) if base is not None else None
            change = None
            if base is not None and votes is not None:
                change = difference(cluster, connections_of(base))
                if change is not None:
                    found[base], changed[key] = votes, (base, change)
            if change is None:
                wanted[key] = cluster
        for key, cluster in missing.items():
            self._relatives.add(*_kinship(cluster, reading), key)
        for _, change in changed.values():
            for neuron in change.neurons.values():
                key = reading.name, neuron.key
                votes = self.cache.get(key)
                if votes is not None:
                    found[key] = votes
                elif key not in found:
                    wanted[key] = neuron
        computed = shared_votes(
            list(wanted.values()), reading, self._cluster_votes, self.room_bytes
        )
        for key, votes in zip(wanted, computed, strict=True):
            found[key] = votes
            self.cache.put(key, votes)
        return found, changed


def _kinship(cluster: Cluster, reading: Reading) -> tuple[Hashable, list[int]]:
    """Return what the relatives of a cluster have in common with it, and its neurons' hashes."""
    return (reading.name, cluster.index, cluster.connections.shape[1]), cluster.hashes.tolist()
