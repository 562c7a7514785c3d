"""Votes of genomes' clusters: what is known is not computed again, and relatives help out."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Final

from optuna_wnn.evaluators.cache import Relatives
from optuna_wnn.evaluators.cache import VoteCache
from optuna_wnn.evaluators.difference import Difference
from optuna_wnn.evaluators.difference import difference
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.evaluators.votes import clusters_of
from optuna_wnn.evaluators.votes import connections_of
from optuna_wnn.genome import Genome


_ROOM_BYTES: Final = 1 << 28  # for votes of clusters that are computed together


class VoteFinder:
    """Finds votes in a cache, derives them from those of relatives, or lets them be computed.

    Args:
        cache: What is known.
        cluster_votes: Computes what is not; see :meth:`Evaluator.cluster_votes`.
    """

    def __init__(
        self,
        cache: VoteCache,
        cluster_votes: Callable[[Sequence[Cluster], Reading], list[ClusterVotes]],
    ) -> None:
        self.cache = cache
        self._cluster_votes = cluster_votes
        self._relatives = Relatives()

    def votes(
        self, genomes: Sequence[Genome], reading: Reading
    ) -> Iterator[tuple[list[Cluster], list[ClusterVotes]]]:
        """Yield each genome's clusters and their votes; what is known is not computed again.

        Clusters of several genomes are computed together, as many as their votes fit into a
        bounded room, so that all threads have work.
        """
        most = max(1, _ROOM_BYTES // (8 * len(reading.examples)))
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
        known |= self._compute(missing, reading)
        for clusters in waiting:
            yield clusters, [known[reading.name, cluster.key] for cluster in clusters]
        waiting.clear()
        known.clear()
        missing.clear()

    def _compute(
        self, missing: dict[Hashable, Cluster], reading: Reading
    ) -> dict[Hashable, ClusterVotes]:
        """Return the votes of clusters that are not known.

        Where a cluster shares most of its neurons with one that is known, or that is computed
        here, only the neurons that differ are computed.
        """
        found: dict[Hashable, ClusterVotes] = {}
        whole: dict[Hashable, Cluster] = {}
        changed: dict[Hashable, tuple[Hashable, Difference]] = {}
        for key, cluster in missing.items():
            family = (reading.name, cluster.index, cluster.connections.shape[1])
            hashes = cluster.hashes.tolist()
            base = self._relatives.find(family, hashes)
            change = None
            if base in whole:
                change = difference(cluster, whole[base].connections)
            elif base is not None and (votes := self.cache.get(base)) is not None:
                found[base] = votes
                change = difference(cluster, connections_of(base))
            if base is not None and change is not None:
                changed[key] = base, change
            else:
                whole[key] = cluster
            self._relatives.add(
                family, hashes, base if change is not None and base in whole else key
            )
        alone: dict[Hashable, Cluster] = {}
        for _, change in changed.values():
            for neuron in change.neurons().values():
                alone[reading.name, neuron.key] = neuron
        for key in alone:
            votes = self.cache.get(key)
            if votes is not None:
                found[key] = votes
        wanted = whole | {key: neuron for key, neuron in alone.items() if key not in found}
        computed = self._cluster_votes(list(wanted.values()), reading) if wanted else []
        for key, votes in zip(wanted, computed, strict=True):
            found[key] = votes
            self.cache.put(key, votes)
        for key, (base, change) in changed.items():
            singles = {
                row: found[reading.name, neuron.key] for row, neuron in change.neurons().items()
            }
            found[key] = change.votes(found[base], singles)
            self.cache.put(key, found[key])
        return found
