"""The genomes of a study's trials: read once, the last ones kept."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Final

import numpy as np
import optuna
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.genome import Genome
from optuna_wnn.store.codec import MOST_DEPTH
from optuna_wnn.store.codec import Header
from optuna_wnn.store.codec import decoded
from optuna_wnn.store.codec import encoded
from optuna_wnn.store.codec import handle_of
from optuna_wnn.store.codec import pieces_of
from optuna_wnn.store.codec import read_header


_OBJECT: Final = 1_000  # bytes of a small object with all that it refers to


class GenomeReader:
    """Reads the genomes of one study's trials, and keeps those read last.

    What it keeps goes by the genomes' checksums: a trial whose genome another process replaced
    is never mistaken. Threads may share it.

    Args:
        attributes_of: Returns the system attributes of the trial with a given number.
        budget: Bytes of unpacked genomes to keep.
        unread_budget: Bytes of what others stored to keep until it is unpacked.
    """

    def __init__(
        self,
        attributes_of: Callable[[int], Mapping[str, Any]],
        budget: int = 64 << 20,
        unread_budget: int = 16 << 20,
    ) -> None:
        self._attributes_of = attributes_of
        self._budget = budget
        self._kept: dict[str, Genome] = {}  # least recently used first
        self._settled: dict[int, tuple[str, int]] = {}  # number -> checksum and depth
        self._bytes = 0
        self._unread: dict[int, Mapping[str, Any]] = {}  # by number, oldest first
        self._unread_budget = unread_budget
        self._unread_bytes = 0
        self._lock = threading.RLock()

    def read(self, number: int) -> Genome:
        """Return the genome of trial ``number``.

        Raises:
            InputError: If it has none, or a damaged one.
        """
        return self.read_with_depth(number)[0]

    def read_with_depth(self, number: int, deepest: int = MOST_DEPTH) -> tuple[Genome, int]:
        """Return a genome, and how many trials lie between it and one that is stored alone.

        Raises:
            InputError: If there is none, it is damaged, or more than ``deepest`` trials are named.
        """
        settled = self._settled.get(number)
        genome = None if settled is None else self._kept.get(settled[0])
        if settled is not None and genome is not None:
            self.keep(genome)
            return genome, settled[1]
        where = f"trial {number}"
        attributes = self._taken(number) or self._attributes_of(number)
        header = read_header(attributes, where)
        if header is None:
            raise InputError(f"{where}: no genome is stored with it")
        if header.depth > deepest:  # damage could lead round in circles
            raise InputError(f"{where}: its genome does not descend from those that it names")
        return self._unpack(header, attributes, where), header.depth

    def unpack(self, attributes: Mapping[str, Any], where: str) -> Genome | None:
        """Return the genome in a trial's system attributes, or ``None``.

        Raises:
            InputError: If it is damaged.
        """
        header = read_header(attributes, where)
        return None if header is None else self._unpack(header, attributes, where)

    def settle(self, number: int, attributes: Mapping[str, Any]) -> int | None:
        """Take in what a trial ended with, which changes no more: saves a query a read.

        Returns:
            The handle of its genome, or ``None`` if it has none.

        Raises:
            InputError: If what is stored there is no genome.
        """
        header = read_header(attributes, f"trial {number}")
        if header is None:
            return None
        with self._lock:
            self._settled[number] = header.checksum, header.depth
            if header.checksum not in self._kept:
                self._unread[number] = attributes
                self._unread_bytes += _length(attributes)
                while self._unread_bytes > self._unread_budget:
                    self._taken(next(iter(self._unread)))
        return handle_of(header)

    def _taken(self, number: int) -> Mapping[str, Any] | None:
        """Return what a trial ended with if it is kept unread, and keep it no longer."""
        with self._lock:
            attributes = self._unread.pop(number, None)
            if attributes is not None:
                self._unread_bytes -= _length(attributes)
            return attributes

    def keep(self, genome: Genome) -> None:
        """Remember a genome that will be read soon."""
        with self._lock:
            if self._kept.pop(genome.checksum, None) is None:
                self._bytes += _size(genome)
            self._kept[genome.checksum] = genome
            while self._bytes > self._budget and len(self._kept) > 2:
                self._bytes -= _size(self._kept.pop(next(iter(self._kept))))

    def _unpack(self, header: Header, attributes: Mapping[str, Any], where: str) -> Genome:
        with self._lock:
            genome = self._kept.get(header.checksum)
            if genome is None:
                nearer = header.depth - 1
                parents = [self.read_with_depth(n, nearer)[0] for n in header.parents]
                genome = decoded(header, attributes, parents, where)
            self.keep(genome)
            return genome


def _size(genome: Genome) -> int:
    """Return about how many bytes a genome takes, with what it remembers of itself."""
    arrays = 4 * (2 * genome.n_clusters + genome.n_connections)
    return arrays + 24 * genome.n_neurons + _OBJECT


def _length(attributes: Mapping[str, Any]) -> int:
    """Return about how many bytes attributes take."""
    return sum(len(value) if isinstance(value, str) else _OBJECT for value in attributes.values())


def genome_attributes(
    genome: Genome,
    cluster_losses: NDArray[np.float64] | None = None,
    reader: GenomeReader | None = None,
    parents: Sequence[int] = (),
) -> dict[str, str]:
    """Return the system attributes that hold ``genome``.

    Args:
        genome: The genome.
        cluster_losses: The loss of each of its clusters, ``float64[K]``, where it is known.
        reader: Reads the parents; without it the genome is stored alone.
        parents: Numbers of the trials that it descends from.
    """
    known = []
    if reader is not None:
        for number in dict.fromkeys(parents):
            parent, depth = reader.read_with_depth(number)
            known.append((number, depth, parent))
        reader.keep(genome)
    return pieces_of(encoded(genome, known), cluster_losses)


def genome_reader(study: optuna.Study) -> GenomeReader:
    """Return the reader of the genomes of a study's trials; there is one per study object."""
    reader = _READERS.get(study)
    if reader is None:
        storage, study_id = study._storage, study._study_id

        def attributes_of(number: int) -> Mapping[str, Any]:
            try:
                trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
            except KeyError as error:
                raise InputError(f"trial {number}: the study has no such trial") from error
            attributes: Mapping[str, Any] = storage.get_trial(trial_id).system_attrs
            return attributes

        reader = _READERS.setdefault(study, GenomeReader(attributes_of))
    return reader


_READERS: weakref.WeakKeyDictionary[optuna.Study, GenomeReader] = weakref.WeakKeyDictionary()
