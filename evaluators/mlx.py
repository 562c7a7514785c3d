"""The ``mlx`` backend: Apple and NVIDIA GPUs by kernels of its own, bit for bit the reference."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any
from typing import ClassVar
from typing import Final

import numpy as np
import psutil
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import gpu_check
from optuna_wnn.evaluators import gpu_kernels
from optuna_wnn.evaluators import gpu_layout
from optuna_wnn.evaluators import gpu_plan
from optuna_wnn.evaluators import gpu_rules
from optuna_wnn.evaluators.cells import pack
from optuna_wnn.evaluators.cells import sample_keys
from optuna_wnn.evaluators.chained import Queries
from optuna_wnn.evaluators.cpu import CpuEvaluator
from optuna_wnn.evaluators.gpu_judge import Batch
from optuna_wnn.evaluators.gpu_judge import Standing
from optuna_wnn.evaluators.gpu_judge import known_rows
from optuna_wnn.evaluators.gpu_plan import Cost
from optuna_wnn.evaluators.gpu_plan import Part
from optuna_wnn.evaluators.gpu_plan import Turn
from optuna_wnn.evaluators.gpu_plan import Wiring
from optuna_wnn.evaluators.gpu_plan import Work
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.refine import Climb
from optuna_wnn.evaluators.refine_gpu import GpuRefiner
from optuna_wnn.evaluators.registry import say_once
from optuna_wnn.evaluators.tokens import BLOCK
from optuna_wnn.evaluators.tokens import BlockTerms
from optuna_wnn.evaluators.tokens import clusters_of_block
from optuna_wnn.evaluators.tokens import terms_of_votes
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.genome import Genome
from optuna_wnn.genome import mix64
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Task


try:
    import mlx.core as mx
except ImportError as error:
    raise type(error)(f"{error}; {gpu_kernels.REMEDY}") from error

_SHARE_OF_MEMORY: Final = 2  # the rest is for votes on their way, and for whoever else is there
_SHARE_KNOWN: Final = 2  # of a launch's memory, for where a climb stands
_SHARE_OF_ROOM: Final = 4  # of both memories, for votes that a batch waits for
_SHARE_OF_OTHERS: Final = 8  # of all of it, for readings that may come again
_SHARE_ASKED: Final = 4  # of a launch's memory, for inputs that no example has
_ROW_BYTES: Final = 4  # of such an input: which example it stands for
_ASKED_FIRST: Final = 1024  # that are checked
_FLAGS_BYTES: Final = 1 << 26  # below that the flags of all clusters stay on the GPU


class MlxEvaluator(CpuEvaluator):
    """Evaluates on the GPU, the clusters of many genomes in one launch.

    A launch is two kernels: one writes the memory of its neurons, one reads with its clusters.
    They compute integers only. :meth:`refine` judges its next moves together, and goes on behind
    the first that it keeps.

    Args:
        task: The examples and the head.
        memory: What cells hold and how they vote; ``None`` takes the defaults.
        threads: How many threads of the host may work at once.
        cache_bytes: Most bytes of votes that are kept.
        device_bytes: Most bytes of the GPU's memory that a launch may take with the examples;
            ``None`` takes half of what the system recommends.

    Raises:
        InputError: If there is no GPU.
    """

    backend: ClassVar[str] = "mlx"
    dense_bits: ClassVar[int] = gpu_plan.DENSE_BITS

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
        api = gpu_kernels.api()
        if api is None:
            raise InputError(f"evaluator.backend: mlx cannot run here ({self.missing()})")
        self._kernels = gpu_kernels.make_kernels(api)
        info: dict[str, Any] = mx.device_info(mx.gpu)
        self._buffer: int | None = info.get("max_buffer_length")
        self._memory: int = device_bytes or _free_bytes(info) // _SHARE_OF_MEMORY
        # As many candidates as a launch holds are asked for together.
        room = min(self._memory, psutil.virtual_memory().available) // _SHARE_OF_ROOM
        self._finder.room_bytes = max(room, self._finder.room_bytes)
        self._on_device: dict[tuple[str, str], Any] = {}  # by what it is, and of which reading
        self._votes: Any = None
        self._checked = self._asked = False
        # MLX's streams belong to the thread that made them, so one thread makes all launches.
        self._launcher = ThreadPoolExecutor(1, thread_name_prefix="mlx")

    @classmethod
    def missing(cls) -> str | None:
        if gpu_kernels.api() is not None:
            return None
        return f"MLX finds no GPU; {gpu_kernels.REMEDY}"

    def cluster_votes(self, clusters: Sequence[Cluster], reading: Reading) -> list[ClusterVotes]:
        return self._launcher.submit(self._votes_together, clusters, reading).result()

    def query_votes(
        self, asked: Sequence[tuple[Cluster, Queries]], reading: Reading
    ) -> list[NDArray[np.int64]]:
        return self._launcher.submit(self._checked_answers, asked, reading).result()

    def votes_here(self, clusters: Sequence[Cluster], reading: Reading) -> list[ClusterVotes]:
        return self.cluster_votes(clusters, reading)

    def token_blocks(
        self, blocks: Sequence[tuple[Genome, int]], reading: Reading, temperature: float
    ) -> list[BlockTerms]:
        # Half of the room is for the blocks whose terms the processors make meanwhile.
        at_once = max(1, self._finder.room_bytes // (2 * 8 * BLOCK * len(reading.examples)))
        waves = [blocks[start : start + at_once] for start in range(0, len(blocks), at_once)]
        launched = (
            [self._launcher.submit(self._votes_of_blocks, waves[0], reading)] if waves else []
        )
        terms: list[BlockTerms] = []
        for number, wave in enumerate(waves):
            votes = launched.pop().result()
            if number + 1 < len(waves):
                following = waves[number + 1]
                launched.append(self._launcher.submit(self._votes_of_blocks, following, reading))
            jobs = [
                (self, genome, first, reading, temperature, its)
                for (genome, first), its in zip(wave, votes, strict=True)
            ]
            terms += self.in_threads(terms_of_votes, jobs, Event())
        return terms

    def _votes_of_blocks(
        self, blocks: Sequence[tuple[Genome, int]], reading: Reading
    ) -> list[list[ClusterVotes]]:
        """Return the votes of blocks' clusters; those that several have are launched once."""
        clusters = [clusters_of_block(*block) for block in blocks]
        wanted = {cluster.key: cluster for block in clusters for cluster in block}
        votes = self._votes_together(list(wanted.values()), reading)
        found = dict(zip(wanted, votes, strict=True))
        return [[found[cluster.key] for cluster in block] for block in clusters]

    def launches(
        self, clusters: Sequence[Cluster], reading: Reading
    ) -> list[tuple[Work, list[Wiring], list[Part]]]:
        """Return what :meth:`cluster_votes` launches: the work, all clusters, and their parts."""
        wiring = self._wirings(clusters, reading)
        chosen = [len(its.chosen) for its in wiring if its.chosen is not None]
        n_written = max(chosen) if len(chosen) == len(wiring) else reading.n_trained
        works, limit = self._works(reading, n_written, _widest(wiring))
        return [
            (work, wiring, parts)
            for work in works
            for parts in gpu_plan.plan_launches(work, wiring, limit)
        ]

    def batch(self, job: Climb, widest: int) -> Batch:
        """Return an empty batch of candidates of a climb.

        Args:
            job: What the climb does.
            widest: Most bits of a neuron.
        """
        known_bytes = 4 * known_rows(job) * len(job.reading.examples)
        return Batch(*self._works(job.reading, job.reading.n_trained, widest, known_bytes))

    def judged(self, batch: Batch, standing: Standing, reading: Reading) -> NDArray[np.int64]:
        """Return the loss of every candidate, by launches that sum it up.

        Args:
            batch: The candidates, at least one.
            standing: What they are candidates for.
            reading: What the loss is measured on.

        Returns:
            The loss on the sample and that on the other examples, ``int64[c, 2]``.
        """
        return self._launcher.submit(self._judged, batch, standing, reading).result()

    def _works(
        self, reading: Reading, n_written: int, widest: int, known_bytes: int = 0
    ) -> tuple[list[Work], Cost]:
        """Return what is launched for each part of what is read, and what a launch may take."""
        others = self._others(reading)
        if sum(its.nbytes for its in others.values()) > self._memory // _SHARE_OF_OTHERS:
            for key in others:
                del self._on_device[key]
        memory = self._memory - self._resident_bytes(reading) - known_bytes
        if memory < 1:
            raise InputError(
                "evaluator.device_bytes: the examples and what cells vote take "
                f"{self._memory - memory} bytes, {self._memory} may be taken; raise it, or choose "
                "cpu"
            )
        cell_bytes = gpu_plan.COUNT_BYTES if self.cells.counting else gpu_plan.STATE_BYTES
        limit = gpu_plan.most(memory, self._buffer, cell_bytes)
        table = gpu_plan.table_of(widest, n_written, self.dense_bits)
        tables = gpu_plan.tables_within(self.cells, table, limit)
        turns = gpu_plan.turns_of(reading, tables)
        return [Work(self.cells, n_written, turn, self.dense_bits) for turn in turns], limit

    def _votes_together(self, clusters: Sequence[Cluster], reading: Reading) -> list[ClusterVotes]:
        n_examples = len(reading.examples)
        results = [
            ClusterVotes(np.zeros(n_examples, np.int64), np.zeros((len(c.hashes), 2), np.int64))
            for c in clusters
        ]
        if not clusters:
            return results
        outputs = self._outputs_of(clusters)
        for work, wiring, parts in self.launches(clusters, reading):
            sums, scores = self._launch(
                work,
                [wiring[p.place].part(p.first, p.last) for p in parts],
                reading,
                outputs,
            )
            read = slice(work.turn.first, work.turn.first + work.turn.size)
            start = 0
            for row, part in enumerate(parts):
                result, end = results[part.place], start + part.last - part.first
                result.sums[read] += _whole(sums[:, row])
                result.scores[part.first : part.last] += scores[start:end]
                start = end
        for votes in results:
            gpu_check.check_sums(votes)
        if not self._checked:
            gpu_check.check_first_neuron(self, clusters[0], results[0], reading)
            self._checked = True
        return results

    def _checked_answers(
        self, asked: Sequence[tuple[Cluster, Queries]], reading: Reading
    ) -> list[NDArray[np.int64]]:
        """Do what :meth:`query_votes` does; check one neuron the first time."""
        if not self._asked and asked:
            its, queries = asked[0]
            first = Cluster(its.index, its.connections[:1], its.hashes[:1], its.order[:1])
            some = Queries(queries.rows[:_ASKED_FIRST], queries.inputs[:_ASKED_FIRST])
            (votes,) = self._answers([(first, some)], reading)
            gpu_check.check_answers(self, first, votes, reading, some)
            self._asked = True
        return self._answers(asked, reading)

    def _answers(
        self, asked: Sequence[tuple[Cluster, Queries]], reading: Reading
    ) -> list[NDArray[np.int64]]:
        """Do what :meth:`query_votes` does, a turn's examples at a time."""
        results = [np.zeros(len(queries.rows), np.int64) for _, queries in asked]
        if not asked:
            return results
        clusters = [cluster for cluster, _ in asked]
        outputs, wiring = self._outputs_of(clusters), self._wirings(clusters, reading)
        orders = [np.argsort(queries.rows, kind="stable") for _, queries in asked]
        works, limit = self._works(reading, reading.n_trained, _widest(wiring))
        query_bytes = 8 * self.task.train.inputs.shape[1] + _ROW_BYTES
        most = max(1, limit.bytes // (_SHARE_ASKED * query_bytes))
        for work in works:
            runs = [
                (place, some)
                for place, (_, queries) in enumerate(asked)
                for some in _in_runs(orders[place], queries.rows, work.turn, most)
            ]
            asking = replace(work, query_bytes=query_bytes)
            all_wiring = [replace(wiring[place], asked=len(some)) for place, some in runs]
            for parts in gpu_plan.plan_launches(asking, all_wiring, limit):
                launched = [all_wiring[p.place].part(p.first, p.last) for p in parts]
                theirs = [runs[part.place] for part in parts]
                queries = Queries.joined(
                    [
                        Queries(asked[k][1].rows[some], asked[k][1].inputs[some])
                        for k, some in theirs
                    ]
                )
                found = _whole(self._launch_queries(asking, launched, reading, outputs, queries))
                ends = np.cumsum([len(some) for _, some in theirs])
                for (k, some), votes in zip(theirs, np.split(found, ends[:-1]), strict=True):
                    results[k][some] += votes
        return results

    def _outputs_of(self, clusters: Sequence[Cluster]) -> list[int]:
        return [self.task.output_of(cluster.index) for cluster in clusters]

    def _wirings(self, clusters: Sequence[Cluster], reading: Reading) -> list[Wiring]:
        outputs = self._outputs_of(clusters)
        rows = self._flag_rows(outputs)
        return [
            self._wiring(cluster, rows[output], reading)
            for cluster, output in zip(clusters, outputs, strict=True)
        ]

    def _wiring(self, cluster: Cluster, row: int, reading: Reading) -> Wiring:
        chosen = self.trained_on(reading, cluster.index)
        keys = mix64(sample_keys(cluster.hashes, self.memory.sample_seed))
        votes = gpu_rules.row_of_votes(self.cells, cluster.index)
        some = None if chosen is None else chosen.astype(np.uint32)
        return Wiring(cluster.connections, keys, row, votes, some)

    def _climb(self, job: Climb, wiring: list[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
        n_words = known_rows(job) * len(job.reading.examples)
        memory = self._memory - self._resident_bytes(job.reading)
        if n_words > gpu_plan.MOST_ELEMENTS or 4 * n_words > memory // _SHARE_KNOWN:
            say_once(
                f"evaluator.device_bytes: refining takes {4 * n_words} bytes beside neurons, "
                f"half of {memory} may be taken; mlx refines as cpu does"
            )
            return super()._climb(job, wiring)
        (_, votes) = next(self._finder.votes([Genome.of_clusters(wiring)], job.reading))
        return GpuRefiner(self, job, wiring, [its.sums for its in votes]).refine()

    def _launch(
        self,
        work: Work,
        parts: Sequence[Wiring],
        reading: Reading,
        outputs: Sequence[int],
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the sums of every part, and the scores of every neuron.

        Returns:
            ``int32[1, k, E]``, or ``[2, k, E]`` where there are weights, and ``int64[n, 2]``.
        """
        arrays = self._written(work, parts, reading, outputs)
        n_neurons, n_read = sum(len(part.connections) for part in parts), work.turn.size
        if not n_read:
            mx.eval(arrays["cells"], arrays["slots"])
            return np.zeros((1, len(parts), 0), np.int32), np.zeros((n_neurons, 2), np.int64)
        sums, scores = self._kernels[f"wnn_read_{self._kind}"](
            arrays,
            output_shapes=[(work.n_sums, len(parts), n_read), (n_neurons, 2, 4)],
            output_dtypes=[mx.int32, mx.uint32],
            grid=(gpu_kernels.THREADS * work.read_chunks * len(parts), 1, 1),
            threadgroup=(gpu_kernels.THREADS, 1, 1),
            init_value=0,
        )
        mx.eval(sums, scores)
        return np.array(sums), _whole(_scores(np.array(scores))[: work.n_sums])

    def _launch_queries(
        self,
        work: Work,
        parts: Sequence[Wiring],
        reading: Reading,
        outputs: Sequence[int],
        queries: Queries,
    ) -> NDArray[np.int32]:
        """Return the sums of every part on its queries, one after the other.

        Returns:
            ``int32[1, Q]``, or ``[2, Q]`` where there are weights.
        """
        sizes = [work.n_read(part) for part in parts]
        pieces = gpu_layout.pieces_of(sizes)
        arrays = self._written(work, parts, reading, outputs, queries)
        (sums,) = self._kernels[f"wnn_ask_{self._kind}"](
            arrays | {"pieces": _array(pieces)},
            output_shapes=[(work.n_sums, len(queries.rows))],
            output_dtypes=[mx.int32],
            grid=(gpu_kernels.THREADS * len(pieces), 1, 1),
            threadgroup=(gpu_kernels.THREADS, 1, 1),
            init_value=0,
        )
        mx.eval(sums)
        return np.array(sums)

    def _judged(self, batch: Batch, standing: Standing, reading: Reading) -> NDArray[np.int64]:
        loss = standing.loss
        groups = batch.groups()
        outputs = [cluster for cluster, _ in groups]  # refined is one cluster per output
        rows = self._flag_rows(outputs)
        wiring = [self._neurons(k, rows[k], connections) for k, connections in groups]
        candidates, members = batch.rows(loss, rows)
        numbers = loss.params(len(standing.base), len(reading.examples))
        known = {
            "candidates": _array(candidates),
            "members": _array(members),
            "judging": _numbers(gpu_kernels.JUDGE, numbers),
            "base": _array(standing.base),
            "losses": _array(loss.losses),
            "exps": _array(loss.exps.view(np.uint32)),
            "board": _array(standing.board),
            "decided": _array(loss.decided),
        }
        totals = np.zeros((len(candidates), 2), np.int64)
        for work in batch.works:
            arrays = self._written(work, wiring, reading, outputs)
            (found,) = self._kernels[f"wnn_judge_{self._kind}"](
                arrays | known,
                output_shapes=[(len(candidates), 4)],
                output_dtypes=[mx.uint32],
                grid=(gpu_kernels.THREADS * work.read_chunks * len(candidates), 1, 1),
                threadgroup=(gpu_kernels.THREADS, 1, 1),
                init_value=0,
            )
            mx.eval(found)
            totals += np.array(found).view("<i8")
        return totals

    def _neurons(self, cluster: int, row: int, connections: NDArray[np.int32]) -> Wiring:
        """Return neurons of a cluster, given its row of flags."""
        hashes = Genome.of_clusters([connections]).neuron_hashes
        keys = mix64(sample_keys(hashes, self.memory.sample_seed))
        votes = gpu_rules.row_of_votes(self.cells, cluster)
        return Wiring(connections, keys, row, votes, None)

    @property
    def _kind(self) -> str:
        return "counts" if self.cells.counting else "states"

    def _written(
        self,
        work: Work,
        parts: Sequence[Wiring],
        reading: Reading,
        outputs: Sequence[int],
        queries: Queries | None = None,
    ) -> dict[str, Any]:
        """Launch what writes the memory of some neurons, and return what reads it.

        Args:
            work: What all have in common.
            parts: The neurons.
            reading: Which examples write and which are read.
            outputs: Whose flags are needed.
            queries: What is read in place of the turn's examples.

        Returns:
            The arrays of the kernels that read, by their names.
        """
        layout, turn, cells = gpu_layout.lay_out(work, parts), work.turn, work.cells
        train, train_stride = self._inputs("train", self.task.train.inputs)
        examples, read_stride = train, train_stride
        if queries is not None:
            examples = _array(gpu_layout.by_word(queries.inputs))
            read_stride = len(queries.rows)
        elif reading.blocks is None:
            examples, read_stride = self._inputs(reading.name, reading.examples.inputs)
        rows = list(self._flag_rows(outputs))
        train_flags, train_words = self._device_flags("train", self.task.train, rows)
        read_flags, read_words = self._device_flags(reading.name, reading.examples, rows)
        params = {
            "neurons": len(layout.neurons),
            "clusters": len(parts),
            "chooses": int(parts[0].chosen is not None),
            "train_stride": train_stride,
            "train_flags": train_words,
            "read": turn.size if queries is None else len(queries.rows),
            "read_first": turn.offset + turn.first,
            "read_stride": read_stride,
            "read_flags": read_words,
            "flag_first": turn.first,
            "blocked": 0 if turn.blocks is None else turn.size,
            "leaves_one": int(turn.leaves_one),
            **gpu_rules.rule_of(cells, self.memory.sample_rate),
        }
        arrays = {
            "train": train,
            "neurons": _array(layout.neurons),
            "clusters": _array(layout.clusters),
            "plan": _array(layout.plan),
            "own_block": _array(turn.own_block()),
        }
        to_write = {
            "flags": train_flags,
            "chosen": _array(layout.chosen),
            "params": _numbers(gpu_kernels.PARAMS, params | {"chunks": work.write_chunks}),
        }
        threads = gpu_kernels.THREADS if cells.counting else gpu_kernels.LANES
        memory = self._kernels[f"wnn_write_{self._kind}"](
            arrays | to_write,
            output_shapes=[(layout.n_cells,), (layout.n_slots,)],
            output_dtypes=[mx.uint32 if cells.counting else mx.uint8, mx.uint32],
            grid=(threads * work.write_chunks * len(layout.neurons), 1, 1),
            threadgroup=(threads, 1, 1),
            init_value=0,
        )
        to_read = {
            "examples": examples,
            "flags": read_flags,
            "params": _numbers(gpu_kernels.PARAMS, params | {"chunks": work.read_chunks}),
            "cells": memory[0],
            "slots": memory[1],
            "votes": self._device_votes(),
        }
        if queries is not None:
            to_read["rows"] = _array((queries.rows - turn.first).astype(np.uint32))
        return arrays | to_read

    def _device_votes(self) -> Any:
        """Return what cells vote on the GPU, a row for every table."""
        if self._votes is None:
            self._votes = _array(gpu_rules.votes_of(self.cells))
        return self._votes

    def _inputs(self, name: str, inputs: NDArray[np.uint64]) -> tuple[Any, int]:
        """Return packed inputs on the GPU, and how many examples are in a row of them."""
        key = "inputs", name
        if key not in self._on_device:
            self._on_device[key] = _array(gpu_layout.by_word(inputs))
        return self._on_device[key], len(inputs)

    def _resident_bytes(self, reading: Reading) -> int:
        """Return what examples, their flags and what cells vote take on the GPU."""
        parts = {"train": self.task.train, reading.name: reading.examples}
        n_rows = min(self.task.n_head_outputs, self._most_rows)
        of_parts = sum(p.inputs.nbytes + n_rows * (len(p) // 8 + 4) for p in parts.values())
        of_others = sum(int(its.nbytes) for its in self._others(reading).values())
        return of_parts + of_others + gpu_rules.votes_bytes(self.cells)

    def _others(self, reading: Reading) -> dict[tuple[str, str], Any]:
        """Return what is on the GPU of other readings."""
        names = "train", reading.name
        return {key: its for key, its in self._on_device.items() if key[1] not in names}

    @property
    def _most_rows(self) -> int:
        return max(1, _FLAGS_BYTES // (len(self.task.train) // 8 + 4))

    def _flag_rows(self, outputs: Sequence[int]) -> dict[int, int]:
        """Return the row of flags of each output's clusters, in the order of rows."""
        if self.task.n_head_outputs <= self._most_rows:
            outputs = range(self.task.n_head_outputs)
        return {k: row for row, k in enumerate(dict.fromkeys(outputs))}

    def _device_flags(
        self, name: str, examples: Examples, outputs: Sequence[int]
    ) -> tuple[Any, int]:
        """Return which examples are positive, a row per output, and the words of a row."""
        key = "flags", name
        flags = self._on_device.get(key)
        if flags is None:
            rows = [self._flags(name, examples.targets, k) for k in outputs]
            flags = _array(gpu_layout.pack_flags(rows))
            if self.task.n_head_outputs <= self._most_rows:
                self._on_device[key] = flags
        return flags, -(-len(examples) // 32)


def _free_bytes(info: dict[str, Any]) -> int:
    """Return how much memory a GPU can give, from what MLX says of it."""
    for name in ("max_recommended_working_set_size", "free_memory", "total_memory", "memory_size"):
        if info.get(name):
            return int(info[name])
    raise InputError("evaluator.device_bytes: MLX does not say how much there is; give a number")


def _in_runs(
    order: NDArray[np.int64], rows: NDArray[np.int64], turn: Turn, most: int
) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers of queries that stand for a turn's examples, up to ``most`` at a time.

    Args:
        order: Numbers by the examples.
        rows: The examples.
        turn: Says which of them.
        most: See there.
    """
    first, last = np.searchsorted(rows, [turn.first, turn.first + turn.size], sorter=order)
    for start in range(int(first), int(last), most):
        yield order[start : min(start + most, int(last))]


def _widest(wiring: Sequence[Wiring]) -> int:
    return max(int(its.connections.shape[1]) for its in wiring)


def _array(values: NDArray[Any]) -> Any:
    """Return an array on the GPU, of 32-bit numbers; small ones are padded (see the plan)."""
    kind = np.uint32 if values.dtype.kind == "u" else np.int32
    flat = values.astype(kind, copy=False).ravel()
    if flat.size < gpu_layout.LEAST_ELEMENTS:
        flat = np.pad(flat, (0, gpu_layout.LEAST_ELEMENTS - flat.size))
    return mx.array(flat)


def _numbers(names: Sequence[str], numbers: dict[str, int]) -> Any:
    """Return numbers in the order of their names."""
    return _array(np.array([numbers[name] for name in names], np.uint32))


def _whole(halves: NDArray[np.int32] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return votes as one integer each, from votes, or votes and weights, along the first axis."""
    votes = halves[0].astype(np.int64)
    return votes if len(halves) == 1 else pack(votes, halves[1].astype(np.int64))


def _scores(words: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return summed votes, and summed weights, ``int64[2, n, 2]``, from pairs of words."""
    numbers = np.ascontiguousarray(words).view("<i8").reshape(len(words), 2, 2)
    return numbers.transpose(1, 0, 2)
