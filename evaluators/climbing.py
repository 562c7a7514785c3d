"""The compiled climb: every move in a few passes over the examples, none of them in Python."""

from __future__ import annotations

from typing import Any
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cpu_kernels import mix
from optuna_wnn.evaluators.general import general_votes
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.judge import copy_into
from optuna_wnn.evaluators.judge import keep_class
from optuna_wnn.evaluators.judge import rebase
from optuna_wnn.evaluators.judge import try_bit
from optuna_wnn.evaluators.judge import try_class
from optuna_wnn.evaluators.loss import REBASE_EVERY
from optuna_wnn.evaluators.recount import Planes
from optuna_wnn.evaluators.recount import Rule
from optuna_wnn.evaluators.recount import compact_votes
from optuna_wnn.evaluators.recount import count_rarer
from optuna_wnn.evaluators.recount import fill_ballots
from optuna_wnn.evaluators.recount import keep_addresses
from optuna_wnn.evaluators.recount import keep_counts
from optuna_wnn.evaluators.recount import list_cells
from optuna_wnn.evaluators.recount import read_ballots
from optuna_wnn.evaluators.refine import DRAW_CLUSTER
from optuna_wnn.evaluators.refine import DRAW_INPUT
from optuna_wnn.evaluators.refine import DRAW_NEURON
from optuna_wnn.evaluators.refine import DRAW_POSITION
from optuna_wnn.genome import MAX_BITS


U = np.uint64


class CountedSource(NamedTuple):
    """The examples, where moved neurons are counted again; see :mod:`recount`.

    Attributes:
        train: The training examples.
        read: The examples read.
        rule: How cells vote.
        left_out: Whether the training examples are read, each left out of its own cell.
    """

    train: Planes
    read: Planes
    rule: Rule
    left_out: bool


class FreshSource(NamedTuple):
    """The examples, where moved neurons are trained anew; see :func:`general_votes`.

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


@compiled
def vote_anew(source: Any, k: int, observed: Any, votes: Any) -> None:
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
def _recount(
    train: Any, read: Any, cells: Any, fresh: Any, distinct: Any, ballots: Any, slot: Any,
    train_plane: Any, read_plane: Any, inverted: bool, trained: Any, positives: Any, rule: Any,
    left_out: bool, tried: Any,
) -> None:  # fmt: skip
    """Write to ``tried`` what a neuron votes with another input at address bit ``slot``."""
    count_rarer(train, slot, train_plane, inverted, trained, fresh)
    fill_ballots(cells, fresh, distinct, slot, inverted, rule, left_out, ballots)
    read_ballots(read, slot, read_plane, ballots, positives, left_out, tried)


@compiled
def _keep_recount(
    train: Any, read: Any, cells: Any, fresh: Any, distinct: Any, slot: Any, train_plane: Any,
    read_plane: Any, inverted: bool, left_out: bool,
) -> int:  # fmt: skip
    """Make the move that ``_recount`` looked at; say how many cells are read now."""
    keep_counts(cells, fresh, slot, inverted)
    keep_addresses(train, slot, train_plane)
    if not left_out:
        keep_addresses(read, slot, read_plane)
    return list_cells(read, fresh, distinct)


@compiled
def climb_bit(
    wiring: Any, counted: Any, source: Any, tables: Any, seed: Any, cluster: int,
    first_step: int, last_step: int, current: int,
) -> int:  # fmt: skip
    """Try moves of one cluster under the ``bits`` head; return its loss after them."""
    n_neurons, n_bits, visible = wiring.starts[1], wiring.bits[0], wiring.visible[0]
    if n_bits >= visible:
        return current
    sums, positives, trained = wiring.sums[0], wiring.positives[0], wiring.trained[0]
    tried, tried_sums = wiring.tried, wiring.tried_sums
    train_words, train_ones, n_train = source.train
    read_words = source.read.words
    rule, left_out = source.rule, source.left_out
    fresh, ballots, n_distinct = counted.fresh, counted.ballots, counted.n_distinct
    for step in range(first_step, last_step):
        state = draw_state(seed, cluster, step)
        n = below(state, n_neurons, DRAW_NEURON)
        position = below(state, n_bits, DRAW_POSITION)
        observed, slots, votes = wiring.observed[n], counted.slots[n], wiring.votes[n]
        input_ = unobserved(observed, n_bits, below(state, visible - n_bits, DRAW_INPUT))
        cells = counted.cells[counted.starts[n] : counted.starts[n + 1]]
        train, read, distinct = counted.train[n], counted.read[n], counted.distinct[n]
        slot, inverted = U(slots[position]), 2 * train_ones[input_] > n_train
        train_plane, read_plane = train_words[input_], read_words[input_]
        _recount(
            train, read, cells, fresh[: len(cells)], distinct[: n_distinct[n]], ballots, slot,
            train_plane, read_plane, inverted, trained, positives, rule, left_out, tried,
        )  # fmt: skip
        loss = try_bit(sums, votes, tried, positives, n_neurons, tables, current, tried_sums)
        if loss <= current:
            current = loss
            copy_into(votes, tried)
            copy_into(sums, tried_sums)
            n_distinct[n] = _keep_recount(
                train, read, cells, fresh[: len(cells)], distinct, slot, train_plane, read_plane,
                inverted, left_out,
            )  # fmt: skip
            exchange(observed, slots, n_bits, position, input_)
    return current


@compiled
def climb_bit_anew(
    wiring: Any, source: Any, tables: Any, seed: Any, cluster: int, first_step: int,
    last_step: int, current: int,
) -> int:  # fmt: skip
    """Do the same as :func:`climb_bit`, each moved neuron trained anew."""
    n_neurons, n_bits, visible = wiring.starts[1], wiring.bits[0], wiring.visible[0]
    if n_bits >= visible:
        return current
    sums, positives = wiring.sums[0], wiring.positives[0]
    tried, tried_sums = wiring.tried, wiring.tried_sums
    moved, slots = np.empty(n_bits, np.int32), np.empty(n_bits, np.int32)
    for step in range(first_step, last_step):
        state = draw_state(seed, cluster, step)
        n = below(state, n_neurons, DRAW_NEURON)
        position = below(state, n_bits, DRAW_POSITION)
        observed, votes = wiring.observed[n][:n_bits], wiring.votes[n]
        input_ = unobserved(observed, n_bits, below(state, visible - n_bits, DRAW_INPUT))
        copy_into(moved, observed)
        exchange(moved, slots, n_bits, position, input_)
        vote_anew(source, 0, moved, tried)
        loss = try_bit(sums, votes, tried, positives, n_neurons, tables, current, tried_sums)
        if loss <= current:
            current = loss
            copy_into(votes, tried)
            copy_into(sums, tried_sums)
            copy_into(observed, moved)
    return current


@compiled
def climb_classes(
    wiring: Any, counted: Any, source: Any, tables: Any, seed: Any, first_step: int,
    last_step: int, current: int,
) -> int:  # fmt: skip
    """Try moves under the ``classes`` head; return the loss after them."""
    n_classes = len(wiring.bits)
    tried, tried_sums = wiring.tried, wiring.tried_sums
    train_words, train_ones, n_train = source.train
    read_words = source.read.words
    rule, left_out = source.rule, source.left_out
    fresh, ballots, n_distinct = counted.fresh, counted.ballots, counted.n_distinct
    for step in range(first_step, last_step):
        if step % REBASE_EVERY == 0:
            current = rebase(tables)
        k = below(draw_state(seed, n_classes, step), n_classes, DRAW_CLUSTER)
        n_bits, visible = wiring.bits[k], wiring.visible[k]
        if n_bits >= visible:
            continue
        state = draw_state(seed, k, step)
        n_neurons = wiring.starts[k + 1] - wiring.starts[k]
        n = wiring.starts[k] + below(state, n_neurons, DRAW_NEURON)
        position = below(state, n_bits, DRAW_POSITION)
        observed, slots, votes = wiring.observed[n], counted.slots[n], wiring.votes[n]
        input_ = unobserved(observed, n_bits, below(state, visible - n_bits, DRAW_INPUT))
        cells = counted.cells[counted.starts[n] : counted.starts[n + 1]]
        train, read, distinct = counted.train[n], counted.read[n], counted.distinct[n]
        slot, inverted = U(slots[position]), 2 * train_ones[input_] > n_train
        train_plane, read_plane = train_words[input_], read_words[input_]
        _recount(
            train, read, cells, fresh[: len(cells)], distinct[: n_distinct[n]], ballots, slot,
            train_plane, read_plane, inverted, wiring.trained[k], wiring.positives[k], rule,
            left_out, tried,
        )  # fmt: skip
        sums = wiring.sums[k]
        loss = try_class(sums, votes, tried, k, n_neurons, tables, current, tried_sums)
        if loss <= current:
            current = loss
            keep_class(k, tables)
            copy_into(votes, tried)
            copy_into(sums, tried_sums)
            n_distinct[n] = _keep_recount(
                train, read, cells, fresh[: len(cells)], distinct, slot, train_plane, read_plane,
                inverted, left_out,
            )  # fmt: skip
            exchange(observed, slots, n_bits, position, input_)
    return current


@compiled
def climb_classes_anew(
    wiring: Any, source: Any, tables: Any, seed: Any, first_step: int, last_step: int,
    current: int,
) -> int:  # fmt: skip
    """Do the same as :func:`climb_classes`, each moved neuron trained anew."""
    n_classes = len(wiring.bits)
    tried, tried_sums = wiring.tried, wiring.tried_sums
    room, slots = np.empty(MAX_BITS, np.int32), np.empty(MAX_BITS, np.int32)
    for step in range(first_step, last_step):
        if step % REBASE_EVERY == 0:
            current = rebase(tables)
        k = below(draw_state(seed, n_classes, step), n_classes, DRAW_CLUSTER)
        n_bits, visible = wiring.bits[k], wiring.visible[k]
        if n_bits >= visible:
            continue
        state = draw_state(seed, k, step)
        n_neurons = wiring.starts[k + 1] - wiring.starts[k]
        n = wiring.starts[k] + below(state, n_neurons, DRAW_NEURON)
        position = below(state, n_bits, DRAW_POSITION)
        observed, votes, sums = wiring.observed[n][:n_bits], wiring.votes[n], wiring.sums[k]
        input_ = unobserved(observed, n_bits, below(state, visible - n_bits, DRAW_INPUT))
        moved = room[:n_bits]
        copy_into(moved, observed)
        exchange(moved, slots, n_bits, position, input_)
        vote_anew(source, k, moved, tried)
        loss = try_class(sums, votes, tried, k, n_neurons, tables, current, tried_sums)
        if loss <= current:
            current = loss
            keep_class(k, tables)
            copy_into(votes, tried)
            copy_into(sums, tried_sums)
            copy_into(observed, moved)
    return current
