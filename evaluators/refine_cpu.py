"""How the ``cpu`` backend refines connections: the arrays that the compiled climb works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING
from typing import Final

import numpy as np
import psutil
from numpy.typing import NDArray

from optuna_wnn.evaluators import climbing
from optuna_wnn.evaluators import recount
from optuna_wnn.evaluators.cells import sample_threshold
from optuna_wnn.evaluators.chained import decided_bits
from optuna_wnn.evaluators.climbing import Desk
from optuna_wnn.evaluators.climbing import Source
from optuna_wnn.evaluators.climbing import Table
from optuna_wnn.evaluators.climbing import Wiring
from optuna_wnn.evaluators.cpu_kernels import KINDS
from optuna_wnn.evaluators.cpu_kernels import TRANSITIONS
from optuna_wnn.evaluators.general import DENSE_BITS
from optuna_wnn.evaluators.heads import BIT_HEADS
from optuna_wnn.evaluators.judge import Bit
from optuna_wnn.evaluators.judge import Scale
from optuna_wnn.evaluators.judge import exchange_votes
from optuna_wnn.evaluators.judge import make_room
from optuna_wnn.evaluators.judge import make_softmax
from optuna_wnn.evaluators.judge import rebase
from optuna_wnn.evaluators.judge import score_votes
from optuna_wnn.evaluators.loss import REBASE_EVERY
from optuna_wnn.evaluators.loss import BitLoss
from optuna_wnn.evaluators.loss import bit_loss_table
from optuna_wnn.evaluators.loss import bit_quantiser
from optuna_wnn.evaluators.recount import Planes
from optuna_wnn.evaluators.recount import Rule
from optuna_wnn.evaluators.refine import Climb
from optuna_wnn.evaluators.rows import Rows
from optuna_wnn.evaluators.rows import RowShape
from optuna_wnn.evaluators.small import make_small
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.evaluators.votes import lone_cluster
from optuna_wnn.genome import mix64


if TYPE_CHECKING:
    from optuna_wnn.evaluators.cpu import CpuEvaluator


_MOVES_AT_A_TIME: Final = 256  # between two looks at whether to stop; divides REBASE_EVERY
MOST_REFINED: Final = 1 << 14  # neurons of a cluster that the compiled climb takes
# Taken off the votes of a bit that is decided: whatever its neurons vote (as long as they are no
# more than MOST_REFINED) it is then so surely 0, as it must be, that it costs nothing.
_SURE_ZERO: Final = {True: 1 << 62, False: 1 << 40}  # packed or not
_ROWS: Final = "rows of the last climb"  # where the evaluator's cache has them
_CLIMBS_KEPT: Final = 8  # at most, of as many neurons as the first moves
_SHARE_OF_MEMORY: Final = 4  # of what is free; above it, moved neurons are trained anew


@dataclass(frozen=True, eq=False)
class _Plan:
    """Some clusters that climb together.

    Attributes:
        clusters: Which they are, ``K`` of them.
        wiring: Their connections, each ``int32[n, bits]``.
        moved: Which of their neurons any step moves, ``bool[N]``.
        n_steps: How many moves they get.
    """

    clusters: Sequence[int]
    wiring: Sequence[NDArray[np.int32]]
    moved: NDArray[np.bool_]
    n_steps: int


class Refiner:
    """Refines connections by the compiled climb.

    Of the neurons that will be moved it keeps 4 bytes per example read, and where cells count 1
    to 4 bytes per example and 8 bytes per cell; if all that is more than a quarter of the free
    memory, only the first. What is kept serves later climbs, within the bounds of ``Rows``.
    """

    def __init__(self, evaluator: CpuEvaluator, job: Climb) -> None:
        self.evaluator = evaluator
        self.job = job
        cells, memory, reading = job.cells, evaluator.memory, job.reading
        self.seed = np.uint64(job.seed % 2**64)
        self.left_out = memory.fitness_on == "leave_one_out"
        self.countable = (
            cells.counting
            and memory.sample_rate == 1
            and (reading.blocks is None or self.left_out)
        )
        self.threshold = sample_threshold(memory.sample_rate) if memory.sample_rate < 1 else 0
        self.train = evaluator.task.train.inputs[: reading.n_trained]
        self.softmax = job.task.head not in BIT_HEADS

    def rule(self, clusters: Sequence[int]) -> Rule:
        """Return what the cells of some clusters vote; they have the same table."""
        cells = self.job.cells.of_cluster(clusters[0])
        short_table = np.zeros(len(cells.table), np.int32)
        recount.compact_votes(cells.table, cells.packed, short_table)
        return Rule(
            KINDS[cells.kind], cells.votes, cells.table, np.uint64(cells.n_levels), cells.packed,
            short_table,
        )  # fmt: skip

    def refine(self, wiring: list[NDArray[np.int32]], stop: Event) -> list[NDArray[np.int32]]:
        """Return the connections of all clusters after the climb."""
        if self.softmax:
            plans = [self._plan(range(len(wiring)), wiring, self.job.steps)]
        else:
            plans = [
                self._plan([k], [connections], self.job.share(k))
                for k, connections in enumerate(wiring)
            ]
        rows = self._rows(plans, min(self.evaluator.threads, len(plans)))
        if rows.shape.n_train:
            self._planes()  # before any thread needs them
        refined = self.evaluator.in_threads(
            self._climb, [(plan, rows, stop) for plan in plans], stop
        )
        if rows.nbytes <= self.evaluator.cache.capacity // 2:
            self.evaluator.cache.put(_ROWS, rows)
        return [connections for climbed in refined for connections in climbed]

    def _plan(
        self, clusters: Sequence[int], wiring: Sequence[NDArray[np.int32]], n_steps: int
    ) -> _Plan:
        moved = np.zeros(sum(len(c) for c in wiring), np.uint8)
        climbing.mark_moved(self._draws(clusters, wiring), self.seed, n_steps, moved)
        return _Plan(clusters, wiring, moved == 1, n_steps)

    def _climb(self, plan: _Plan, rows: Rows, stop: Event) -> list[NDArray[np.int32]]:
        """Let some clusters climb together, and return their connections."""
        job = self.job
        state = _State(self, plan, rows)
        wiring = state.wiring
        bit, softmax, small, decided, current = None, None, None, None, np.zeros(2, np.int64)
        if self.softmax:
            neurons = np.diff(state.wiring.starts)
            n_read = len(job.reading.examples)
            softmax = make_softmax(job.cells, job.temperature, len(plan.clusters), n_read)
            small = make_small(job.cells, softmax, neurons)
            if small is not None:
                wiring = wiring._replace(sums=wiring.sums.astype(np.int32))
        else:
            quantiser, offset = bit_quantiser(job.cells)
            bit = Bit(Scale.of(quantiser), offset, bit_loss_table(job.cells))
            targets = job.reading.examples.targets
            cluster = plan.clusters[0]
            decided = decided_bits(job.task, targets, cluster)
            loss = BitLoss(job.cells, job.task.n_clusters, cluster, targets, decided)
            current[:] = loss.of(wiring.sums[0], len(plan.wiring[0]))
            if decided is not None:
                wiring.sums[0, decided] -= _SURE_ZERO[job.cells.packed]
        for first in range(0, plan.n_steps, _MOVES_AT_A_TIME):
            if stop.is_set():
                break
            if softmax is not None and first % REBASE_EVERY == 0:
                rebase(softmax, neurons, wiring.sums, wiring.positives, state.desk.room, current)
            last = min(first + _MOVES_AT_A_TIME, plan.n_steps)
            climbing.climb(
                wiring, rows.kept, state.source.rule, state.anew, state.table, bit, softmax, small,
                state.desk, job.sampled, self.seed, first, last, current,
            )  # fmt: skip
        if decided is not None:
            wiring.sums[0, decided] += _SURE_ZERO[job.cells.packed]
        return state.finish(wiring.sums.astype(np.int64, copy=False))

    def _draws(self, clusters: Sequence[int], wiring: Sequence[NDArray[np.int32]]) -> Wiring:
        """Return what the draws of moves depend on; all else is empty."""
        neurons = np.array([len(c) for c in wiring])
        bits = np.array([c.shape[1] for c in wiring])
        starts = np.concatenate([[0], np.cumsum(neurons)])
        observed = np.zeros((int(starts[-1]), int(bits.max())), np.int32)
        for k, connections in enumerate(wiring):
            observed[starts[k] : starts[k + 1], : bits[k]] = connections
        return Wiring(
            streams=np.array(clusters),
            n_shared=len(wiring) if self.softmax else 0,
            starts=starts,
            bits=bits,
            visible=self.job.bounds.visible_inputs[list(clusters)].astype(np.int64),
            observed=observed,
            rows=np.full(int(starts[-1]), -1),
            sums=np.zeros((len(wiring), 0), np.int64),
            positives=np.zeros((len(wiring), 0), np.uint8),
            trained=np.zeros((len(wiring), 0), np.uint64),
            chances=self.job.chances[list(clusters)],
        )

    def _rows(self, plans: Sequence[_Plan], at_once: int) -> Rows:
        """Return rows for all neurons that climb at once: those of the last climb if they fit."""
        widest = max(c.shape[1] for plan in plans for c in plan.wiring)
        needed = sum(sorted(int(plan.moved.sum()) for plan in plans)[-at_once:])
        n_read, name = len(self.job.reading.examples), self.job.reading.name
        shape = RowShape(name, widest, len(self.train), n_read, self.left_out)
        room = psutil.virtual_memory().available // _SHARE_OF_MEMORY
        last: Rows | None = self.evaluator.cache.take(_ROWS)  # no other climb may use them now
        counted = self.countable and widest <= DENSE_BITS
        if last is not None and last.shape == shape and last.n_rows >= needed and counted:
            return last
        if not counted or needed * shape.nbytes > room:
            shape = RowShape(name, widest, 0, n_read, self.left_out)
        if last is not None and last.shape == shape and last.n_rows >= needed:
            return last
        moved = sum(int(plan.moved.sum()) for plan in plans)
        affordable = self.evaluator.cache.capacity // 2 // shape.nbytes
        return Rows(shape, max(needed, min(affordable, _CLIMBS_KEPT * moved)))

    def _planes(self) -> tuple[Planes, Planes]:
        train = self.evaluator.planes("train", self.train)
        if self.left_out:
            return train, train
        reading = self.job.reading
        return train, self.evaluator.planes(reading.name, reading.examples.inputs)

    def table(self) -> Table:
        """Return the examples, an input at a time."""
        return Table(*self._planes(), self.left_out)

    def source(self, clusters: Sequence[int]) -> Source:
        """Return the examples as some clusters see them."""
        evaluator, reading = self.evaluator, self.job.reading
        start, down, up = TRANSITIONS.get(self.job.cells.kind, (0, 0, 0))
        return Source(
            threshold=np.uint64(self.threshold),
            salt=mix64(np.array([evaluator.memory.sample_seed % 2**64], np.uint64))[0],
            train=self.train,
            train_positives=np.stack([evaluator.trained_positives(reading, k) for k in clusters]),
            read=reading.examples.inputs,
            read_positives=np.stack([evaluator.positives(reading, k) for k in clusters]),
            blocks=reading.blocks if reading.blocks is not None else np.zeros(0, np.int64),
            start=np.uint64(start),
            down=np.uint64(down),
            up=np.uint64(up),
            rule=self.rule(clusters),
            use_pext=evaluator.use_pext,
        )


class _State:
    """What the climb of some clusters changes."""

    def __init__(self, refiner: Refiner, plan: _Plan, rows: Rows) -> None:
        self.refiner, self.plan, self.rows = refiner, plan, rows
        shape = rows.shape
        counted = shape.n_train > 0
        self.source = refiner.source(plan.clusters)
        self.table = refiner.table() if counted else None
        self.anew = None if counted else self.source
        n_cells = (1 << shape.n_bits) if counted else 0
        self.desk = Desk(
            observed=np.zeros(2 * shape.n_bits, np.int32),
            fresh=np.zeros(max(n_cells, 8), np.uint64),
            ballots=np.zeros(2 * n_cells, np.int32),
            votes=np.zeros(shape.n_read, np.int32),
            room=make_room(),
        )
        self.wiring = refiner._draws(plan.clusters, plan.wiring)._replace(
            sums=np.zeros((len(plan.wiring), shape.n_read), np.int64),
            positives=self.source.read_positives,
            trained=_as_planes(self.source.train_positives),
        )
        self.moved = np.flatnonzero(plan.moved)
        taken, known = rows.take(self._keys())
        self.wiring.rows[self.moved] = taken
        self._set_up(self.moved[~known])
        self._scores = np.zeros((len(plan.moved), 2), np.int64)
        for k in range(len(plan.wiring)):
            self._add_up(k)

    def _of_cluster(self, k: int) -> slice:
        return slice(int(self.wiring.starts[k]), int(self.wiring.starts[k + 1]))

    def _observed(self, n: int) -> tuple[int, NDArray[np.int32]]:
        """Return the cluster of neuron ``n`` and its inputs."""
        k = int(np.searchsorted(self.wiring.starts, n, side="right")) - 1
        return k, self.wiring.observed[n, : self.wiring.bits[k]]

    def _keys(self) -> list[tuple[int, bytes]]:
        """Return what distinguishes the neurons that are moved, as they are now."""
        keys = []
        for n in self.moved.tolist():
            k, observed = self._observed(n)
            keys.append((self.plan.clusters[k], observed.tobytes()))
        return keys

    def _set_up(self, neurons: NDArray[np.int64]) -> None:
        # Clusters that climb side by side have a thread each already.
        threads = self.refiner.evaluator.threads if self.refiner.softmax else 1
        jobs = [
            (share, self.desk._replace(fresh=np.zeros_like(self.desk.fresh)))
            for share in np.array_split(neurons, threads)
        ]
        self.refiner.evaluator.in_threads(self._set_up_some, jobs, Event())

    def _set_up_some(self, neurons: NDArray[np.int64], desk: Desk) -> None:
        for n in neurons.tolist():
            k, observed = self._observed(n)
            climbing.set_up(
                self.source, self.anew, self.table, self.rows.kept, int(self.wiring.rows[n]), k,
                observed, desk,
            )  # fmt: skip

    def _add_up(self, k: int) -> None:
        """Sum up what the neurons of cluster ``k`` vote; those that stay are not kept."""
        evaluator, reading = self.refiner.evaluator, self.refiner.job.reading
        of_cluster, sums = self._of_cluster(k), self.wiring.sums[k]
        resting = ~self.plan.moved[of_cluster]
        if resting.any():
            cluster = lone_cluster(self.plan.clusters[k], self.plan.wiring[k][resting])
            votes = evaluator.votes_here([cluster], reading)[0]
            sums += votes.sums
            places = np.flatnonzero(resting)[cluster.order]
            self._scores[of_cluster][places] = votes.scores
        none = np.zeros(len(sums), np.int32)
        for row in self.wiring.rows[of_cluster][~resting]:
            exchange_votes(sums, none, self.rows.kept.votes[row], self.source.rule.packed, sums)

    def finish(self, sums: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """Return the connections of every cluster as they are now, given the sums of its votes.

        What is known of them is left where the next climb, and the evaluation of the refined
        genome, will look for it.
        """
        wiring, refiner = self.wiring, self.refiner
        evaluator, reading = refiner.evaluator, refiner.job.reading
        for n in self.moved.tolist():
            k, _ = self._observed(n)
            score_votes(
                self.rows.kept.votes[wiring.rows[n]], wiring.positives[k], self.source.rule.packed,
                self._scores[n],
            )  # fmt: skip
        self.rows.give_back(self._keys(), wiring.rows[self.moved])
        refined = []
        for k, cluster in enumerate(self.plan.clusters):
            of_cluster = self._of_cluster(k)
            connections = wiring.observed[of_cluster, : wiring.bits[k]].copy()
            known = lone_cluster(cluster, connections)
            votes = ClusterVotes(sums[k].copy(), self._scores[of_cluster][known.order])
            evaluator.cache.put((reading.name, known.key), votes)
            refined.append(connections)
        return refined


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
