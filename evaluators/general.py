"""The compiled path that does everything: any width, any memory, sampling, examples left out."""

from __future__ import annotations

from typing import Any
from typing import Final

import numpy as np

from optuna_wnn.evaluators.cpu_kernels import RUN
from optuna_wnn.evaluators.cpu_kernels import find_addresses
from optuna_wnn.evaluators.cpu_kernels import mix
from optuna_wnn.evaluators.cpu_kernels import number_addresses
from optuna_wnn.evaluators.cpu_kernels import plan_address
from optuna_wnn.evaluators.cpu_kernels import read_cells
from optuna_wnn.evaluators.cpu_kernels import read_others
from optuna_wnn.evaluators.cpu_kernels import write_cells
from optuna_wnn.evaluators.jit import compiled


DENSE_BITS: Final = 22  # up to here a neuron's table has a cell per address

U = np.uint64


@compiled
def locate(
    inputs: Any, first: int, count: int, use_pext: bool, n_steps: Any, steps: Any, luts: Any,
    addresses: Any, slots: Any, keys: Any, n_known: int, insert: bool,
) -> int:  # fmt: skip
    """Write the cells that examples address to ``addresses[0]``; say how many are known."""
    find_addresses(inputs, first, count, use_pext, n_steps[0], steps[0], luts[0], addresses[0])
    if len(slots) == 0:
        return n_known
    find_addresses(inputs, first, count, use_pext, n_steps[1], steps[1], luts[1], addresses[1])
    return number_addresses(addresses[0], addresses[1], count, slots, keys, n_known, insert)


@compiled
def general_votes(
    connections: Any, keys: Any, threshold: Any, train: Any, train_positives: Any, read: Any,
    read_positives: Any, blocks: Any, kind: int, start: Any, down: Any, up: Any, votes: Any,
    table: Any, n_levels: Any, use_pext: bool, sums: Any, scores: Any,
) -> None:  # fmt: skip
    """Train neurons one after the other and add up what they vote.

    Args:
        connections: ``int32[n, bits]``, ascending in each row.
        keys: What decides on which examples each neuron is trained, ``uint64[n]``.
        threshold: See :func:`write_cells`.
        train: Packed inputs that write, ``uint64[E, words]``.
        train_positives: Which of them are positive, ``uint8[E]``.
        read: Packed inputs that are read.
        read_positives: Which of them are positive.
        blocks: See :class:`Reading`; empty where nothing is left out.
        kind: Of the cells, with ``start``, ``down``, ``up``, ``votes``, ``table`` and
            ``n_levels``.
        start: A cell before training.
        down: Next state after a negative example, by state.
        up: The same after a positive one.
        votes: Vote by state.
        table: Vote by levels.
        n_levels: Levels of each count.
        use_pext: See :func:`plan_address`.
        sums: Added to, ``int64[examples read]``.
        scores: Added to, ``int64[n, 2]``.
    """
    n_neurons, n_bits = connections.shape
    n_train, n_read = len(train), len(read)
    most_steps = min(n_bits, 64)
    n_steps = np.zeros(2, np.int64)
    steps = np.empty((2, most_steps, 3), np.uint64)
    luts = np.empty((2, 0 if use_pext else most_steps, 256), np.uint64)
    addresses = np.empty((2, RUN), np.uint64)
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
                cells, addresses[0], first, count, train_positives, kind, down, up, key,
                threshold, one,
            )  # fmt: skip
        score = scores[n]
        if len(blocks) == 0:
            for first in range(0, n_read, RUN):
                count = min(RUN, n_read - first)
                locate(
                    read, first, count, use_pext, n_steps, steps, luts, addresses, slots, known,
                    n_known, False,
                )  # fmt: skip
                read_cells(
                    cells, addresses[0], first, count, kind, votes, table, n_levels,
                    read_positives, sums, score,
                )  # fmt: skip
        elif blocks[len(blocks) - 1] - blocks[0] == len(blocks) - 1:
            for first in range(blocks[0], n_train, RUN):
                count = min(RUN, n_train - first)
                locate(
                    train, first, count, use_pext, n_steps, steps, luts, addresses, slots, known,
                    n_known, False,
                )  # fmt: skip
                read_others(
                    cells, addresses[0], first, blocks[0], count, kind, votes, table, n_levels,
                    read_positives, key, threshold, sums, score,
                )  # fmt: skip
        else:
            for block in range(len(blocks) - 1):
                # Take the block's examples out, read them, and put them back.
                for turn in range(3):
                    for first in range(blocks[block], blocks[block + 1], RUN):
                        count = min(RUN, blocks[block + 1] - first)
                        locate(
                            train, first, count, use_pext, n_steps, steps, luts, addresses,
                            slots, known, n_known, False,
                        )  # fmt: skip
                        if turn == 1:
                            read_cells(
                                cells, addresses[0], first - blocks[0], count, kind, votes,
                                table, n_levels, read_positives, sums, score,
                            )  # fmt: skip
                        else:
                            write_cells(
                                cells, addresses[0], first, count, train_positives, kind, down,
                                up, key, threshold, one if turn == 2 else U(0) - one,
                            )  # fmt: skip
