"""The C yardstick of ``benchmarks/evaluation.py``: built here, never shipped."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Limit:
    """Plain C that trains and reads networks whose clusters are all alike.

    Args:
        folder: Where the compiled library goes.
        threads: How many threads it uses.

    Raises:
        RuntimeError: If this machine has no C compiler, or its processor no ``pext``.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise RuntimeError("no C compiler (cc) is installed")
        library = folder / "limit.so"
        source = Path(__file__).with_name("limit.c")
        options = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        made = subprocess.run(
            [compiler, *options, str(source), "-o", str(library)], capture_output=True, text=True
        )
        if made.returncode:
            raise RuntimeError(f"limit.c: {made.stderr.strip().splitlines()[0]}")
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ["OMP_WAIT_POLICY"] = "passive"  # a thread that waits takes no CPU seconds
        self._library = ctypes.CDLL(str(library))

    def variants(self, kind: str, n_words: int) -> list[str]:
        """Return the functions that compute cells of a kind; which is fastest depends on bits."""
        if n_words > 1:
            return ["counters_words"] if kind == "counter" else []
        if kind == "counter":
            return ["counters_1", "counters_4", "counters_8", "counters_packed"]
        return ["counts_1", "counts_2", "counts_4"] if kind == "share" else []

    def run(
        self,
        variant: str,
        train: NDArray[np.uint64],
        positives: NDArray[np.uint8],
        read: NDArray[np.uint64],
        connections: NDArray[np.int32],
    ) -> NDArray[np.uint32]:
        """Return the sums of votes, ``uint32[K, V]``.

        Args:
            variant: One of :meth:`variants`.
            train: Inputs, a word of all examples at a time: ``uint64[words, E]``.
            positives: Which of them are positive ones of each cluster, ``uint8[K, E]``.
            read: Inputs that are read, ``uint64[words, V]``.
            connections: ``int32[K, neurons, bits]``.
        """
        n_clusters, per_cluster, bits = connections.shape
        sums = np.zeros((n_clusters, read.shape[1]), np.uint32)
        self._library[variant](
            _pointer(train), _pointer(positives), ctypes.c_long(train.shape[1]),
            _pointer(read), ctypes.c_long(read.shape[1]), _pointer(connections),
            n_clusters, per_cluster, bits, _pointer(sums),
        )  # fmt: skip
        return sums


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.c_void_p)
