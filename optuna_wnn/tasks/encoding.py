"""Numbers as bits: codes of features whose parameters are learnt from training rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.tasks.base import pack_bits


ENCODINGS: Final = ("quantile", "uniform", "binary")

_BLOCK: Final = 4096  # rows encoded at a time: bounds the unpacked bits in memory
_MOST_BINARY: Final = 32  # bits of a number: more tell nothing of a float64


@dataclass(frozen=True, eq=False)
class Thermometer:
    """Bit ``t`` of a feature says that its value is above the ``t``-th threshold.

    Attributes:
        thresholds: ``float64[F, T]``, ascending along ``T``.
    """

    thresholds: NDArray[np.float64]

    @property
    def n_bits(self) -> int:
        """``T``, the bits of a feature."""
        return int(self.thresholds.shape[1])

    def bits(self, features: NDArray[Any]) -> NDArray[np.bool_]:
        """Return the code of every row ``[E, F]``: ``bool[E, F * T]``, bit ``f * T + t``."""
        above = features[:, :, None] > self.thresholds
        return above.reshape(len(features), self.thresholds.size)


@dataclass(frozen=True, eq=False)
class Binary:
    """A feature's place in its training range, one of ``2**n_bits``, most significant bit first.

    Attributes:
        low: The least training value of each feature, ``float64[F]``.
        high: The largest.
        n_bits: Bits of a feature.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n_bits: int

    def bits(self, features: NDArray[Any]) -> NDArray[np.bool_]:
        """Return the code of every row ``[E, F]``: ``bool[E, F * n_bits]``."""
        # Halves first: the range of a float64 can be beyond what one can hold.
        half = self.high / 2 - self.low / 2
        share = (features / 2 - self.low / 2) / np.where(half > 0, half, 1.0)
        place = np.clip(share * 2.0**self.n_bits, 0, 2.0**self.n_bits - 1).astype(np.int64)
        shifts = np.arange(self.n_bits - 1, -1, -1)
        ones = (place[:, :, None] >> shifts & 1).astype(bool)
        return ones.reshape(len(features), -1)


Encoding = Thermometer | Binary


def learn_encoding(kind: str, features: NDArray[Any], n_bits: int) -> Encoding:
    """Return the code of features that fits their training rows.

    Args:
        kind: ``quantile`` puts a thermometer's thresholds where they cut the training values of
            each feature into equally many (a *distributive* thermometer), ``uniform`` where they
            cut their range into equal lengths; ``binary`` numbers ``2**n_bits`` equal lengths.
        features: The training rows, ``[E, F]``.
        n_bits: Input bits per feature.

    Raises:
        InputError: If a binary code has more than 32 bits.
    """
    if kind == "quantile":
        return Thermometer(np.quantile(features, _steps(n_bits), axis=0).T.astype(np.float64))
    low, high = features.min(0).astype(np.float64), features.max(0).astype(np.float64)
    if kind == "binary":
        if n_bits > _MOST_BINARY:
            raise InputError(
                f"task.thresholds: {n_bits} bits are too many for a binary code; give at most "
                f"{_MOST_BINARY}"
            )
        return Binary(low, high, n_bits)
    return Thermometer(low[:, None] + (high - low)[:, None] * _steps(n_bits))


def _steps(count: int) -> NDArray[np.float64]:
    return np.arange(1, count + 1) / (count + 1)


def packed(encoding: Encoding, features: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the packed code of rows ``[E, F]``, ``uint64[E, ceil(B / 64)]``."""
    blocks = range(0, max(len(features), 1), _BLOCK)
    return np.concatenate([pack_bits(encoding.bits(features[i : i + _BLOCK])) for i in blocks])
