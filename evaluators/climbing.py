"""The compiled climb: every move in a few passes over the examples, none of them in Python."""

from __future__ import annotations

from typing import Any
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cpu_kernels import RUN
from optuna_wnn.evaluators.cpu_kernels import mix
from optuna_wnn.evaluators.general import general_votes
from optuna_wnn.evaluators.informed import PIECE
from optuna_wnn.evaluators.informed import SAMPLED
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.judge import Room
from optuna_wnn.evaluators.judge import bit_loss
from optuna_wnn.evaluators.judge import copy_into
from optuna_wnn.evaluators.judge import exchange_votes
from optuna_wnn.evaluators.judge import keep_score
from optuna_wnn.evaluators.judge import softmax_loss
from optuna_wnn.evaluators.recount import Planes
from optuna_wnn.evaluators.recount import Rule
from optuna_wnn.evaluators.recount import compact_votes
from optuna_wnn.evaluators.recount import count_all
from optuna_wnn.evaluators.recount import count_rarer
from optuna_wnn.evaluators.recount import fill_ballots
from optuna_wnn.evaluators.recount import find_all_addresses
from optuna_wnn.evaluators.recount import keep_addresses
from optuna_wnn.evaluators.recount import keep_counts
from optuna_wnn.evaluators.recount import mark_cells
from optuna_wnn.evaluators.recount import read_all
from optuna_wnn.evaluators.recount import read_ballots
from optuna_wnn.evaluators.refine import DRAW_CLUSTER
from optuna_wnn.evaluators.refine import DRAW_INPUT
from optuna_wnn.evaluators.refine import DRAW_NEURON
from optuna_wnn.evaluators.refine import DRAW_POSITION
from optuna_wnn.evaluators.refine import DRAW_TRY
from optuna_wnn.evaluators.refine import TRIES
from optuna_wnn.evaluators.small import TOO_LARGE
from optuna_wnn.evaluators.small import small_loss


U = np.uint64


class Wiring(NamedTuple):
    """The clusters that are refined: ``K`` of them with ``N`` neurons in all.

    Attributes:
        streams: What the draws of each cluster start from, ``int64[K]``.
        n_shared: Among how many clusters one is drawn for every move; 0 if the one cluster that
            there is makes all of them.
        starts: First neuron of each cluster, and the end, ``int64[K + 1]``.
        bits: Bits per neuron of each cluster, ``int64[K]``.
        visible: How many inputs each cluster may observe, ``int64[K]``.
        observed: The inputs of each neuron, ascending, ``int32[N, most bits]``.
        rows: Where each neuron is kept, ``int64[N]``; see ``Counted``.
        sums: The sums of the votes, ``int64[K, V]``; ``int32`` where the loss is in 32 bits.
        positives: Which examples read are positive, ``uint8[K, V]``.
        trained: Which training examples are, a bit each, ``uint64[K, ceil(E / 64)]``.
        chances: See :func:`optuna_wnn.evaluators.informed.chances`, ``int64[K, B]``; without
            columns if all inputs are drawn alike.
    """

    streams: NDArray[np.int64]
    n_shared: int
    starts: NDArray[np.int64]
    bits: NDArray[np.int64]
    visible: NDArray[np.int64]
    observed: NDArray[np.int32]
    rows: NDArray[np.int64]
    sums: NDArray[np.int64]
    positives: NDArray[np.uint8]
    trained: NDArray[np.uint64]
    chances: NDArray[np.int64]


class Table(NamedTuple):
    """The examples an input at a time, where moved neurons are counted; see :mod:`recount`.

    Attributes:
        train: The training examples.
        read: The examples read.
        left_out: Whether the training examples are read, each left out of its own cell.
    """

    train: Planes
    read: Planes
    left_out: bool


class Source(NamedTuple):
    """The examples as they come; see :func:`general_votes`.

    Attributes:
        threshold: Below which draw a neuron is trained on an example; 0 keeps all.
        salt: What is added to a neuron's hash before it draws, ``uint64``.
        train: Packed inputs that write.
        train_positives: Which of them are positive, ``uint8[K, E]``.
        read: Packed inputs that are read.
        read_positives: Which of them are positive, ``uint8[K, V]``.
        blocks: What is left out.
        start: A cell before training.
        down: Next state after a negative example.
        up: The same after a positive one.
        rule: How cells vote.
        use_pext: How addresses are found.
    """

    threshold: np.uint64
    salt: np.uint64
    train: NDArray[np.uint64]
    train_positives: NDArray[np.uint8]
    read: NDArray[np.uint64]
    read_positives: NDArray[np.uint8]
    blocks: NDArray[np.int64]
    start: np.uint64
    down: np.uint64
    up: np.uint64
    rule: Rule
    use_pext: bool


class Desk(NamedTuple):
    """What a thread tries a move on.

    Attributes:
        observed: The inputs of the moved neuron, ``int32[most bits]``.
        fresh: Its rarer counts, ``uint64[most cells]``.
        ballots: What its cells vote, ``int32[2 * most cells]``.
        votes: What it votes, ``int32[V]``.
        room: For the judge.
    """

    observed: NDArray[np.int32]
    fresh: NDArray[np.uint64]
    ballots: NDArray[np.int32]
    votes: NDArray[np.int32]
    room: Room


@compiled
def _vote_anew(source: Any, k: int, observed: Any, votes: Any) -> None:
    """Train one neuron of cluster ``k`` and write its votes, ``int32[V]``.

    Its hash is that of :attr:`Genome.neuron_hashes`.
    """
    content = U(len(observed))
    for input_ in observed:
        content += mix(U(input_))
    keys = np.full(1, mix(content) + source.salt)
    sums = np.zeros(len(votes), np.int64)
    scores = np.zeros((1, 2), np.int64)
    rule = source.rule
    general_votes(
        observed.reshape(1, -1), keys, source.threshold, source.train, source.train_positives[k],
        source.read, source.read_positives[k], source.blocks, rule.kind, source.start,
        source.down, source.up, rule.votes, rule.table, rule.n_levels, source.use_pext, sums,
        scores,
    )  # fmt: skip
    compact_votes(sums, rule.packed, votes)


@compiled
def draw_state(seed: Any, stream: int, step: int) -> Any:
    """Return what :class:`Draws` holds."""
    return mix(mix(mix(seed) + U(stream)) + U(step))


@compiled
def below(state: Any, limit: Any, which: int) -> Any:
    """Return what :meth:`Draws.below` returns."""
    return np.int64(((mix(state + U(which)) >> U(32)) * U(limit)) >> U(32))


@compiled
def unobserved(observed: Any, n_bits: int, index: int) -> int:
    for j in range(n_bits):
        if observed[j] <= index:
            index += 1
    return index


@compiled
def draw_input(chances: Any, k: int, observed: Any, visible: int, state: Any) -> Any:
    """Return what :func:`refine.draw_input` returns; no chances are an array without columns."""
    if chances.shape[1]:
        row = chances[k]
        total = row[visible - 1]
        for trial in range(TRIES if total else 0):
            input_ = np.searchsorted(row, below(state, total, DRAW_TRY + trial), side="right")
            place = np.searchsorted(observed, input_)
            if place == len(observed) or observed[place] != input_:
                return input_
    index = below(state, visible - len(observed), DRAW_INPUT)
    return unobserved(observed, len(observed), index)


@compiled
def exchange(observed: Any, slots: Any, n_bits: int, position: int, input_: int) -> None:
    """Replace the connection at ``position`` by a new one and keep both arrays in its order."""
    slot = slots[position]
    while position + 1 < n_bits and observed[position + 1] < input_:
        observed[position] = observed[position + 1]
        slots[position] = slots[position + 1]
        position += 1
    while position > 0 and observed[position - 1] > input_:
        observed[position] = observed[position - 1]
        slots[position] = slots[position - 1]
        position -= 1
    observed[position] = input_
    slots[position] = slot


@compiled
def set_up(
    source: Any, anew: Any, table: Any, kept: Any, row: int, k: int, observed: Any, desk: Any
) -> None:
    """Address and count everything for a neuron of cluster ``k``, and let it vote."""
    if anew is not None:
        _vote_anew(anew, k, observed, kept.votes[row])
    if table is not None:
        n_bits, left_out = len(observed), table.left_out
        for j in range(n_bits):
            kept.slots[row, j] = j
        cells, train, read = kept.cells[row, : 1 << n_bits], kept.train[row], kept.read[row]
        cells[:] = U(0)
        find_all_addresses(source.train, observed, source.use_pext, train)
        if not left_out:
            find_all_addresses(source.read, observed, source.use_pext, read)
        count_all(train, source.train_positives[k], cells)
        mark_cells(read, len(cells), desk.fresh, kept.seen[row])
        signs = source.read_positives[k]
        read_all(cells, read, signs, left_out, source.rule, kept.votes[row])


@compiled
def draw_neuron(wiring: Any, seed: Any, step: int) -> Any:
    """Return the cluster and the neuron that a step moves, and what its other draws come from."""
    k = 0
    if wiring.n_shared:
        k = below(draw_state(seed, wiring.n_shared, step), wiring.n_shared, DRAW_CLUSTER)
    state = draw_state(seed, wiring.streams[k], step)
    first = wiring.starts[k]
    return k, first + below(state, wiring.starts[k + 1] - first, DRAW_NEURON), state


@compiled
def mark_moved(wiring: Any, seed: Any, n_steps: int, moved: Any) -> None:
    """Mark the neurons that the first ``n_steps`` steps move in ``moved``, ``uint8[N]``."""
    for step in range(n_steps):
        k, n, _ = draw_neuron(wiring, seed, step)
        if wiring.bits[k] < wiring.visible[k]:
            moved[n] = 1


@compiled
def climb(
    wiring: Any, kept: Any, rule: Any, anew: Any, table: Any, bit: Any, softmax: Any, small: Any,
    desk: Any, sampled: bool, seed: Any, first_step: int, last_step: int, current: Any,
) -> None:  # fmt: skip
    """Try moves.

    Args:
        wiring: Changed.
        kept: Changed.
        rule: How cells vote.
        anew: The examples if moved neurons are trained anew, or ``None``.
        table: The examples if they are counted, or ``None``.
        bit: The loss, or ``None`` if it is that of the softmax.
        softmax: That, or ``None``; its state changes.
        small: The same in 32 bits, or ``None`` where that is not exact.
        desk: The calling thread's own.
        sampled: Whether a move must first make the loss on the sample no worse.
        seed: Decides the moves.
        first_step: The first step.
        last_step: One past the last.
        current: The loss on the sample and on the other examples, ``int64[2]``; changed.
    """
    # What is done to None is left out when this is compiled.
    n_parts, length = (2, PIECE) if sampled else (1, RUN)  # the sample, and the other examples
    for step in range(first_step, last_step):
        k, n, state = draw_neuron(wiring, seed, step)
        row, n_bits, visible = wiring.rows[n], wiring.bits[k], wiring.visible[k]
        if n_bits >= visible:
            continue
        n_neurons = wiring.starts[k + 1] - wiring.starts[k]
        observed, slots = wiring.observed[n], kept.slots[row]
        sums, positives = wiring.sums[k], wiring.positives[k]
        old, new = kept.votes[row], desk.votes
        position = below(state, n_bits, DRAW_POSITION)
        input_ = draw_input(wiring.chances, k, observed[:n_bits], visible, state)
        if anew is not None:
            moved = desk.observed[:n_bits]
            copy_into(moved, observed[:n_bits])
            exchange(moved, desk.observed[n_bits:], n_bits, position, input_)
            _vote_anew(anew, k, moved, new)
        if table is not None:
            words, ones, size = table.train
            plane, read_plane = words[input_], table.read.words[input_]
            slot, inverted = U(slots[position]), 2 * ones[input_] > size
            cells, fresh = kept.cells[row, : 1 << n_bits], desk.fresh[: 1 << n_bits]
            train, read, seen = kept.train[row], kept.read[row], kept.seen[row]
            left_out, ballots = table.left_out, desk.ballots
            count_rarer(train, slot, plane, inverted, wiring.trained[k], fresh)
            fill_ballots(cells, fresh, seen, slot, inverted, rule, left_out, ballots)
        most = current[0] + current[1]
        tried = np.zeros(2, np.int64)
        for part in range(n_parts):
            if part == 1 and tried[0] > current[0]:
                tried[1] = most + 1
            for first in range(0, len(new), length):
                if tried[0] + tried[1] > most:
                    break
                if sampled and (first // PIECE % SAMPLED == 0) != (part == 0):
                    continue
                run = slice(first, first + length)
                start, size = U(first), U(min(length, len(new) - first))
                if table is not None:
                    read_ballots(
                        read, start, size, slot, read_plane, ballots, positives, left_out,
                        desk.room.cells, new,
                    )  # fmt: skip
                if bit is not None:
                    tried[part] += bit_loss(
                        bit, n_neurons, sums[run], old[run], new[run], positives[run], desk.room
                    )
                loss = TOO_LARGE
                if small is not None:
                    loss = small_loss(
                        small, softmax, k, start, size, sums, old, new, positives, desk.room
                    )
                if softmax is not None:
                    if loss == TOO_LARGE:
                        loss = softmax_loss(
                            softmax, k, run, n_neurons, sums[run], old[run], new[run],
                            positives[run], desk.room,
                        )  # fmt: skip
                    tried[part] += loss
        if tried[0] + tried[1] > most:
            continue
        current[0], current[1] = tried[0], tried[1]
        exchange_votes(sums, old, new, rule.packed, sums)
        copy_into(old, new)
        if softmax is not None:
            keep_score(softmax, k, n_neurons, sums, positives, desk.room)
        if table is not None:
            keep_counts(cells, fresh, slot, inverted)
            keep_addresses(train, slot, plane)
            if not left_out:
                keep_addresses(read, slot, read_plane)
            mark_cells(read, len(cells), fresh, seen)
        exchange(observed, slots, n_bits, position, input_)
