"""Votes of clusters that were computed before, the least recently used forgotten first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock

import psutil

from optuna_wnn.evaluators.votes import ClusterVotes


_SHARE_OF_MEMORY = 16


class VoteCache:
    """Votes by key: what was read, and the cluster (see :attr:`Cluster.key`).

    Args:
        capacity: Most bytes of votes; ``None`` takes a sixteenth of the machine's memory.
    """

    def __init__(self, capacity: int | None = None) -> None:
        if capacity is None:
            capacity = psutil.virtual_memory().total // _SHARE_OF_MEMORY
        self.capacity = capacity
        self.nbytes = 0
        self._votes: OrderedDict[Hashable, ClusterVotes] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._votes)

    def get(self, key: Hashable) -> ClusterVotes | None:
        """Return the votes of ``key`` if they are known."""
        with self._lock:
            votes = self._votes.get(key)
            if votes is not None:
                self._votes.move_to_end(key)
            return votes

    def put(self, key: Hashable, votes: ClusterVotes) -> None:
        """Remember votes, and forget old ones until all fit."""
        with self._lock:
            if key in self._votes or votes.nbytes > self.capacity:
                return
            self._votes[key] = votes
            self.nbytes += votes.nbytes
            while self.nbytes > self.capacity:
                self.nbytes -= self._votes.popitem(last=False)[1].nbytes
