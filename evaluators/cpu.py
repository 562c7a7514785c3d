"""The ``cpu`` backend: compiled by numba, a thread per processor, bit for bit the reference."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators import fused
from optuna_wnn.evaluators.base import Evaluator
from optuna_wnn.evaluators.cells import sample_keys
from optuna_wnn.evaluators.cells import sample_threshold
from optuna_wnn.evaluators.chained import Queries
from optuna_wnn.evaluators.cpu_kernels import KINDS
from optuna_wnn.evaluators.cpu_kernels import TRANSITIONS
from optuna_wnn.evaluators.general import DENSE_BITS
from optuna_wnn.evaluators.general import general_votes
from optuna_wnn.evaluators.jit import HAS_PEXT
from optuna_wnn.evaluators.queries import left_out_runs
from optuna_wnn.evaluators.queries import query_sums
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.recount import Planes
from optuna_wnn.evaluators.refine import Climb
from optuna_wnn.evaluators.refine_cpu import MOST_REFINED
from optuna_wnn.evaluators.refine_cpu import Refiner
from optuna_wnn.evaluators.refine_cpu import make_planes
from optuna_wnn.evaluators.token_blocks import TokenBlocks
from optuna_wnn.evaluators.tokens import BlockTerms
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Task


_JOBS_PER_THREAD = 2  # at least, so that no thread waits long for the last one
_LEAST_WORK = 1 << 20  # examples times neurons that are worth a second thread


class CpuEvaluator(Evaluator):
    """Evaluates on all processors, each training and reading some neurons of some cluster.

    Nothing grows with neurons times examples: a thread holds one to four tables, and votes are
    added up at once.
    """

    backend: ClassVar[str] = "cpu"
    use_pext: ClassVar[bool] = HAS_PEXT

    def __init__(
        self,
        task: Task,
        memory: MemorySettings | None = None,
        *,
        threads: int | None = None,
        cache_bytes: int | None = None,
        device_bytes: int | None = None,
    ) -> None:
        super().__init__(
            task, memory, threads=threads, cache_bytes=cache_bytes, device_bytes=device_bytes
        )
        self._planes: dict[str, Planes] = {}
        self._by_word: dict[tuple[str, int], NDArray[np.uint64]] = {}

    def cluster_votes(self, clusters: Sequence[Cluster], reading: Reading) -> list[ClusterVotes]:
        total = sum(len(cluster.hashes) for cluster in clusters)
        work = total * (reading.n_trained + len(reading.examples))
        if self.threads == 1 or work < _LEAST_WORK:
            return self.votes_here(clusters, reading)
        kernel = _Kernel(self, reading)
        share = -(-total // (self.threads * _JOBS_PER_THREAD))
        step = -(-share // fused.ABREAST) * fused.ABREAST
        jobs = []
        for place, cluster in enumerate(clusters):
            n_neurons = len(cluster.hashes)
            jobs += [
                (place, cluster, slice(first, min(first + step, n_neurons)))
                for first in range(0, n_neurons, step)
            ]
        results: list[ClusterVotes | None] = [None] * len(clusters)
        for (place, _, _), part in zip(jobs, self.in_threads(kernel, jobs, Event()), strict=True):
            before = results[place]
            if before is not None:
                sums = np.add(before.sums, part.sums, out=before.sums)
                part = ClusterVotes(sums, np.concatenate([before.scores, part.scores]))
            results[place] = part
        return [votes for votes in results if votes is not None]

    def query_votes(
        self, asked: Sequence[tuple[Cluster, Queries]], reading: Reading
    ) -> list[NDArray[np.int64]]:
        kernel, results = _Kernel(self, reading), []
        for cluster, queries in asked:
            n_neurons = len(cluster.hashes)
            share = -(-n_neurons // self.threads)
            firsts = range(0, n_neurons, share)
            jobs = [(cluster, slice(first, first + share), queries) for first in firsts]
            parts: list[NDArray[np.int64]] = self.in_threads(kernel.query, jobs, Event())
            results.append(np.add.reduce(parts))
        return results

    def token_blocks(
        self, blocks: Sequence[tuple[Genome, int]], reading: Reading, temperature: float
    ) -> list[BlockTerms]:
        terms = TokenBlocks(self, reading).terms
        jobs = [(genome, temperature, first) for genome, first in blocks]
        return self.in_threads(terms, jobs, Event())

    def votes_here(self, clusters: Sequence[Cluster], reading: Reading) -> list[ClusterVotes]:
        kernel = _Kernel(self, reading)
        return [kernel(0, cluster, slice(None)) for cluster in clusters]

    def in_threads(
        self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], stop: Event
    ) -> list[Any]:
        if self.threads == 1 or len(jobs) < 2:
            return [function(*job) for job in jobs]
        with ThreadPoolExecutor(min(self.threads, len(jobs))) as pool:
            futures = [pool.submit(function, *job) for job in jobs]
            try:
                return [future.result() for future in futures]
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def by_word(self, name: str, inputs: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the same inputs, a word of all examples at a time in memory; kept."""
        if inputs.shape[1] == 1:
            return inputs
        key = name, len(inputs)
        if key not in self._by_word:
            self._by_word[key] = np.asfortranarray(inputs)
        return self._by_word[key]

    def planes(self, name: str, inputs: NDArray[np.uint64]) -> Planes:
        """Return the examples of a part, an input at a time; kept for the next call."""
        if name not in self._planes:
            self._planes[name] = make_planes(inputs, self.task.n_inputs)
        return self._planes[name]

    def _climb(self, job: Climb, wiring: list[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
        most = max(len(connections) for connections in wiring)
        if job.free != {"connections"} or most > MOST_REFINED:
            return super()._climb(job, wiring)
        return Refiner(self, job).refine(wiring, Event())


class _Kernel:
    """Calls the compiled function that suits the task, the memory and a cluster's width."""

    def __init__(self, evaluator: CpuEvaluator, reading: Reading) -> None:
        self.evaluator = evaluator
        self.reading = reading
        memory, cells = evaluator.memory, evaluator.cells
        self.train = evaluator.by_word("train", evaluator.task.train.inputs[: reading.n_trained])
        self.read = evaluator.by_word(reading.name, reading.examples.inputs)
        self.kind = KINDS[cells.kind]
        self.start, self.down, self.up = TRANSITIONS.get(cells.kind, (0, 0, 0))
        self.n_levels = np.uint64(cells.n_levels)
        self.threshold = sample_threshold(memory.sample_rate) if memory.sample_rate < 1 else 0
        self.leave_out = cells.counting and reading.one_by_one
        self.plain = (
            evaluator.use_pext
            and (reading.blocks is None or self.leave_out)
            and not self.threshold
            and self.train.shape[1] == 1
        )

    def query(self, cluster: Cluster, part: slice, queries: Queries) -> NDArray[np.int64]:
        """Return what some neurons of a cluster vote on queries, summed, ``int64[Q]``."""
        evaluator, cells = self.evaluator, self.evaluator.cells.of_cluster(cluster.index)
        order = np.argsort(queries.rows, kind="stable")
        sums, ordered = np.zeros(len(order), np.int64), np.zeros(len(order), np.int64)
        runs, starts = left_out_runs(self.reading, queries.rows[order])
        query_sums(
            cluster.connections[part],
            sample_keys(cluster.hashes[part], evaluator.memory.sample_seed),
            np.uint64(self.threshold),
            self.train,
            evaluator.trained_positives(self.reading, cluster.index),
            runs,
            np.asfortranarray(queries.inputs[order]),
            starts,
            self.kind,
            np.uint64(self.start),
            np.uint64(self.down),
            np.uint64(self.up),
            cells.votes,
            cells.table,
            self.n_levels,
            evaluator.use_pext,
            ordered,
        )
        sums[order] = ordered
        return sums

    def __call__(self, place: int, cluster: Cluster, part: slice) -> ClusterVotes:
        evaluator, reading = self.evaluator, self.reading
        cells = evaluator.cells.of_cluster(cluster.index)
        connections = cluster.connections[part]
        n_bits = connections.shape[1]
        train_positives = evaluator.trained_positives(reading, cluster.index)
        inputs, trained_on = self.train, evaluator.trained_on(reading, cluster.index)
        if trained_on is not None:
            inputs, train_positives = inputs[trained_on], train_positives[trained_on]
        read_positives = evaluator.positives(reading, cluster.index)
        sums = np.zeros(len(reading.examples), np.int64)
        scores = np.zeros((len(connections), 2), np.int64)
        if not self.plain or n_bits > DENSE_BITS:
            general_votes(
                connections,
                sample_keys(cluster.hashes[part], evaluator.memory.sample_seed),
                np.uint64(self.threshold),
                inputs,
                train_positives,
                self.read,
                read_positives,
                reading.blocks if reading.blocks is not None else np.zeros(0, np.int64),
                self.kind,
                np.uint64(self.start),
                np.uint64(self.down),
                np.uint64(self.up),
                cells.votes,
                cells.table,
                self.n_levels,
                evaluator.use_pext,
                sums,
                scores,
            )
            return ClusterVotes(sums, scores)
        train, read = inputs[:, 0], self.read[:, 0]
        if cells.counting:
            narrow = n_bits <= fused.COUNT_BITS and len(connections) > 1
            count = fused.count_votes if narrow else fused.wide_count_votes
            count(
                connections, train, train_positives, read, read_positives, self.leave_out,
                self.kind, cells.votes, cells.table, self.n_levels, sums, scores,
            )  # fmt: skip
        else:
            weights = sum(int(vote) << 16 * state for state, vote in enumerate(cells.votes))
            narrow = n_bits <= fused.STATE_BITS and len(connections) > 1
            state = fused.state_votes if narrow else fused.wide_state_votes
            state(
                connections, train, train_positives, read, read_positives,
                self.start, np.uint64(self.down), np.uint64(self.up), np.uint64(weights),
                sums, scores,
            )  # fmt: skip
        return ClusterVotes(sums, scores)
