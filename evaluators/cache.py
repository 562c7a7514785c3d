"""What was computed before, the least recently used forgotten first, and who resembles whom."""

from __future__ import annotations

from collections import Counter
from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Any
from typing import Protocol

import psutil


_SHARE_OF_MEMORY = 16


class Sized(Protocol):
    """Something that says how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        ...


class VoteCache:
    """Votes, and what heads make of them, by key; one budget for all.

    Args:
        capacity: Most bytes; ``None`` takes a sixteenth of the machine's memory.
    """

    def __init__(self, capacity: int | None = None) -> None:
        if capacity is None:
            capacity = psutil.virtual_memory().total // _SHARE_OF_MEMORY
        self.capacity = capacity
        self.nbytes = 0
        self._kept: OrderedDict[Hashable, Sized] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable) -> Any | None:
        """Return what was put under ``key`` if it is still known."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
            return kept

    def take(self, key: Hashable) -> Any | None:
        """Return what was put under ``key``, if it is still known, and forget it."""
        with self._lock:
            kept = self._kept.pop(key, None)
            if kept is not None:
                self.nbytes -= kept.nbytes
            return kept

    def put(self, key: Hashable, kept: Sized) -> None:
        """Remember something, and forget old things until all fit."""
        with self._lock:
            if key in self._kept or kept.nbytes > self.capacity:
                return
            self._kept[key] = kept
            self.nbytes += kept.nbytes
            while self.nbytes > self.capacity:
                self.nbytes -= self._kept.popitem(last=False)[1].nbytes


class Relatives:
    """Which cluster had a neuron last: a hint where most of a new cluster is known already.

    Args:
        most: Neurons after which everything is forgotten; a hint that is missing costs time only.
    """

    def __init__(self, most: int = 1 << 19) -> None:
        self._most = most
        self._size = 0
        self._of: dict[Hashable, dict[int, Hashable]] = {}

    def add(self, family: Hashable, hashes: list[int], key: Hashable) -> None:
        """Remember that cluster ``key`` has the neurons with these hashes.

        Args:
            family: Only clusters of one family can be relatives.
            hashes: Of the cluster's neurons.
            key: The cluster.
        """
        if self._size > self._most:
            self._of.clear()
            self._size = 0
        last = self._of.setdefault(family, {})
        before = len(last)
        last.update(dict.fromkeys(hashes, key))
        self._size += len(last) - before

    def find(self, family: Hashable, hashes: list[int]) -> Hashable | None:
        """Return the cluster that had most of these neurons last, if it had half of them."""
        last = self._of.get(family)
        if not last:
            return None
        found = Counter(filter(None, map(last.get, hashes)))
        if not found:
            return None
        key, count = found.most_common(1)[0]
        return key if 2 * count >= len(hashes) else None
