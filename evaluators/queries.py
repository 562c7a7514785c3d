"""Votes at inputs that no example has, compiled: for the accuracy of ``chained_bits``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cpu_kernels import RUN
from optuna_wnn.evaluators.cpu_kernels import mix
from optuna_wnn.evaluators.cpu_kernels import plan_address
from optuna_wnn.evaluators.cpu_kernels import read_cells
from optuna_wnn.evaluators.cpu_kernels import write_cells
from optuna_wnn.evaluators.general import DENSE_BITS
from optuna_wnn.evaluators.general import locate
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.readings import Reading


U = np.uint64


def left_out_runs(
    reading: Reading, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what is left out of the memory for which queries.

    Args:
        reading: Says which blocks there are.
        rows: Which of its examples the queries stand for, ascending.

    Returns:
        The first training example and the end of every block with queries, ``int64[R, 2]``
        (one empty block where nothing is left out), and where its queries start, and their end,
        ``int64[R + 1]``.
    """
    if reading.blocks is None:
        return np.zeros((1, 2), np.int64), np.array([0, len(rows)])
    block = np.searchsorted(reading.blocks, rows + reading.blocks[0], "right") - 1
    asked, starts = np.unique(block, return_index=True)
    runs = np.stack([reading.blocks[asked], reading.blocks[asked + 1]], axis=1)
    return runs, np.append(starts, len(rows)).astype(np.int64)


@compiled
def query_sums(
    connections: Any, keys: Any, threshold: Any, train: Any, positives: Any, runs: Any,
    queries: Any, starts: Any, kind: int, start: Any, down: Any, up: Any, votes: Any, table: Any,
    n_levels: Any, use_pext: bool, sums: Any,
) -> None:  # fmt: skip
    """Train neurons one after the other and add up what they vote on queries.

    Args:
        connections: ``int32[n, bits]``, ascending in each row.
        keys: See :func:`general_votes`, as for all that is not said here.
        threshold: See there.
        train: Packed inputs that write, ``uint64[E, words]``.
        positives: Which of them are positive, ``uint8[E]``.
        runs: What is left out; see :func:`left_out_runs`.
        queries: Packed inputs that are read, ``uint64[Q, words]``.
        starts: Which of them belong to each run.
        kind: Of the cells.
        start: A cell before training.
        down: Next state after a negative example.
        up: The same after a positive one.
        votes: Vote by state.
        table: Vote by levels.
        n_levels: Levels of each count.
        use_pext: How addresses are found.
        sums: Added to, ``int64[Q]``.
    """
    n_neurons, n_bits = connections.shape
    n_train = len(train)
    most_steps = min(n_bits, 64)
    n_steps = np.zeros(2, np.int64)
    steps = np.empty((2, most_steps, 3), np.uint64)
    luts = np.empty((2, 0 if use_pext else most_steps, 256), np.uint64)
    addresses = np.empty((2, RUN), np.uint64)
    nobody = np.zeros(len(queries), np.uint8)
    score = np.zeros(2, np.int64)
    if n_bits <= DENSE_BITS:
        cells = np.empty(1 << n_bits, np.uint64)
        slots = np.empty(0, np.int32)
        known = np.empty((0, 2), np.uint64)
    else:
        cells = np.empty(n_train + 1, np.uint64)
        size = 16
        while size < 2 * n_train:
            size *= 2
        slots = np.empty(size, np.int32)
        known = np.empty((n_train + 1, 2), np.uint64)
    one = U(1)
    for n in range(n_neurons):
        n_steps[0] = plan_address(connections[n], 0, min(n_bits, 64), use_pext, steps[0], luts[0])
        n_steps[1] = plan_address(connections[n], 64, n_bits, use_pext, steps[1], luts[1])
        cells[:] = start
        slots[:] = 0
        n_known = 0
        key = mix(keys[n])
        for first in range(0, n_train, RUN):
            count = min(RUN, n_train - first)
            n_known = locate(
                train, first, count, use_pext, n_steps, steps, luts, addresses, slots, known,
                n_known, True,
            )  # fmt: skip
            write_cells(
                cells, addresses[0], first, count, positives, kind, down, up, key, threshold, one
            )
        for run in range(len(runs)):
            # Take the run's examples out, read its queries, and put them back.
            for turn in range(3):
                inputs = queries if turn == 1 else train
                low = starts[run] if turn == 1 else runs[run, 0]
                high = starts[run + 1] if turn == 1 else runs[run, 1]
                for first in range(low, high, RUN):
                    count = min(RUN, high - first)
                    locate(
                        inputs, first, count, use_pext, n_steps, steps, luts, addresses, slots,
                        known, n_known, False,
                    )  # fmt: skip
                    if turn == 1:
                        read_cells(
                            cells, addresses[0], first, count, kind, votes, table, n_levels,
                            nobody, sums, score,
                        )  # fmt: skip
                    else:
                        write_cells(
                            cells, addresses[0], first, count, positives, kind, down, up, key,
                            threshold, one if turn == 2 else U(0) - one,
                        )  # fmt: skip
