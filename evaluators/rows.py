"""What is kept of neurons between climbs: their counts and votes, least recently used first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.recount import Counted


@dataclass(frozen=True)
class RowShape:
    """What a row must have room for.

    Attributes:
        reading: Name of what is read.
        n_bits: Most bits of a neuron.
        n_train: How many examples train; 0 where neurons are not counted.
        n_read: How many examples are read.
        left_out: Whether the training examples are read.
    """

    reading: str
    n_bits: int
    n_train: int
    n_read: int
    left_out: bool

    @property
    def _address(self) -> type[np.unsignedinteger]:
        if self.n_bits <= 8:
            return np.uint8
        return np.uint16 if self.n_bits <= 16 else np.uint32

    @property
    def _widths(self) -> tuple[int, int, int, int]:
        """How long a row of ``train``, ``read``, ``cells`` and ``seen`` is."""
        if not self.n_train:
            return 0, 0, 0, 0
        n_cells = 1 << self.n_bits
        return self.n_train, self.n_read, n_cells, max(1, n_cells // 64)

    @property
    def nbytes(self) -> int:
        """The memory that a row takes."""
        train, read, cells, seen = self._widths
        addresses = train + (0 if self.left_out else read)
        return (
            addresses * np.dtype(self._address).itemsize
            + 8 * (cells + seen)
            + 4 * (self.n_read + self.n_bits)
        )

    def make(self, n_rows: int) -> Counted:
        """Return so many rows; memory that is not written is not taken."""
        train, read, cells, seen = self._widths
        addresses = np.empty((n_rows, train), self._address)
        return Counted(
            votes=np.empty((n_rows, self.n_read), np.int32),
            slots=np.empty((n_rows, self.n_bits), np.int32),
            train=addresses,
            read=addresses if self.left_out else np.empty((n_rows, read), self._address),
            cells=np.empty((n_rows, cells), np.uint64),
            seen=np.empty((n_rows, seen), np.uint64),
        )


class Rows:
    """Rows for neurons, and which neuron is in which.

    Args:
        shape: What a row has room for.
        n_rows: How many there are.
    """

    def __init__(self, shape: RowShape, n_rows: int) -> None:
        self.shape = shape
        self.kept = shape.make(n_rows)
        self.n_rows = n_rows
        self._free = list(range(n_rows))
        self._known: OrderedDict[Hashable, int] = OrderedDict()
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """The memory that they take once all are written."""
        return self.n_rows * self.shape.nbytes

    def take(self, keys: Sequence[Hashable]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return a row for each neuron, to be given back, and whether it is in there already."""
        with self._lock:
            rows = [self._known.pop(key, -1) for key in keys]
            known = np.array(rows) >= 0
            for i in np.flatnonzero(~known):
                rows[i] = self._free.pop() if self._free else self._known.popitem(last=False)[1]
        return np.array(rows, np.int64), known

    def give_back(self, keys: Sequence[Hashable], rows: NDArray[np.int64]) -> None:
        """Give rows back that hold these neurons now."""
        with self._lock:
            for key, row in zip(keys, rows.tolist(), strict=True):
                if key in self._known:
                    self._free.append(row)
                else:
                    self._known[key] = row
