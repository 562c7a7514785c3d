"""The arrays that describe a GPU launch: where everything of each neuron and cluster stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.gpu_kernels import CLUSTER
from optuna_wnn.evaluators.gpu_kernels import NEURON
from optuna_wnn.evaluators.gpu_kernels import READ_CHUNK
from optuna_wnn.evaluators.gpu_plan import Table
from optuna_wnn.evaluators.gpu_plan import Wiring
from optuna_wnn.evaluators.gpu_plan import Words
from optuna_wnn.evaluators.gpu_plan import Work


LEAST_ELEMENTS: Final = 8  # of an array: MLX moves smaller ones to another address space


@dataclass(frozen=True, eq=False)
class Layout:
    """The arrays that describe a launch.

    Attributes:
        neurons: A row per neuron, ``uint32[n, len(NEURON)]``.
        clusters: A row per cluster, ``uint32[k, len(CLUSTER)]``.
        plan: Inputs of the neurons, or rows and masks of wide ones, ``uint32[...]``.
        chosen: Examples that clusters learn, where they do not learn all.
        n_cells: Elements of the array of cells.
        n_slots: Elements of the array of slots.
    """

    neurons: Words
    clusters: Words
    plan: Words
    chosen: Words
    n_cells: int
    n_slots: int


def lay_out(work: Work, parts: Sequence[Wiring]) -> Layout:
    """Return the arrays that describe a launch of some clusters."""
    rows, heads, plans, chosen = [], [], [], []
    n_neurons = plan_size = n_chosen = cells = slots = 0
    for k, wiring in enumerate(parts):
        table, n = work.table(wiring.connections.shape[1]), len(wiring.connections)
        per_neuron = table.size * work.turn.n_tables
        plan, sizes = _plan_of(wiring.connections, table)
        own = np.arange(n, dtype=np.uint64)
        columns = {
            "cluster": np.full(n, k),
            "plan_first": plan_size + np.cumsum(sizes) - sizes,
            "plan_size": sizes // 2 if table.slots else sizes,
            "last_slot": np.full(n, max(table.slots - 1, 0)),
            "table_size": np.full(n, table.size),
        }
        columns |= _halves("cells", np.uint64(cells) + own * np.uint64(per_neuron))
        columns |= _halves("slots", np.uint64(slots) + own * np.uint64(table.slots))
        columns |= _halves("key", wiring.keys)
        rows.append(np.stack([columns[name].astype(np.uint32) for name in NEURON], axis=1))
        n_examples = work.n_written if wiring.chosen is None else len(wiring.chosen)
        head = {
            "neuron_first": n_neurons,
            "neurons": n,
            "flags": wiring.flags,
            "votes": wiring.votes,
            "chosen_first": n_chosen,
            "chosen_size": n_examples,
        }
        heads.append([head[name] for name in CLUSTER])
        plans.append(plan)
        if wiring.chosen is not None:
            chosen.append(wiring.chosen)
            n_chosen += n_examples
        n_neurons += n
        plan_size += len(plan)
        cells += n * per_neuron
        slots += n * table.slots
    return Layout(
        neurons=np.concatenate(rows),
        clusters=np.array(heads, np.uint32),
        plan=np.concatenate(plans),
        chosen=np.concatenate([*chosen, np.zeros(0, np.uint32)]),
        n_cells=max(cells * work.cell_words, LEAST_ELEMENTS),
        n_slots=max(slots, LEAST_ELEMENTS),
    )


def _halves(name: str, values: NDArray[np.uint64]) -> dict[str, NDArray[np.uint64]]:
    """Return both halves of 64-bit numbers as columns."""
    return {f"{name}_low": values & np.uint64(0xFFFFFFFF), f"{name}_high": values >> np.uint64(32)}


def _plan_of(connections: NDArray[np.int32], table: Table) -> tuple[Words, NDArray[np.int64]]:
    """Return what neurons' addresses are made of, and how many words that is for each.

    Where cells stand by address those are the inputs; else, for every 32 inputs of which a
    neuron observes some, their number and a mask.
    """
    n, n_bits = connections.shape
    inputs = connections.astype(np.uint32)
    if not table.slots:
        return inputs.ravel(), np.full(n, n_bits, np.int64)
    words = inputs >> np.uint32(5)
    starts = np.ones((n, n_bits), bool)
    starts[:, 1:] = words[:, 1:] != words[:, :-1]
    bits = np.uint32(1) << (inputs & np.uint32(31))
    masks = np.bitwise_or.reduceat(bits.ravel(), np.flatnonzero(starts))
    return np.stack([words[starts], masks], axis=1).ravel(), 2 * starts.sum(axis=1)


def pieces_of(sizes: Sequence[int]) -> Words:
    """Return what threadgroups have of clusters' inputs, which stand one after the other.

    Args:
        sizes: How many inputs each cluster has.

    Returns:
        A cluster's number, the first of up to ``READ_CHUNK`` inputs and their end,
        ``uint32[n, 3]``.
    """
    pieces, start = [], 0
    for number, size in enumerate(sizes):
        firsts = np.arange(start, start + size, READ_CHUNK)
        start += size
        lasts = np.minimum(firsts + READ_CHUNK, start)
        pieces.append(np.stack([np.full_like(firsts, number), firsts, lasts], axis=1))
    return np.concatenate(pieces).astype(np.uint32)


def by_word(inputs: NDArray[np.uint64]) -> Words:
    """Return packed inputs with a row per 32 of them, ``uint32[2 * words, E]``."""
    halves = np.ascontiguousarray(inputs, dtype="<u8").view("<u4")
    return np.ascontiguousarray(halves.T)


def pack_flags(flags: Sequence[NDArray[np.uint8]]) -> Words:
    """Return rows of zeros and ones as bits, lowest first, ``uint32[rows, ceil(E / 32)]``."""
    octets = np.packbits(np.stack(flags), axis=1, bitorder="little")
    octets = np.pad(octets, ((0, 0), (0, -octets.shape[1] % 4)))
    return np.ascontiguousarray(octets).view("<u4")
