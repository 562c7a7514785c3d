"""What a GPU launch takes, and how clusters are shared out among launches."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from typing import Final
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators.cells import Cells
from optuna_wnn.evaluators.gpu_kernels import CANDIDATE
from optuna_wnn.evaluators.gpu_kernels import CLUSTER
from optuna_wnn.evaluators.gpu_kernels import LANES
from optuna_wnn.evaluators.gpu_kernels import NEURON
from optuna_wnn.evaluators.gpu_kernels import READ_CHUNK
from optuna_wnn.evaluators.gpu_kernels import THREADS
from optuna_wnn.evaluators.gpu_kernels import WRITE_CHUNK
from optuna_wnn.evaluators.readings import Reading


Words = NDArray[np.uint32]

DENSE_BITS: Final = 22  # up to here a neuron's table has a cell per address

COUNT_BYTES: Final = 4  # a cell that counts has two of these
STATE_BYTES: Final = 1

MOST_ELEMENTS: Final = 2**31 - 1  # of one array, and threads of one launch: MLX counts in int
_MOST_PAIRS: Final = 1 << 30  # (neuron, example): Apple's watchdog stops what takes seconds
_MOST_TABLES: Final = 64  # of a neuron at a time, where blocks are left out
_SLOTS_PER_EXAMPLE: Final = 2
_FEWEST_SLOTS: Final = 16
_SCORE_WORDS: Final = 8
_TOTAL_WORDS: Final = 4
_PAIR: Final = 2


class Cost(NamedTuple):
    """What a launch takes, or may take at most.

    Attributes:
        bytes: Of the GPU's memory.
        cells: Elements of the array of cells.
        slots: Elements of the array of slots.
        sums: Elements of the array of sums.
        pairs: Of a neuron and an example.
        write_threads: Of the kernel that writes.
        read_threads: Of the kernel that reads.
    """

    bytes: int
    cells: int
    slots: int
    sums: int
    pairs: int
    write_threads: int
    read_threads: int


def most(memory: int, buffer: int | None = None, cell_bytes: int = 4) -> Cost:
    """Return what a launch may take.

    Args:
        memory: Bytes of the GPU's memory that it may take.
        buffer: Most bytes of one array, if there is such a limit.
        cell_bytes: Of an element of the array of cells.
    """
    cells = words = MOST_ELEMENTS
    if buffer is not None:
        cells, words = min(cells, buffer // cell_bytes), min(words, buffer // 4)
    return Cost(memory, cells, words, words, _MOST_PAIRS, MOST_ELEMENTS, MOST_ELEMENTS)


@dataclass(frozen=True)
class Turn:
    """The examples that one launch reads, and what is left out of the memory they read.

    Attributes:
        first: The first of them, among those of the reading.
        size: How many there are.
        offset: Where the reading's first example stands among the inputs that are read.
        blocks: As in :class:`Reading`, of these examples only; ``None`` if nothing is left out
            or each example is left out of its own memory.
        leaves_one: Whether each example is.
    """

    first: int
    size: int
    offset: int
    blocks: NDArray[np.int64] | None
    leaves_one: bool

    @property
    def n_tables(self) -> int:
        """Tables per neuron: one of all examples, and one of each block."""
        return 1 if self.blocks is None else len(self.blocks)

    def own_block(self) -> Words:
        """Return the block of every example, ``uint32[size]``, or nothing without blocks."""
        if self.blocks is None:
            return np.zeros(0, np.uint32)
        numbers = np.arange(len(self.blocks) - 1, dtype=np.uint32)
        return np.repeat(numbers, np.diff(self.blocks))


def turns_of(reading: Reading, tables: int) -> Iterator[Turn]:
    """Yield what is read together.

    Args:
        reading: What is read.
        tables: Most tables per neuron at a time; 2 or more where blocks are left out.
    """
    blocks = reading.blocks
    if blocks is None:
        yield Turn(0, len(reading.examples), 0, None, False)
        return
    offset, n_blocks = int(blocks[0]), len(blocks) - 1
    if reading.one_by_one:
        yield Turn(0, n_blocks, offset, None, True)
        return
    step = max(1, tables - 1)
    for start in range(0, n_blocks, step):
        some = blocks[start : start + step + 1]
        first, last = int(some[0]), int(some[-1])
        yield Turn(first - offset, last - first, offset, some, False)


@dataclass(frozen=True)
class Table:
    """One table of a neuron.

    Attributes:
        size: Its cells.
        slots: Where addresses are looked up, a power of two; 0 if cells stand by address.
    """

    size: int
    slots: int


def table_of(n_bits: int, n_written: int, dense_bits: int = DENSE_BITS) -> Table:
    """Return the table of a neuron with ``n_bits`` inputs that learns ``n_written`` examples."""
    if n_bits <= dense_bits:
        return Table(1 << n_bits, 0)
    slots = _FEWEST_SLOTS
    while slots < _SLOTS_PER_EXAMPLE * n_written:
        slots *= 2
    return Table(slots, slots)


def tables_within(cells: Cells, table: Table, limit: Cost) -> int:
    """Return how many tables a neuron may have, so that one fits twice; 2 or more."""
    words = table.size * (2 if cells.counting else 1)
    size = words * (COUNT_BYTES if cells.counting else STATE_BYTES)
    return max(2, min(_MOST_TABLES, limit.cells // (2 * words), limit.bytes // (2 * size)))


@dataclass(frozen=True, eq=False)
class Wiring:
    """One cluster, or some of its neurons, as launches see it.

    Attributes:
        connections: Ascending in each row, ``int32[n, bits]``.
        keys: What the draws of each neuron's sample start from, ``uint64[n]``.
        flags: The row of flags that says which examples are positive ones.
        votes: The row of what its cells vote.
        chosen: The examples that it learns; ``None`` if all of them.
        asked: How many inputs it reads in place of the turn's examples; ``None`` for these.
    """

    connections: NDArray[np.int32]
    keys: NDArray[np.uint64]
    flags: int
    votes: int
    chosen: Words | None
    asked: int | None = None

    def part(self, first: int, last: int) -> Wiring:
        """Return the same of the neurons ``first`` to ``last``."""
        return replace(self, connections=self.connections[first:last], keys=self.keys[first:last])


class Part(NamedTuple):
    """Neurons ``first`` to ``last`` of the cluster that was given at ``place``."""

    place: int
    first: int
    last: int


@dataclass(frozen=True)
class Work:
    """What all clusters of a call have in common.

    Attributes:
        cells: How cells are written and vote.
        n_written: How many examples write the memory, at most.
        turn: What is read.
        dense_bits: Up to how many bits a neuron has a cell per address.
        query_bytes: What an input takes that is read in place of an example.
    """

    cells: Cells
    n_written: int
    turn: Turn
    dense_bits: int = DENSE_BITS
    query_bytes: int = 0

    @property
    def cell_words(self) -> int:
        """Elements per cell: two counts, or a state."""
        return 2 if self.cells.counting else 1

    @property
    def cell_bytes(self) -> int:
        """Bytes of such an element."""
        return COUNT_BYTES if self.cells.counting else STATE_BYTES

    @property
    def n_sums(self) -> int:
        """Sums per cluster and example: of votes, and of weights where there are such."""
        return 2 if self.cells.packed else 1

    @property
    def write_chunks(self) -> int:
        """Threadgroups that write the memory of a neuron."""
        return max(1, -(-self.n_written // WRITE_CHUNK)) if self.cells.counting else 1

    @property
    def read_chunks(self) -> int:
        """Threadgroups that read the turn's examples with a cluster."""
        return -(-self.turn.size // READ_CHUNK)

    def n_read(self, wiring: Wiring) -> int:
        """Return how many inputs a cluster reads."""
        return self.turn.size if wiring.asked is None else wiring.asked

    def table(self, n_bits: int) -> Table:
        """Return the table of a neuron with ``n_bits`` inputs."""
        return table_of(n_bits, self.n_written, self.dense_bits)

    def of_neuron(self, n_bits: int, n_read: int | None = None) -> Cost:
        """Return what a neuron with ``n_bits`` inputs adds to a launch.

        Args:
            n_bits: See there.
            n_read: How many inputs it reads; ``None`` for the turn's examples.
        """
        table = self.table(n_bits)
        cells = table.size * self.turn.n_tables * self.cell_words
        words = table.slots + _SCORE_WORDS + len(NEURON) + 2 * n_bits
        return Cost(
            bytes=cells * self.cell_bytes + 4 * words,
            cells=cells,
            slots=table.slots,
            sums=0,
            pairs=self.n_written + (self.turn.size if n_read is None else n_read),
            write_threads=THREADS * self.write_chunks if self.cells.counting else LANES,
            read_threads=0,
        )

    def of_part(self, wiring: Wiring) -> Cost:
        """Return what a cluster adds, besides its neurons."""
        sums = self.n_read(wiring) * self.n_sums
        chosen = 0 if wiring.chosen is None else len(wiring.chosen)
        size = 4 * (sums + chosen + len(CLUSTER))
        if wiring.asked is not None:
            size += self.query_bytes * wiring.asked
        chunks = -(-self.n_read(wiring) // READ_CHUNK)
        return Cost(size, 0, 0, sums, 0, 0, THREADS * chunks)

    def of_candidate(self, n_members: int) -> Cost:
        """Return what a candidate with so many members adds, besides their training."""
        words = len(CANDIDATE) + _PAIR * n_members + _TOTAL_WORDS
        pairs = n_members * self.turn.size
        return Cost(4 * words, 0, 0, 0, pairs, 0, THREADS * self.read_chunks)


def plan_launches(work: Work, clusters: Sequence[Wiring], limit: Cost) -> list[list[Part]]:
    """Return the clusters, shared out among as few launches as their order allows.

    Args:
        work: What all have in common.
        clusters: What is to be computed.
        limit: What a launch may take.

    Raises:
        InputError: If a single neuron takes more.
    """
    launches: list[list[Part]] = []
    left = list(limit)
    for place, wiring in enumerate(clusters):
        neuron = work.of_neuron(wiring.connections.shape[1], work.n_read(wiring))
        part = work.of_part(wiring)
        first, n_neurons = 0, len(wiring.connections)
        while first < n_neurons:
            fits = _fitting(left, neuron, part)
            if not launches or fits < 1:
                left = list(limit)
                launches.append([])
                fits = _fitting(left, neuron, part)
            if fits < 1:
                _refuse(wiring, neuron, part, limit)
            last = min(n_neurons, first + fits)
            launches[-1].append(Part(place, first, last))
            left = [
                room - each * (last - first) - once
                for room, each, once in zip(left, neuron, part, strict=True)
            ]
            first = last
    return launches


def _fitting(left: Sequence[int], neuron: Cost, part: Cost) -> int:
    """Return how many neurons of a cluster there is room for."""
    rooms = [
        (room - once) // each if each else (MOST_ELEMENTS if once <= room else 0)
        for room, each, once in zip(left, neuron, part, strict=True)
    ]
    return min(rooms)


def _refuse(wiring: Wiring, neuron: Cost, part: Cost, limit: Cost) -> None:
    n_bits = wiring.connections.shape[1]
    raise InputError(
        f"evaluator.device_bytes: a neuron of {n_bits} bits and its cluster's sums take "
        f"{neuron.bytes + part.bytes} bytes, a launch may take {limit.bytes}; "
        "raise it, or choose the cpu backend"
    )
