"""How the ``cpu`` backend refines connections: the arrays that the compiled climb works on."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import TYPE_CHECKING
from typing import Final

import numpy as np
import psutil
from numpy.typing import NDArray

from optuna_wnn.evaluators import climbing
from optuna_wnn.evaluators import recount
from optuna_wnn.evaluators.cells import pack
from optuna_wnn.evaluators.cells import sample_threshold
from optuna_wnn.evaluators.chained import decided_bits
from optuna_wnn.evaluators.climbing import CountedSource
from optuna_wnn.evaluators.climbing import FreshSource
from optuna_wnn.evaluators.cpu_kernels import KINDS
from optuna_wnn.evaluators.cpu_kernels import TRANSITIONS
from optuna_wnn.evaluators.general import DENSE_BITS
from optuna_wnn.evaluators.heads import BIT_HEADS
from optuna_wnn.evaluators.judge import BitTables
from optuna_wnn.evaluators.judge import ClassTables
from optuna_wnn.evaluators.judge import Scale
from optuna_wnn.evaluators.judge import Wiring
from optuna_wnn.evaluators.judge import exchange_votes
from optuna_wnn.evaluators.judge import score_cluster
from optuna_wnn.evaluators.loss import SCORE_STEPS
from optuna_wnn.evaluators.loss import BitLoss
from optuna_wnn.evaluators.loss import Quantiser
from optuna_wnn.evaluators.loss import bit_loss_table
from optuna_wnn.evaluators.loss import bit_quantiser
from optuna_wnn.evaluators.loss import exp_table
from optuna_wnn.evaluators.loss import log_tables
from optuna_wnn.evaluators.recount import Counted
from optuna_wnn.evaluators.recount import Planes
from optuna_wnn.evaluators.recount import Rule
from optuna_wnn.evaluators.refine import Climb
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.evaluators.votes import lone_cluster
from optuna_wnn.genome import mix64


if TYPE_CHECKING:
    from optuna_wnn.evaluators.cpu import CpuEvaluator


_MOVES_AT_A_TIME: Final = 256  # between two looks at whether to stop
MOST_REFINED: Final = 1 << 14  # neurons of a cluster that the compiled climb takes
# Taken off the votes of a bit that is decided: whatever its neurons vote (as long as they are no
# more than MOST_REFINED) it is then so surely 0, as it must be, that it costs nothing.
_SURE_ZERO: Final = {True: 1 << 62, False: 1 << 40}  # packed or not
_SHARE_OF_MEMORY: Final = 4  # of what is free; above it, moved neurons are trained anew


class Refiner:
    """Refines connections by the compiled climb.

    It keeps, for the clusters that are being refined (one per thread where clusters are bits, all
    under ``classes``), 4 bytes per neuron and example read, and where cells count 1 to 4 bytes
    per neuron and example, and 8 bytes per cell; if all that is more than a quarter of the free
    memory, only the first.
    """

    def __init__(self, evaluator: CpuEvaluator, job: Climb) -> None:
        self.evaluator = evaluator
        self.job = job
        cells, memory, reading = job.cells, evaluator.memory, job.reading
        self.seed = np.uint64(job.seed % 2**64)
        self.rule = Rule(
            KINDS[cells.kind], cells.votes, cells.table, np.uint64(cells.n_levels), cells.packed
        )
        self.left_out = memory.fitness_on == "leave_one_out"
        self.countable = (
            cells.counting
            and memory.sample_rate == 1
            and (reading.blocks is None or self.left_out)
        )
        self.threshold = sample_threshold(memory.sample_rate) if memory.sample_rate < 1 else 0
        self.train = evaluator.task.train.inputs[: reading.n_trained]

    def refine(self, wiring: list[NDArray[np.int32]], stop: Event) -> list[NDArray[np.int32]]:
        """Return the connections of all clusters after the climb."""
        if self.job.task.head == "classes":
            return self._refine_classes(wiring, stop)
        at_once = min(self.evaluator.threads, len(wiring))
        if self._fits(wiring, at_once):
            self._planes()  # before any thread needs them
        jobs = [(k, connections, at_once, stop) for k, connections in enumerate(wiring)]
        return self.evaluator.in_threads(self._refine_bit, jobs, stop)

    def _refine_bit(
        self, cluster: int, connections: NDArray[np.int32], at_once: int, stop: Event
    ) -> NDArray[np.int32]:
        job = self.job
        quantiser, offset = bit_quantiser(job.cells)
        tables = BitTables(_scale(quantiser), offset, bit_loss_table(job.cells))
        state = _State(self, [connections], [cluster], self._fits([connections], at_once))
        targets = job.reading.examples.targets
        decided = decided_bits(job.task, targets, cluster)
        loss = BitLoss(job.cells, job.task.n_clusters, cluster, targets, decided)
        current = loss.of(state.wiring.sums[0], len(connections))
        if decided is not None:
            state.wiring.sums[0, decided] -= _SURE_ZERO[job.cells.packed]
        n_steps = job.share(cluster)
        for first in range(0, n_steps, _MOVES_AT_A_TIME):
            last = min(first + _MOVES_AT_A_TIME, n_steps)
            if stop.is_set():
                break
            moves = (tables, self.seed, cluster, first, last, current)
            if state.counted is not None:
                current = climbing.climb_bit(
                    state.wiring, state.counted, self._counted_source(), *moves
                )
            else:
                current = climbing.climb_bit_anew(state.wiring, state.fresh, *moves)
        if decided is not None:
            state.wiring.sums[0, decided] += _SURE_ZERO[job.cells.packed]
        self._remember(state, [cluster])
        return state.connections()[0]

    def _refine_classes(
        self, wiring: list[NDArray[np.int32]], stop: Event
    ) -> list[NDArray[np.int32]]:
        job = self.job
        n_classes, n_read = len(wiring), len(job.reading.examples)
        state = _State(self, wiring, range(n_classes), self._fits(wiring, 1))
        exp, zero = exp_table(n_classes)
        whole, rest = log_tables()
        tables = ClassTables(
            scale=_scale(Quantiser.of(job.cells, SCORE_STEPS / job.temperature)),
            exp=exp,
            zero=zero,
            whole=whole,
            rest=rest,
            targets=job.reading.examples.targets,
            scores=np.zeros((n_classes, n_read), np.int32),
            reference=np.zeros(n_read, np.int32),
            mass=np.zeros(n_read, np.int64),
            places=np.zeros(n_read, np.int32),
            tried=np.zeros(n_read, np.int32),
            room=np.zeros(n_read, np.int32),
        )
        for k in range(n_classes):
            score_cluster(state.wiring.sums[k], len(wiring[k]), tables.scale, tables.scores[k])
        current = 0
        for first in range(0, job.steps, _MOVES_AT_A_TIME):
            last = min(first + _MOVES_AT_A_TIME, job.steps)
            if stop.is_set():
                break
            moves = (tables, self.seed, first, last, current)
            if state.counted is not None:
                current = climbing.climb_classes(
                    state.wiring, state.counted, self._counted_source(), *moves
                )
            else:
                current = climbing.climb_classes_anew(state.wiring, state.fresh, *moves)
        self._remember(state, range(n_classes))
        return state.connections()

    def _remember(self, state: _State, clusters: Sequence[int]) -> None:
        """Leave the votes where the evaluation of the refined genome will look for them."""
        for place, (cluster, connections) in enumerate(
            zip(clusters, state.connections(), strict=True)
        ):
            known = lone_cluster(cluster, connections)
            votes = state.votes(place, self.rule.packed)
            votes = ClusterVotes(votes.sums, votes.scores[known.order])
            self.evaluator.cache.put((self.job.reading.name, known.key), votes)

    def _fits(self, wiring: Sequence[NDArray[np.int32]], at_once: int) -> bool:
        """Return whether the counts of ``at_once`` such sets of clusters fit into memory."""
        widest = max(c.shape[1] for c in wiring)
        if not self.countable or widest > DENSE_BITS:
            return False
        n_train, n_read = len(self.train), len(self.job.reading.examples)
        per_address = np.dtype(_address_type(widest)).itemsize
        needed = sum(
            len(c) * ((n_train + n_read) * per_address + 4 * n_read + (8 << c.shape[1]))
            for c in wiring
        )
        if self.job.task.head in BIT_HEADS:
            needed = needed * at_once // len(wiring)
        return bool(needed <= psutil.virtual_memory().available // _SHARE_OF_MEMORY)

    def _planes(self) -> tuple[Planes, Planes]:
        train = self.evaluator.planes("train", self.train)
        if self.left_out:
            return train, train
        reading = self.job.reading
        return train, self.evaluator.planes(reading.name, reading.examples.inputs)

    def _counted_source(self) -> CountedSource:
        return CountedSource(*self._planes(), self.rule, self.left_out)


class _State:
    """What the climb changes: some clusters, and their neurons' votes and counts."""

    def __init__(
        self,
        refiner: Refiner,
        wiring: Sequence[NDArray[np.int32]],
        clusters: Sequence[int],
        countable: bool,
    ) -> None:
        evaluator, job = refiner.evaluator, refiner.job
        reading = job.reading
        n_train, n_read = len(refiner.train), len(reading.examples)
        neurons = np.array([len(c) for c in wiring])
        bits = np.array([c.shape[1] for c in wiring])
        starts = np.concatenate([[0], np.cumsum(neurons)])
        n_neurons, widest = int(starts[-1]), int(bits.max())
        observed = np.zeros((n_neurons, widest), np.int32)
        for k, connections in enumerate(wiring):
            observed[starts[k] : starts[k + 1], : bits[k]] = connections
        trained = np.stack([evaluator.trained_positives(reading, k) for k in clusters])
        self.wiring = Wiring(
            starts=starts,
            bits=bits,
            visible=job.bounds.visible_inputs[list(clusters)].astype(np.int64),
            observed=observed,
            votes=np.zeros((n_neurons, n_read), np.int32),
            sums=np.zeros((len(wiring), n_read), np.int64),
            positives=np.stack([evaluator.positives(reading, k) for k in clusters]),
            trained=_as_planes(trained),
            tried=np.zeros(n_read, np.int32),
            tried_sums=np.zeros(n_read, np.int64),
        )
        start, down, up = TRANSITIONS.get(job.cells.kind, (0, 0, 0))
        self.fresh = FreshSource(
            threshold=np.uint64(refiner.threshold),
            salt=mix64(np.array([evaluator.memory.sample_seed % 2**64], np.uint64))[0],
            train=refiner.train,
            train_positives=trained,
            read=reading.examples.inputs,
            read_positives=self.wiring.positives,
            blocks=reading.blocks if reading.blocks is not None else np.zeros(0, np.int64),
            start=np.uint64(start),
            down=np.uint64(down),
            up=np.uint64(up),
            rule=refiner.rule,
            use_pext=evaluator.use_pext,
        )
        self.counted: Counted | None = None
        if countable:
            address = _address_type(widest)
            per_neuron = np.repeat(1 << bits, neurons)
            train = np.zeros((n_neurons, n_train), address)
            read = train if refiner.left_out else np.zeros((n_neurons, n_read), address)
            self.counted = Counted(
                slots=np.zeros((n_neurons, widest), np.int32),
                train=train,
                read=read,
                starts=np.concatenate([[0], np.cumsum(per_neuron)]),
                cells=np.zeros(int(per_neuron.sum()), np.uint64),
                distinct=np.zeros((n_neurons, min(n_read, 1 << widest)), np.uint32),
                n_distinct=np.zeros(n_neurons, np.int64),
                fresh=np.zeros(1 << widest, np.uint64),
                ballots=np.zeros(2 << widest, np.int32),
            )
        for k in range(len(wiring)):
            for n in range(int(starts[k]), int(starts[k + 1])):
                self._let_vote(k, n)

    def _let_vote(self, k: int, n: int) -> None:
        """Address and count everything for neuron ``n`` of cluster ``k``, and let it vote."""
        wiring, source, counted = self.wiring, self.fresh, self.counted
        observed, votes = wiring.observed[n, : wiring.bits[k]], wiring.votes[n]
        if counted is None:
            climbing.vote_anew(source, k, observed, votes)
        else:
            left_out = counted.read is counted.train
            counted.slots[n, : len(observed)] = np.arange(len(observed))
            cells = counted.cells[counted.starts[n] : counted.starts[n + 1]]
            train, read = counted.train[n], counted.read[n]
            recount.find_all_addresses(source.train, observed, source.use_pext, train)
            if not left_out:
                recount.find_all_addresses(source.read, observed, source.use_pext, read)
            recount.count_all(train, source.train_positives[k], cells)
            fresh = counted.fresh[: len(cells)]
            counted.n_distinct[n] = recount.list_cells(read, fresh, counted.distinct[n])
            recount.read_all(cells, read, wiring.positives[k], left_out, source.rule, votes)
        none = np.zeros(len(votes), np.int32)
        exchange_votes(wiring.sums[k], none, votes, source.rule.packed, wiring.sums[k])

    def votes(self, k: int, packed: bool) -> ClusterVotes:
        """Return what the neurons of cluster ``k`` vote now."""
        wiring = self.wiring
        positive = wiring.positives[k] == 1
        scores = []
        for votes in wiring.votes[wiring.starts[k] : wiring.starts[k + 1]]:
            wide = votes.astype(np.int64)
            if packed:
                wide = pack(wide >> 16, wide & 0xFFFF)
            of_positive = int(wide[positive].sum())
            scores.append((int(wide.sum()) - of_positive, of_positive))
        return ClusterVotes(wiring.sums[k].copy(), np.array(scores, np.int64))

    def connections(self) -> list[NDArray[np.int32]]:
        """Return the connections of every cluster as they are now."""
        wiring = self.wiring
        return [
            wiring.observed[wiring.starts[k] : wiring.starts[k + 1], : wiring.bits[k]].copy()
            for k in range(len(wiring.bits))
        ]


def _scale(quantiser: Quantiser) -> Scale:
    return Scale(quantiser.packed, quantiser.factor, quantiser.divisor)


def _address_type(n_bits: int) -> type[np.unsignedinteger]:
    if n_bits <= 8:
        return np.uint8
    return np.uint16 if n_bits <= 16 else np.uint32


def _as_planes(flags: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Pack ``uint8[K, E]`` of zeros and ones into ``uint64[K, ceil(E / 64)]``."""
    n_words = -(-flags.shape[1] // 64)
    padded = np.zeros((len(flags), n_words * 64), np.uint8)
    padded[:, : flags.shape[1]] = flags
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64)


def make_planes(inputs: NDArray[np.uint64], n_inputs: int) -> Planes:
    """Return packed inputs, ``uint64[E, words]``, an input at a time."""
    words = np.zeros((n_inputs, -(-len(inputs) // 64)), np.uint64)
    ones = np.zeros(n_inputs, np.int64)
    recount.fill_planes(inputs, words, ones)
    return Planes(words, ones, len(inputs))
