"""The compiled climb: every move in a few passes over the examples, none of them in Python."""

from __future__ import annotations

from typing import Any
from typing import Final
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.general import general_votes
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.jit import leading_zeros
from optuna_wnn.evaluators.kernels import RUN
from optuna_wnn.evaluators.kernels import mix
from optuna_wnn.evaluators.loss import LOG_BITS
from optuna_wnn.evaluators.loss import NAT
from optuna_wnn.evaluators.loss import REBASE_EVERY
from optuna_wnn.evaluators.loss import SCORE_LIMIT
from optuna_wnn.evaluators.loss import SCORE_STEPS
from optuna_wnn.evaluators.recount import Planes
from optuna_wnn.evaluators.recount import Rule
from optuna_wnn.evaluators.recount import compact_vote
from optuna_wnn.evaluators.recount import count_rarer
from optuna_wnn.evaluators.recount import fill_ballots
from optuna_wnn.evaluators.recount import keep_counts
from optuna_wnn.evaluators.recount import read_ballots
from optuna_wnn.evaluators.refine import DRAW_CLUSTER
from optuna_wnn.evaluators.refine import DRAW_INPUT
from optuna_wnn.evaluators.refine import DRAW_NEURON
from optuna_wnn.evaluators.refine import DRAW_POSITION


U = np.uint64
_PER_STEP: Final = NAT // SCORE_STEPS
_LOG_MASK: Final = U((1 << LOG_BITS) - 1)


class Wiring(NamedTuple):
    """The clusters that are refined: ``K`` of them with ``N`` neurons in all.

    Attributes:
        starts: First neuron of each cluster, and the end, ``int64[K + 1]``.
        bits: Bits per neuron of each cluster, ``int64[K]``.
        visible: How many inputs each cluster may observe, ``int64[K]``.
        observed: The inputs of each neuron, ascending, ``int32[N, most bits]``.
        votes: What each neuron votes on each example read, in 32 bits, ``int32[N, V]``.
        sums: Their sums, ``int64[K, V]``.
        positives: Which examples read are positive, ``uint8[K, V]``.
        trained: Which training examples are, a bit each, ``uint64[K, ceil(E / 64)]``.
        tried: Room for what a moved neuron votes, ``int32[V]``.
        tried_sums: Room for the sums with it, ``int64[V]``.
    """

    starts: NDArray[np.int64]
    bits: NDArray[np.int64]
    visible: NDArray[np.int64]
    observed: NDArray[np.int32]
    votes: NDArray[np.int32]
    sums: NDArray[np.int64]
    positives: NDArray[np.uint8]
    trained: NDArray[np.uint64]
    tried: NDArray[np.int32]
    tried_sums: NDArray[np.int64]


class Scale(NamedTuple):
    """How a sum becomes a whole number of steps; see ``Quantiser``."""

    packed: bool
    factor: float
    divisor: float


class BitTables(NamedTuple):
    """The loss of one bit; see ``BitLoss``."""

    scale: Scale
    offset: int
    losses: NDArray[np.int32]


class ClassTables(NamedTuple):
    """The loss of the softmax; see ``ClassesLoss``.

    Attributes:
        scale: From a cluster's sum to its score.
        exp: ``exp`` of relative scores.
        zero: Where ``exp(0)`` is.
        whole: Logarithms of powers of two.
        rest: Logarithms of leading bits.
        targets: ``int64[V]``.
        scores: ``int32[K, V]``.
        reference: What scores are relative to, ``int32[V]``.
        mass: Sum of ``exp`` over classes, ``int64[V]``.
        places: Where in ``exp`` the target's relative score is, ``int32[V]``.
        tried: Room for a class's scores, ``int32[V]``.
    """

    scale: Scale
    exp: NDArray[np.int64]
    zero: int
    whole: NDArray[np.int32]
    rest: NDArray[np.int32]
    targets: NDArray[np.int64]
    scores: NDArray[np.int32]
    reference: NDArray[np.int32]
    mass: NDArray[np.int64]
    places: NDArray[np.int32]
    tried: NDArray[np.int32]


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
    for e in range(len(votes)):
        votes[e] = compact_vote(sums[e], rule.packed)


@compiled
def _draw_state(seed: Any, stream: int, step: int) -> Any:
    """Return what :class:`Draws` holds."""
    return mix(mix(mix(seed) + U(stream)) + U(step))


@compiled
def _below(state: Any, limit: int, which: int) -> int:
    """Return what :meth:`Draws.below` returns."""
    return np.int64(((mix(state + U(which)) >> U(32)) * U(limit)) >> U(32))


@compiled
def _unobserved(observed: Any, n_bits: int, index: int) -> int:
    for j in range(n_bits):
        if observed[j] <= index:
            index += 1
    return index


@compiled
def _exchange(observed: Any, slots: Any, n_bits: int, position: int, input_: int) -> None:
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


# Below, loops run over slices from 0 on: an index that cannot be negative needs no check, and
# the loop becomes vector instructions.


@compiled
def _exchange_votes(sums: Any, old: Any, new: Any, packed: bool, out: Any) -> None:
    """Write sums in which a neuron's old votes are replaced by new ones."""
    if packed:
        for i in range(len(sums)):
            before, after = np.int64(old[i]), np.int64(new[i])
            numerator = (after >> 16) - (before >> 16)
            weight = (after & 0xFFFF) - (before & 0xFFFF)
            out[i] = sums[i] + (numerator << 32) + weight
    else:
        for i in range(len(sums)):
            out[i] = sums[i] + (np.int64(new[i]) - np.int64(old[i]))


@compiled
def add_neuron_votes(sums: Any, votes: Any, packed: bool) -> None:
    """Add a neuron's votes, ``int32[V]``, to ``sums``."""
    _exchange_votes(sums, np.zeros(len(votes), np.int32), votes, packed, sums)


@compiled
def _quantise(sums: Any, scale: Any, n_neurons: int, offset: float, top: float, out: Any) -> None:
    """Write what ``Quantiser`` gives plus ``offset``, kept in ``[0, top]``, as ``int32``."""
    divisor = scale.divisor * n_neurons
    for i in range(len(sums)):
        if scale.packed:
            weight = sums[i] & 0xFFFFFFFF
            weight = weight if weight > 0 else 1  # the numerator is then 0
            value = np.float64(sums[i] >> 32) * scale.factor / np.float64(weight)
        else:
            value = np.float64(sums[i]) / divisor
        steps = np.floor(value + 0.5) + offset
        steps = steps if steps > 0.0 else 0.0
        out[i] = np.int32(steps if steps < top else top)


@compiled
def _bit_losses(steps: Any, positives: Any, losses: Any) -> int:
    """Return the sum of the losses of quantised outputs."""
    last = np.int32(len(losses) - 1)
    for i in range(len(positives)):
        steps[i] = steps[i] if positives[i] else last - steps[i]
    total = 0
    for i in range(len(positives)):
        total += losses[np.uint32(steps[i])]
    return total


@compiled
def _try_bit(wiring: Any, n: int, tables: Any, current: int, room: Any) -> int:
    """Return the loss with neuron ``n`` voting ``wiring.tried``, or more than ``current``."""
    n_neurons = wiring.starts[1]
    top = np.float64(len(tables.losses) - 1)
    loss = 0
    for first in range(0, len(wiring.tried), RUN):
        run = slice(first, min(first + RUN, len(wiring.tried)))
        tried_sums = wiring.tried_sums[run]
        _exchange_votes(
            wiring.sums[0][run], wiring.votes[n][run], wiring.tried[run], tables.scale.packed,
            tried_sums,
        )  # fmt: skip
        _quantise(tried_sums, tables.scale, n_neurons, tables.offset, top, room)
        loss += _bit_losses(room, wiring.positives[0][run], tables.losses)
        if loss > current:
            return loss
    return loss


@compiled
def _relative(scores: Any, reference: Any, tables: Any, out: Any) -> None:
    """Write where in the table of ``exp`` scores are, relative to their references."""
    last = np.int32(len(tables.exp) - 1)
    zero = np.int32(tables.zero)
    for i in range(len(scores)):
        place = scores[i] - reference[i] + zero
        place = place if place > 0 else np.int32(0)
        out[i] = place if place < last else last


@compiled
def _class_losses(mass: Any, places: Any, tables: Any) -> int:
    """Return the summed loss from each example's mass and its target's place in ``exp``."""
    total = 0
    for i in range(len(mass)):
        whole = U(mass[i] if mass[i] > 1 else 1)
        zeros = leading_zeros(whole)
        leading = (whole << (zeros - U(1))) >> U(62 - LOG_BITS)
        logarithm = tables.whole[U(64) - zeros] + tables.rest[leading & _LOG_MASK]
        loss = np.int64(logarithm) - np.int64(places[i] - tables.zero) * _PER_STEP
        total += loss if loss > 0 else 0
    return total


@compiled
def rebase(tables: Any) -> int:
    """Choose the references anew, and return the loss; see ``ClassesLoss``."""
    n_classes, n_examples = tables.scores.shape
    tables.reference[:] = tables.scores[0]
    for k in range(1, n_classes):
        row = tables.scores[k]
        for e in range(n_examples):
            if row[e] > tables.reference[e]:
                tables.reference[e] = row[e]
    tables.mass[:] = 0
    for k in range(n_classes):
        _relative(tables.scores[k], tables.reference, tables, tables.tried)
        for e in range(n_examples):
            place = tables.tried[e]
            tables.mass[e] += tables.exp[np.uint32(place)]
            if tables.targets[e] == k:
                tables.places[e] = place
    return _class_losses(tables.mass, tables.places, tables)


@compiled
def set_scores(wiring: Any, k: int, tables: Any) -> None:
    """Take the scores of cluster ``k`` from its sums."""
    n_neurons = wiring.starts[k + 1] - wiring.starts[k]
    limit = np.float64(SCORE_LIMIT)
    _quantise(wiring.sums[k], tables.scale, n_neurons, limit, 2 * limit, tables.scores[k])
    for e in range(len(wiring.sums[k])):
        tables.scores[k][e] -= SCORE_LIMIT


@compiled
def _try_class(wiring: Any, k: int, n: int, tables: Any, current: int, room: Any) -> int:
    """Return the loss with neuron ``n`` of cluster ``k`` voting ``wiring.tried``.

    Once it is more than ``current``, any number above that may be returned.
    """
    n_neurons = wiring.starts[k + 1] - wiring.starts[k]
    limit = np.float64(SCORE_LIMIT)
    before, after, places, mass = room
    loss = 0
    for first in range(0, len(wiring.tried), RUN):
        run = slice(first, min(first + RUN, len(wiring.tried)))
        tried_sums, tried = wiring.tried_sums[run], tables.tried[run]
        _exchange_votes(
            wiring.sums[k][run], wiring.votes[n][run], wiring.tried[run], tables.scale.packed,
            tried_sums,
        )  # fmt: skip
        _quantise(tried_sums, tables.scale, n_neurons, limit, 2 * limit, tried)
        for i in range(len(tried)):
            tried[i] -= SCORE_LIMIT
        reference = tables.reference[run]
        _relative(tables.scores[k][run], reference, tables, before)
        _relative(tried, reference, tables, after)
        old_mass, targets, old_places = tables.mass[run], tables.targets[run], tables.places[run]
        for i in range(len(tried)):
            places[i] = after[i] if targets[i] == k else old_places[i]
            mass[i] = (
                old_mass[i] - tables.exp[np.uint32(before[i])] + tables.exp[np.uint32(after[i])]
            )
        loss += _class_losses(mass[: len(tried)], places, tables)
        if loss > current:
            return loss
    return loss


@compiled
def _keep_class(wiring: Any, k: int, n: int, tables: Any, room: Any) -> None:
    """Make the move that ``_try_class`` looked at the state of the loss."""
    before, after = room[0], room[1]
    for first in range(0, len(wiring.tried), RUN):
        run = slice(first, min(first + RUN, len(wiring.tried)))
        reference, mass = tables.reference[run], tables.mass[run]
        targets, places = tables.targets[run], tables.places[run]
        _relative(tables.scores[k][run], reference, tables, before)
        _relative(tables.tried[run], reference, tables, after)
        for i in range(len(mass)):
            mass[i] += tables.exp[np.uint32(after[i])] - tables.exp[np.uint32(before[i])]
            places[i] = after[i] if targets[i] == k else places[i]
    tables.scores[k] = tables.tried
    _keep_votes(wiring, k, n)


@compiled
def _keep_votes(wiring: Any, k: int, n: int) -> None:
    wiring.votes[n] = wiring.tried
    wiring.sums[k] = wiring.tried_sums


@compiled
def _move(wiring: Any, k: int, cluster: int, seed: Any, step: int) -> Any:
    """Return the neuron, the position and the new input of a step, as ``propose`` draws them."""
    state = _draw_state(seed, cluster, step)
    n_bits = wiring.bits[k]
    n_neurons = wiring.starts[k + 1] - wiring.starts[k]
    n = wiring.starts[k] + _below(state, n_neurons, DRAW_NEURON)
    position = _below(state, n_bits, DRAW_POSITION)
    index = _below(state, wiring.visible[k] - n_bits, DRAW_INPUT)
    return n, position, _unobserved(wiring.observed[n], n_bits, index)


@compiled
def _recount(
    wiring: Any, k: int, n: int, counted: Any, source: Any, position: int, input_: int
) -> Any:
    """Write to ``wiring.tried`` what the moved neuron votes; say what ``keep_counts`` needs."""
    slot = U(counted.slots[n, position])
    inverted = count_rarer(counted, n, slot, source.train, wiring.trained[k], input_)
    fill_ballots(counted, n, slot, inverted, source.rule, source.left_out)
    read_ballots(
        counted, n, slot, source.read, input_, wiring.positives[k], source.left_out, wiring.tried
    )
    return slot, inverted


@compiled
def climb_bit(
    wiring: Any, counted: Any, source: Any, tables: Any, seed: Any, cluster: int,
    first_step: int, last_step: int, current: int,
) -> int:  # fmt: skip
    """Try moves of one cluster under the ``bits`` head; return its loss after them."""
    room = np.empty(RUN, np.int32)
    n_bits = wiring.bits[0]
    if n_bits >= wiring.visible[0]:
        return current
    for step in range(first_step, last_step):
        n, position, input_ = _move(wiring, 0, cluster, seed, step)
        slot, inverted = _recount(wiring, 0, n, counted, source, position, input_)
        loss = _try_bit(wiring, n, tables, current, room)
        if loss <= current:
            current = loss
            _keep_votes(wiring, 0, n)
            keep_counts(
                counted, n, slot, inverted, source.train, source.read, input_, source.left_out
            )
            _exchange(wiring.observed[n], counted.slots[n], n_bits, position, input_)
    return current


@compiled
def climb_bit_anew(
    wiring: Any, source: Any, tables: Any, seed: Any, cluster: int, first_step: int,
    last_step: int, current: int,
) -> int:  # fmt: skip
    """Do the same as :func:`climb_bit`, each moved neuron trained anew."""
    room = np.empty(RUN, np.int32)
    n_bits = wiring.bits[0]
    if n_bits >= wiring.visible[0]:
        return current
    slots = np.empty(n_bits, np.int32)
    for step in range(first_step, last_step):
        n, position, input_ = _move(wiring, 0, cluster, seed, step)
        moved = wiring.observed[n, :n_bits].copy()
        _exchange(moved, slots, n_bits, position, input_)
        vote_anew(source, 0, moved, wiring.tried)
        loss = _try_bit(wiring, n, tables, current, room)
        if loss <= current:
            current = loss
            _keep_votes(wiring, 0, n)
            wiring.observed[n, :n_bits] = moved
    return current


@compiled
def _class_room() -> Any:
    return (
        np.empty(RUN, np.int32), np.empty(RUN, np.int32), np.empty(RUN, np.int32),
        np.empty(RUN, np.int64),
    )  # fmt: skip


@compiled
def climb_classes(
    wiring: Any, counted: Any, source: Any, tables: Any, seed: Any, first_step: int,
    last_step: int, current: int,
) -> int:  # fmt: skip
    """Try moves under the ``classes`` head; return the loss after them."""
    room = _class_room()
    n_classes = len(wiring.bits)
    for step in range(first_step, last_step):
        if step % REBASE_EVERY == 0:
            current = rebase(tables)
        k = _below(_draw_state(seed, n_classes, step), n_classes, DRAW_CLUSTER)
        n_bits = wiring.bits[k]
        if n_bits >= wiring.visible[k]:
            continue
        n, position, input_ = _move(wiring, k, k, seed, step)
        slot, inverted = _recount(wiring, k, n, counted, source, position, input_)
        loss = _try_class(wiring, k, n, tables, current, room)
        if loss <= current:
            current = loss
            _keep_class(wiring, k, n, tables, room)
            keep_counts(
                counted, n, slot, inverted, source.train, source.read, input_, source.left_out
            )
            _exchange(wiring.observed[n], counted.slots[n], n_bits, position, input_)
    return current


@compiled
def climb_classes_anew(
    wiring: Any, source: Any, tables: Any, seed: Any, first_step: int, last_step: int,
    current: int,
) -> int:  # fmt: skip
    """Do the same as :func:`climb_classes`, each moved neuron trained anew."""
    room = _class_room()
    n_classes = len(wiring.bits)
    slots = np.empty(wiring.observed.shape[1], np.int32)
    for step in range(first_step, last_step):
        if step % REBASE_EVERY == 0:
            current = rebase(tables)
        k = _below(_draw_state(seed, n_classes, step), n_classes, DRAW_CLUSTER)
        n_bits = wiring.bits[k]
        if n_bits >= wiring.visible[k]:
            continue
        n, position, input_ = _move(wiring, k, k, seed, step)
        moved = wiring.observed[n, :n_bits].copy()
        _exchange(moved, slots, n_bits, position, input_)
        vote_anew(source, k, moved, wiring.tried)
        loss = _try_class(wiring, k, n, tables, current, room)
        if loss <= current:
            current = loss
            _keep_class(wiring, k, n, tables, room)
            wiring.observed[n, :n_bits] = moved
    return current
