"""What a study remembers: genomes, lineage and settings as attributes.

The only module that spells storage keys and Optuna's private names. A genome is a system
attribute of its trial (optuna-dashboard does not send those to the browser): one string of
base64 in pieces below 60,000 bytes, since MySQL's TEXT ends at 65,535. A large genome is
compressed against its parents, so a child costs kilobytes even where a genome costs megabytes;
trials are named by number, never by id, so a copied study still reads.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import re
import threading
import weakref
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from typing import Final
from typing import TypeVar

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from optuna.trial import Trial
from optuna.trial import TrialState

from optuna_wnn import packing
from optuna_wnn.errors import InputError
from optuna_wnn.genome import HANDLE_BITS
from optuna_wnn.genome import Genome
from optuna_wnn.rdb import TrialTables


GENOME_PARAMETER: Final = "genome"

_GENOME: Final = "wnn:genome"
_CHILD: Final = "wnn:child"
_CLAIM: Final = "wnn:claim"
_STALE: Final = "wnn:stale"
_STUDY: Final = "wnn:study:"
_WORKER: Final = "wnn:worker:"
_GENERATION: Final = "wnn:generation:"
_FIGURE: Final = "dashboard:plot_data:"  # what optuna-dashboard 0.21 writes
_CONSTRAINTS: Final = "constraints"  # what both Optuna 5 and optuna-dashboard 0.21 read

SCHEMA: Final = 1  # goes up when a study that was written before cannot be read any more
_SCHEMA: Final = "schema"
_VERSION: Final = "1"
_HEX: Final = re.compile("[0-9a-f]{32}")
_LOSSES: Final = "|"  # between a genome's text and its clusters' losses
_PIECE: Final = 59_900  # bytes of one attribute, less what JSON and the count of pieces add
_ALONE: Final = 6_000  # bytes of base64 up to which a genome is stored without its parents
_MOST_RUNNING: Final = 64  # trials whose attributes are remembered while they run
_MOST_DEPTH: Final = 16  # a genome this far from one stored alone is stored alone as well
_SURELY_LARGE: Final = 16_000  # connections from which on no genome fits into _ALONE


# -- genome <-> attributes -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Header:
    """What stands before a stored genome's bytes.

    Attributes:
        pieces: How many attributes the genome takes.
        depth: How many trials lie between it and one that is stored alone.
        parents: Numbers of the trials that it is stored as a difference from.
        digest: The genome's digest.
        checksum: The genome's checksum.
        text: The first piece of the bytes.
    """

    pieces: int
    depth: int
    parents: tuple[int, ...]
    digest: str
    checksum: str
    text: str


def _encode(genome: Genome, parents: Sequence[tuple[int, int, Genome]]) -> str:
    """Return the text of a genome; ``parents`` are (number, depth, genome) of each."""
    if genome.n_connections > packing.MOST_CONNECTIONS:
        raise InputError(
            f"genome: {genome.n_connections} connections are too many to store; the most are "
            f"{packing.MOST_CONNECTIONS}"
        )
    text, names, depth = "", "", 0
    deepest = max((depth for _, depth, _ in parents), default=0)
    related = bool(parents) and deepest < _MOST_DEPTH
    if not related or genome.n_connections < _SURELY_LARGE:
        text = packing.pack(genome, ())
    if related and not 0 < len(text) <= _ALONE:
        text = packing.pack(genome, [parent for _, _, parent in parents])
        names, depth = ",".join(str(number) for number, _, _ in parents), deepest + 1
    return ":".join((_VERSION, str(depth), names, genome.digest, genome.checksum, text))


def _header(attributes: Mapping[str, Any], where: str) -> _Header | None:
    first = attributes.get(_GENOME)
    if first is None:
        return None
    try:
        count, first = first.split("|", 1)
        version, depth, names, digest, checksum, text = first.split(":")
        if version != _VERSION:
            raise ValueError(f"version {version}")
        if not (_HEX.fullmatch(digest) and _HEX.fullmatch(checksum)):
            raise ValueError("no digest")
        parents = tuple(int(name) for name in names.split(",") if name)
        if not 0 <= int(depth) <= _MOST_DEPTH or bool(parents) != (int(depth) > 0):
            raise ValueError(f"depth {depth}")
        return _Header(int(count), int(depth), parents, digest, checksum, text)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{where}: the stored genome is damaged, or of another version ({error}); use the "
            "optuna-wnn that wrote it"
        ) from error


def _unpacked(
    header: _Header, attributes: Mapping[str, Any], parents: Sequence[Genome], where: str
) -> Genome:
    """Return the genome that a trial's attributes hold."""
    try:
        text, _, _ = _joined(header, attributes).partition(_LOSSES)
        genome = packing.unpack(text, parents)
    except KeyError as error:
        raise InputError(f"{where}: a piece of the stored genome is missing") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}; the storage is damaged") from error
    for name in ("digest", "checksum"):
        if getattr(genome, name) != getattr(header, name):
            raise InputError(f"{where}: the stored genome does not fit its {name}")
    return genome


def _joined(header: _Header, attributes: Mapping[str, Any]) -> str:
    pieces = (attributes[f"{_GENOME}:{i}"] for i in range(1, header.pieces))
    return "".join([header.text, *pieces])


def _pieces(text: str, losses: NDArray[np.float64] | None = None) -> dict[str, str]:
    """Return the attributes that hold a genome's text, and the loss of each of its clusters.

    The first tells how many there are.
    """
    if losses is not None:
        text += _LOSSES + base64.b64encode(losses.astype("<f8").tobytes()).decode()
    pieces = [text[i : i + _PIECE] for i in range(0, len(text), _PIECE)]
    head = {_GENOME: f"{len(pieces)}|{pieces[0]}"}
    return head | {f"{_GENOME}:{i}": pieces[i] for i in range(1, len(pieces))}


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
    return _pieces(_encode(genome, known), cluster_losses)


def read_cluster_losses(attributes: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Return the loss of each cluster in a trial's system attributes, or ``None``.

    Raises:
        InputError: If what is stored there is no genome.
    """
    header = _header(attributes, "a trial")
    if header is None:
        return None
    try:
        _, mark, text = _joined(header, attributes).partition(_LOSSES)
        return np.frombuffer(base64.b64decode(text), "<f8") if mark else None
    except (KeyError, ValueError) as error:
        raise InputError(f"a trial's stored losses are damaged ({error})") from error


def _handle(header: _Header) -> int:
    return int(header.digest, 16) >> (128 - HANDLE_BITS)


class GenomeReader:
    """Reads the genomes of one study's trials, and keeps those read last.

    What it keeps goes by the genomes' checksums: a trial whose genome another process replaced
    is never mistaken. Threads may share it.

    Args:
        attributes_of: Returns the system attributes of the trial with a given number.
        budget: Bytes of unpacked genomes to keep.
    """

    def __init__(
        self, attributes_of: Callable[[int], Mapping[str, Any]], budget: int = 256 << 20
    ) -> None:
        self._attributes_of = attributes_of
        self._budget = budget
        self._kept: dict[str, Genome] = {}  # least recently used first
        self._settled: dict[int, tuple[str, int]] = {}  # number -> checksum and depth
        self._bytes = 0
        self._lock = threading.RLock()

    def read(self, number: int) -> Genome:
        """Return the genome of trial ``number``.

        Raises:
            InputError: If it has none, or a damaged one.
        """
        return self.read_with_depth(number)[0]

    def read_with_depth(self, number: int, deepest: int = _MOST_DEPTH) -> tuple[Genome, int]:
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
        attributes = self._attributes_of(number)
        header = _header(attributes, where)
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
        header = _header(attributes, where)
        return None if header is None else self._unpack(header, attributes, where)

    def settle(self, number: int, attributes: Mapping[str, Any]) -> int | None:
        """Take in what a trial ended with, which changes no more: saves a query a read.

        Returns:
            The handle of its genome, or ``None`` if it has none.

        Raises:
            InputError: If what is stored there is no genome.
        """
        header = _header(attributes, f"trial {number}")
        if header is None:
            return None
        self._settled[number] = header.checksum, header.depth
        return _handle(header)

    def keep(self, genome: Genome) -> None:
        """Remember a genome that will be read soon."""
        with self._lock:
            if self._kept.pop(genome.checksum, None) is None:
                self._bytes += _size(genome)
            self._kept[genome.checksum] = genome
            while self._bytes > self._budget and len(self._kept) > 2:
                self._bytes -= _size(self._kept.pop(next(iter(self._kept))))

    def _unpack(self, header: _Header, attributes: Mapping[str, Any], where: str) -> Genome:
        with self._lock:
            genome = self._kept.get(header.checksum)
            if genome is None:
                nearer = header.depth - 1
                parents = [self.read_with_depth(n, nearer)[0] for n in header.parents]
                genome = _unpacked(header, attributes, parents, where)
            self.keep(genome)
            return genome


def _size(genome: Genome) -> int:
    return 4 * (2 * genome.n_clusters + genome.n_connections)


# -- trials --------------------------------------------------------------------------------------


def write_genome(
    study: optuna.Study,
    trial: Trial | FrozenTrial,
    genome: Genome,
    parents: Sequence[int] = (),
    cluster_losses: NDArray[np.float64] | None = None,
) -> None:
    """Store a genome with a running trial; one that is there already is replaced.

    Args:
        study: The trial's study.
        trial: The trial.
        genome: The genome.
        parents: Numbers of the trials that it descends from.
        cluster_losses: The loss of each of its clusters, ``float64[K]``, where it is known.
    """
    attributes = genome_attributes(genome, cluster_losses, genome_reader(study), parents)
    for key in reversed(attributes):  # the first last, so that no reader sees half a genome
        _write(study._storage, trial, key, attributes[key])


def read_genome(trial: Trial | FrozenTrial, study: optuna.Study | None = None) -> Genome | None:
    """Return the genome stored with a trial, or ``None`` if there is none.

    Args:
        trial: A running or a finished trial.
        study: Its study; only needed for a finished trial whose genome is stored as a
            difference from its parents (genomes above 6 kB).

    Raises:
        InputError: If the genome is damaged, or ``study`` is needed.
    """
    return _genome_in(system_attributes(trial), trial, study)


def read_genome_and_child(trial: Trial | FrozenTrial) -> tuple[Genome | None, Child | None]:
    """Return the genome and the place of a trial by one look into the storage.

    Raises:
        InputError: As :func:`read_genome`.
    """
    attributes = system_attributes(trial)
    return _genome_in(attributes, trial, None), read_child(attributes)


def _genome_in(
    attributes: Mapping[str, Any], trial: Trial | FrozenTrial, study: optuna.Study | None
) -> Genome | None:
    where = f"trial {trial.number}"
    if isinstance(trial, Trial):
        study = trial.study
    if study is not None:
        return genome_reader(study).unpack(attributes, where)
    header = _header(attributes, where)
    if header is None:
        return None
    if header.parents:
        raise InputError(
            f"{where}: its genome is stored as a difference from its parents; pass the study too"
        )
    return _unpacked(header, attributes, (), where)


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


def system_attributes(trial: Trial | FrozenTrial) -> Mapping[str, Any]:
    """Return a trial's system attributes as they are now.

    Those of a running trial are what it started with and what was written here since: a trial
    is one process's own while it runs, so the storage need not be asked again.
    """
    if not isinstance(trial, Trial):
        return trial.system_attrs
    written = _WRITTEN.get(trial.storage, {}).get(trial._trial_id)
    if written is None:
        attributes: Mapping[str, Any] = trial.storage.get_trial(trial._trial_id).system_attrs
        return attributes
    return {**trial._cached_frozen_trial.system_attrs, **written}


def _write(storage: BaseStorage, trial: Trial | FrozenTrial, key: str, value: Any) -> None:
    """Store a system attribute of a running trial, and remember it while it runs."""
    storage.set_trial_system_attr(trial._trial_id, key, value)
    with _WRITING:
        trials = _WRITTEN.setdefault(storage, {})
        trials.setdefault(trial._trial_id, {})[key] = value
        while len(trials) > _MOST_RUNNING:
            del trials[next(iter(trials))]


# Per storage and trial, what was written here; the trials that began last.
_WRITTEN: weakref.WeakKeyDictionary[BaseStorage, dict[int, dict[str, Any]]] = (
    weakref.WeakKeyDictionary()
)
_WRITING: Final = threading.Lock()


def fixed_parameters(trial: FrozenTrial) -> Mapping[str, Any]:
    """Return the parameters that ``enqueue_trial`` fixed."""
    fixed: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
    return fixed


def trial_by_number(study: optuna.Study, number: int) -> FrozenTrial | None:
    """Return a trial as the storage has it now, or ``None`` if there is none of that number.

    Its price does not grow with the number of trials, unlike ``study.trials[number]``.
    """
    storage = study._storage
    try:
        found = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    except KeyError:
        return None
    return storage.get_trial(found)


def all_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return all trials of a study in the order of their numbers, not copied."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


@dataclass(frozen=True)
class Child:
    """The place of a trial in its study's history.

    Attributes:
        generation: Its generation, or its iteration of a tabu search; 0 for seeds.
        index: Its place there; a place is given out once.
        parents: Numbers of the trials that it descends from.
        handle: Handle of the genome that it was given, before any refinement; -1 without one.
        source: Which of a tabu search's sources it is a neighbour of.
        attribute: What a tabu list remembers of the move that made it.
        reverse: The attribute of the move that would undo that.
        is_seed: Whether it was put there with its result, and not evaluated here.
        worker: The process that evaluates it; see :mod:`optuna_wnn.workers`.
    """

    generation: int
    index: int
    parents: tuple[int, ...] = ()
    handle: int = -1
    source: int = 0
    attribute: tuple[Any, ...] | None = None
    reverse: tuple[Any, ...] | None = None
    is_seed: bool = False
    worker: str = ""

    def to_json(self) -> str:
        """Return the child as JSON text without its defaults."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        default = Child(self.generation, self.index)
        kept = {
            name: value
            for name, value in fields.items()
            if name in ("generation", "index") or value != getattr(default, name)
        }
        return json.dumps(kept, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Child:
        """Return the inverse of :meth:`to_json`.

        Raises:
            InputError: If the text is no child.
        """
        try:
            fields = json.loads(text)
            for name in ("parents", "attribute", "reverse"):
                if fields.get(name) is not None:
                    fields[name] = tuple(fields[name])
            return cls(**fields)
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"a trial's stored place is damaged, or of another version ({error}); use the "
                "optuna-wnn that wrote it"
            ) from error


def write_child(study: optuna.Study, trial: Trial | FrozenTrial, child: Child) -> None:
    """Store the place of a running trial in its study's history."""
    _write(study._storage, trial, _CHILD, child.to_json())


def read_child(attributes: Mapping[str, Any]) -> Child | None:
    """Return the place that a trial's system attributes tell, or ``None``."""
    text = attributes.get(_CHILD)
    return None if text is None else Child.from_json(text)


def child_of(trial: FrozenTrial) -> Child:
    """Return the place of a trial that :class:`Trials` began."""
    return Child.from_json(trial.system_attrs[_CHILD])


def child_attributes(child: Child) -> dict[str, str]:
    """Return the system attributes that hold a child's place, for ``create_trial``."""
    return {_CHILD: child.to_json()}


class Trials:
    """The trials of a study for one who runs it, of which only what is new is read.

    Args:
        study: The study.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._last = -1  # the highest id of a trial that was read
        self._unfinished: dict[int, TrialState] = {}  # by id
        self._next = 0  # trials below this number were read

    def news(self) -> list[FrozenTrial]:
        """Return the trials that are new or in another state, in the order of their numbers."""
        tables = _tables_of(self._study._storage)
        if tables is not None:
            new = tables.news(self._study._study_id, self._last, self._unfinished)
        else:
            new = [
                trial
                for trial in all_trials(self._study)
                if trial._trial_id > self._last
                or self._unfinished.get(trial._trial_id, trial.state) != trial.state
            ]
        for trial in new:
            self._last = max(self._last, trial._trial_id)
            self._next = max(self._next, trial.number + 1)
            self._unfinished.pop(trial._trial_id, None)
            if not trial.state.is_finished():
                self._unfinished[trial._trial_id] = trial.state
        return new

    def begin(
        self,
        child: Child,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        user_attributes: Mapping[str, Any],
        yields: Callable[[Child], bool],
    ) -> FrozenTrial | None:
        """Begin a trial of which all is known, by one transaction.

        Of two workers that would begin trials that exclude each other, the first one does. Where
        the storage cannot tell before, the second closes its trial as it closes stale ones.

        Args:
            child: Its place.
            params: Its parameters.
            distributions: Their distributions.
            user_attributes: What it shows.
            yields: Whether it gives way to another trial, which was begun since the last look.

        Returns:
            The trial, or ``None`` if it gave way.
        """
        study = self._study
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs=dict(user_attributes),
            system_attrs=child_attributes(child),
        )

        def gives_way(others: Iterable[Mapping[str, Any]]) -> bool:
            lasting = (read_child(other) for other in others if not is_stale(other))
            return any(yields(other) for other in lasting if other is not None)

        tables = _tables_of(study._storage)
        if tables is not None:
            made = tables.add(study._study_id, trial, self._last, gives_way)
            if made is None:
                return None
            trial._trial_id, trial.number = made
        else:
            trial._trial_id = study._storage.create_new_trial(study._study_id, trial)
            trial.number = self._number(trial._trial_id)
            if trial.number > self._next:
                since = all_trials(study)[self._next : trial.number]
                if gives_way(other.system_attrs for other in since):
                    mark_stale(study, trial)
                    return None
        if trial.number == self._next:  # else there are others, which are to be read
            self._last, self._next = trial._trial_id, trial.number + 1
        return trial

    def _number(self, trial_id: int) -> int:
        """Return a trial's number; to ask whether it is the next is cheaper than to read it."""
        storage = self._study._storage
        with contextlib.suppress(KeyError):
            if trial_id == storage.get_trial_id_from_study_id_trial_number(
                self._study._study_id, self._next
            ):
                return self._next
        return storage.get_trial(trial_id).number


def begin_waiting(
    study: optuna.Study,
    trial: FrozenTrial,
    child: Child,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    user_attributes: Mapping[str, Any],
) -> FrozenTrial | None:
    """Begin a trial that a user enqueued; the arguments are those of :meth:`Trials.begin`.

    Returns:
        The trial, or ``None`` if another worker was faster.
    """
    storage, trial_id = study._storage, trial._trial_id
    try:
        # Before it runs, so that whoever finds its worker dead knows its place.
        storage.set_trial_system_attr(trial_id, _CHILD, child.to_json())
        if not storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            return None
        storage.set_trial_system_attr(trial_id, _CHILD, child.to_json())
        for name, value in params.items():
            distribution = distributions[name]
            internal = distribution.to_internal_repr(value)
            storage.set_trial_param(trial_id, name, internal, distribution)
        for name, value in user_attributes.items():
            storage.set_trial_user_attr(trial_id, name, value)
    except UpdateFinishedTrialError:
        return None
    return storage.get_trial(trial_id)


def add_trial(study: optuna.Study, trial: FrozenTrial) -> None:
    """Store a trial that ``create_trial`` made, in one transaction."""
    tables = _tables_of(study._storage)
    if tables is not None:
        tables.add(study._study_id, trial)
    else:
        study.add_trial(trial)


def show(study: optuna.Study, trial: FrozenTrial, name: str, value: Any) -> None:
    """Store a user attribute of a running trial."""
    study._storage.set_trial_user_attr(trial._trial_id, name, value)
    trial.user_attrs[name] = value


def finish_trial(
    study: optuna.Study,
    trial: FrozenTrial,
    state: TrialState,
    values: Sequence[float] | None = None,
    attributes: Mapping[str, Any] = MappingProxyType({}),
) -> bool:
    """Finish a trial that :class:`Trials` began, as ``study.tell`` does, without reading it.

    Args:
        study: The trial's study.
        trial: The trial.
        state: How it ended.
        values: Its values, where it is complete.
        attributes: System attributes that it did not have before.

    Returns:
        Whether it was still running: another worker may have taken this one for dead.
    """
    storage, trial_id = study._storage, trial._trial_id
    tables = _tables_of(storage)
    try:
        if tables is not None and attributes.keys().isdisjoint(trial.system_attrs):
            if not tables.finish(trial_id, state, values, attributes):
                return False
        else:
            for key in reversed(list(attributes)):
                storage.set_trial_system_attr(trial_id, key, attributes[key])
            storage.set_trial_state_values(trial_id, state, values)
    except UpdateFinishedTrialError:
        return False
    trial.system_attrs.update(attributes)
    study.sampler.after_trial(study, trial, state, values)
    return True


def _tables_of(storage: BaseStorage) -> TrialTables | None:
    """Return the tables of a relational database; ``None`` for other storages."""
    backend = getattr(storage, "_backend", storage)
    if not isinstance(backend, RDBStorage):
        return None
    if storage not in _TABLES:
        _TABLES[storage] = TrialTables.of(backend.engine)
    return _TABLES[storage]


_TABLES: weakref.WeakKeyDictionary[BaseStorage, TrialTables | None] = weakref.WeakKeyDictionary()


def mark_stale(study: optuna.Study, trial: FrozenTrial) -> None:
    """Close a running trial whose worker is gone, so that its place is given out again.

    Several workers may do so at once.
    """
    with contextlib.suppress(UpdateFinishedTrialError):  # another worker was faster
        study._storage.set_trial_system_attr(trial._trial_id, _STALE, True)
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def is_stale(attributes: Mapping[str, Any]) -> bool:
    """Return whether a failed trial was closed because its worker was gone."""
    return bool(attributes.get(_STALE, False))


def write_constraint(study: optuna.Study, trial: Trial | FrozenTrial, violation: float) -> None:
    """Store how far a trial misses its final bar; at most 0 is feasible.

    Optuna 5 has ``set_constraint``, but optuna-dashboard 0.21 does not read what it writes. Both
    read the list that Optuna 4 wrote.
    """
    _write(study._storage, trial, _CONSTRAINTS, [float(violation)])


def constraint_attributes(violations: Sequence[float]) -> dict[str, list[float]]:
    """Return the system attributes that hold constraint values, for ``create_trial``."""
    return {_CONSTRAINTS: [float(v) for v in violations]} if violations else {}


def create_trial(study: optuna.Study, template: FrozenTrial) -> int:
    """Add a trial, in whatever state, in one step, and return its number.

    Whoever looks for trials afterwards sees all of lower numbers.
    """
    storage = study._storage
    created = storage.create_new_trial(study._study_id, template_trial=template)
    return storage.get_trial(created).number


def write_user_attributes(study: optuna.Study, number: int, attributes: Mapping[str, Any]) -> None:
    """Store what the dashboard shows of a running trial."""
    storage = study._storage
    found = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    for name, value in attributes.items():
        storage.set_trial_user_attr(found, name, value)


@dataclass(frozen=True)
class Claim:
    """What a trial of a sweep is: a worker runs one configuration.

    Attributes:
        place: The configuration's number within the sweep.
        overrides: What it overrides, by dotted keys.
        worker: The process that runs it; see :mod:`optuna_wnn.workers`.
    """

    place: int
    overrides: Mapping[str, Any]
    worker: str


def claim_attributes(claim: Claim) -> dict[str, str]:
    """Return the system attributes that hold a claim, for ``create_trial``."""
    return {_CLAIM: json.dumps([claim.place, claim.overrides, claim.worker])}


def read_claim(attributes: Mapping[str, Any]) -> Claim | None:
    """Return the claim in a trial's system attributes, or ``None``."""
    text = attributes.get(_CLAIM)
    try:
        return None if text is None else Claim(*json.loads(text))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"a trial's stored claim is damaged ({error}); restore the storage from a copy"
        ) from error


# -- studies -------------------------------------------------------------------------------------


def write_setting(study: optuna.Study, name: str, value: Any) -> None:
    """Store a JSON value with a study, where the dashboard does not show it."""
    study._storage.set_study_system_attr(study._study_id, _STUDY + name, value)


def read_setting(study: optuna.Study, name: str) -> Any:
    """Return a value that :func:`write_setting` stored, or ``None``."""
    return study._storage.get_study_system_attrs(study._study_id).get(_STUDY + name)


Read = TypeVar("Read", bound=Callable[..., Any])


def reads_storage(read: Read) -> Read:
    """Have a function raise :class:`InputError` where what it reads from a storage is damaged.

    Args:
        read: A function that takes a storage and the name of a run.
    """

    @functools.wraps(read)
    def wrapped(storage: BaseStorage, name: str) -> Any:
        try:
            return read(storage, name)
        except InputError:
            raise
        except (
            AttributeError,
            IndexError,
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
        ) as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            raise InputError(
                f"{name}: what is stored of it is damaged ({reason}); restore the storage from a "
                "copy, or use the optuna-wnn that wrote it"
            ) from error

    return wrapped  # type: ignore[return-value]


def write_schema(study: optuna.Study) -> None:
    """Store by which rules a study is written; to be called before any other setting is."""
    write_setting(study, _SCHEMA, SCHEMA)


def check_schema(study: optuna.Study) -> None:
    """Check that a study is written by the rules that are known here.

    Raises:
        InputError: If an older or a newer version wrote it.
    """
    settings = study._storage.get_study_system_attrs(study._study_id)
    found = settings.get(_STUDY + _SCHEMA)
    if found == SCHEMA or not any(key.startswith(_STUDY) for key in settings):
        return  # one without settings was killed before it had any
    if isinstance(found, int) and found > SCHEMA:
        raise InputError(
            f"study {study.study_name}: a newer optuna-wnn wrote it (storage schema {found}, this "
            f"one knows {SCHEMA}); run: pip install --upgrade optuna-wnn"
        )
    raise InputError(
        f"study {study.study_name}: an optuna-wnn from before 0.1.0 wrote it, or its attributes "
        "are damaged; choose another --name, or use the version that wrote it"
    )


def write_generation(study: optuna.Study, generation: int, plan: Sequence[Any]) -> None:
    """Store what a generation starts with: threshold, level, population, mutation rate."""
    key = f"{_GENERATION}{generation}"
    study._storage.set_study_system_attr(study._study_id, key, list(plan))


def read_generations(study: optuna.Study) -> dict[int, list[Any]]:
    """Return what :func:`write_generation` stored, by generation."""
    attributes = study._storage.get_study_system_attrs(study._study_id)
    return {
        int(key.removeprefix(_GENERATION)): plan
        for key, plan in attributes.items()
        if key.startswith(_GENERATION)
    }


def read_figure(study: optuna.Study, name: str) -> str:
    """Return the JSON text of a figure that optuna-dashboard saved with a study, or nothing."""
    attributes = study._storage.get_study_system_attrs(study._study_id)
    prefix = f"{_FIGURE}{name}:"
    count = sum(key.startswith(prefix) for key in attributes)
    return "".join(attributes[f"{prefix}{i}"] for i in range(count))


def write_worker(study: optuna.Study, worker: str, sign: Sequence[int]) -> None:
    """Store a sign of life of a worker; none of its signs is like the one before."""
    study._storage.set_study_system_attr(study._study_id, _WORKER + worker, list(sign))


def read_workers(study: optuna.Study) -> dict[str, tuple[int, ...]]:
    """Return the last sign of life of every worker that ever worked on a study."""
    attributes = study._storage.get_study_system_attrs(study._study_id)
    return {
        key.removeprefix(_WORKER): tuple(sign)
        for key, sign in attributes.items()
        if key.startswith(_WORKER)
    }


def identity(study: optuna.Study) -> tuple[int, int]:
    """Return what names a study within this process for as long as its storage is open."""
    return id(study._storage), study._study_id
