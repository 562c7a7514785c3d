"""A study's trials as the samplers see them, kept up to date at a price that does not grow."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import Final

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_wnn.store.codec import read_cluster_losses
from optuna_wnn.store.places import Child
from optuna_wnn.store.places import read_child
from optuna_wnn.store.reader import genome_reader
from optuna_wnn.store.running import Trials
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import is_stale
from optuna_wnn.store.trials import trial_by_number


_MANY: Final = 16  # trials from which on one query for all is faster than one for each
OUTSIDE: Final = 1 << 40  # index, less its number, of a trial that a user put there


@dataclass(frozen=True, slots=True)
class Record:
    """A trial that finished with values.

    Attributes:
        number: Its number.
        child: Its place in the history.
        losses: Its objective values, signed so that lower is better.
        constraints: Its constraint values; at most 0 is feasible.
        params: Its parameters.
        distributions: Their distributions.
        final_handle: Handle of the genome that it ended with; -1 without one.
        cluster_losses: The loss of each cluster, ``float64[K]``, where it is known.
    """

    number: int
    child: Child
    losses: tuple[float, ...]
    constraints: tuple[float, ...]
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    final_handle: int = -1
    cluster_losses: NDArray[np.float64] | None = None


def losses_of(records: list[Record]) -> NDArray[np.float64]:
    """Return the losses of records as ``float64[n, m]``."""
    return np.array([record.losses for record in records], np.float64)


def violations_of(records: list[Record], slack: float = 0.0) -> NDArray[np.float64]:
    """Return by how much each record misses what it must meet, ``float64[n]``.

    Args:
        records: The records.
        slack: By how much each constraint is relaxed at present.
    """
    missed = [sum(max(0.0, c - slack) for c in record.constraints) for record in records]
    return np.array(missed, np.float64)


class History:
    """What the trials of one study tell the samplers.

    A pure function of the storage: another process, or this one after a crash, sees the same.
    Only trials that are new or were running at the last look are read again, so a look costs
    the same after 20,000 trials as after 20.

    Args:
        study: The study.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self.genomes = genome_reader(study)
        self.trials = Trials(study)
        self._changed: int | None = None  # the lowest generation that got a record of late
        self.n_objectives = len(study.directions)
        self._signs = [
            -1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in study.directions
        ]
        self._next = 0  # trials below this number have been seen
        self._open: set[int] = set()  # of these, the ones that had not finished
        self._noted: set[int] = set()  # trials that finished here before they were seen
        self._waiting: dict[int, FrozenTrial] = {}  # enqueued trials that nobody began
        self._workers: dict[int, str] = {}  # who runs a trial that has not finished
        self._newest = -1
        self._records: dict[int, Record] = {}  # by number
        self._arrived: list[Record] = []  # the same, as they came
        self._generations: dict[int, list[Record]] = {}
        self._lowest: dict[int, NDArray[np.float64]] = {}  # by generation
        self._taken: dict[int, dict[int, tuple[int, ...]]] = {}  # generation, index -> live trials
        self._finished: dict[int, int] = {}  # generation -> how many trials
        self._n_finished = 0
        self._children: dict[int, dict[int, Child]] = {}  # by generation and index
        self._place_of: dict[int, tuple[int, int]] = {}  # the place of every trial
        self._lost: set[tuple[int, int]] = set()  # places whose worker is gone
        self._genome_of: dict[int, int] = {}  # handle -> the first trial that ended with it
        self._handles: dict[int, int] = {}  # handle -> the first generation that has it

    # -- reading the storage --

    def look(self, before: int) -> None:
        """Read what is new among the trials whose number is below ``before``."""
        unseen = range(self._next, before)
        self._open.update(number for number in unseen if number not in self._noted)
        self._noted = {number for number in self._noted if number >= before}
        self._next = max(self._next, before)
        self._read(sorted(self._open))

    def look_ahead(self, number: int, own: Collection[int]) -> None:
        """Read what other workers did since trial ``number`` started.

        Args:
            number: The trial.
            own: Running trials of this process, which need not be read.
        """
        self._read(sorted(self._open.difference(own)))
        if trial_by_number(self.study, number + 1) is not None:
            for trial in all_trials(self.study)[number + 1 :]:
                self.note(trial, trial.state, trial.values)

    @property
    def has_missed(self) -> bool:
        """Whether a trial that finished here follows others that were not read yet."""
        return bool(self._noted)

    def n_running(self, own: Collection[int] = ()) -> int:
        """Return how many trials had not finished at the last look, besides ``own``."""
        return len(self._open.difference(own))

    def running(self) -> list[tuple[int, str]]:
        """Return number and worker of the trials that have a place and had not finished."""
        return [(n, self._workers[n]) for n in sorted(self._open) if n in self._workers]

    def waiting(self) -> list[FrozenTrial]:
        """Return the trials that a user enqueued and nobody had begun at the last look."""
        return [trial for _, trial in sorted(self._waiting.items())]

    def began(self, number: int, child: Child) -> None:
        """Note a trial that this process began and will note when it finished."""
        if number == self._next:
            self._next += 1
            self._open.add(number)
        self._waiting.pop(number, None)
        self.take(number, child)

    def refresh(self) -> None:
        """Read what other workers did since the last time, by a few queries."""
        for trial in self.trials.news():
            number = trial.number
            self._open.update(n for n in range(self._next, number + 1) if n not in self._noted)
            self._next = max(self._next, number + 1)
            self.note(trial, trial.state, trial.values)
        self._noted = {number for number in self._noted if number >= self._next}

    def _read(self, numbers: list[int]) -> None:
        """Read some trials, in ascending order."""
        found: Iterable[FrozenTrial | None]
        if len(numbers) > _MANY:
            wanted = set(numbers)
            found = (t for t in all_trials(self.study)[numbers[0] :] if t.number in wanted)
        else:
            found = (trial_by_number(self.study, number) for number in numbers)
        for trial in found:
            if trial is not None:
                self.note(trial, trial.state, trial.values)

    def is_over(self, number: int) -> bool:
        """Return whether a trial is known to have finished."""
        return number in self._noted or (number < self._next and number not in self._open)

    def note(
        self, trial: FrozenTrial, state: TrialState, values: list[float] | None = None
    ) -> None:
        """Take in a trial in a state that it has or is about to have."""
        number = trial.number
        if self.is_over(number):
            return
        child = read_child(trial.system_attrs)
        self._waiting.pop(number, None)
        if state == TrialState.WAITING:
            self._waiting[number] = trial
            return
        if state.is_finished():
            self._open.discard(number)
            if number >= self._next:
                self._noted.add(number)
        if child is None:
            if state != TrialState.COMPLETE:
                return
            child = self.outside(number)
        if is_stale(trial.system_attrs):
            self._lose(number, child)
            return
        self.take(number, child)
        if state.is_finished():
            self._workers.pop(number, None)
            self._n_finished += 1
            if child.index < OUTSIDE:
                self._finished[child.generation] = self._finished.get(child.generation, 0) + 1
        if state == TrialState.COMPLETE and values is not None:
            self._record(trial, child, values)

    def _record(self, trial: FrozenTrial, child: Child, values: list[float]) -> None:
        self._newest = max(self._newest, child.generation)
        stored = self.genomes.settle(trial.number, trial.system_attrs)
        final = -1 if stored is None else stored
        record = Record(
            trial.number,
            child,
            tuple(sign * value for sign, value in zip(self._signs, values, strict=True)),
            tuple(trial.constraints.values()),
            trial.params,
            trial.distributions,
            final,
            read_cluster_losses(trial.system_attrs),
        )
        self._records[trial.number] = record
        self._arrived.append(record)
        row = np.array(record.losses)
        self._lowest[child.generation] = np.minimum(self._lowest.get(child.generation, row), row)
        if final >= 0:
            self._genome_of.setdefault(final, trial.number)
        self._generations.setdefault(child.generation, []).append(record)
        for handle in (child.handle, final):
            known = self._handles.get(handle, child.generation)
            self._handles[handle] = min(known, child.generation)
        lowest = child.generation if self._changed is None else self._changed
        self._changed = min(lowest, child.generation)

    # -- places --

    def outside(self, number: int) -> Child:
        """Return the place of a trial that a user, or another sampler, put there: beside all."""
        return Child(max(self._newest, 0), OUTSIDE + number)

    def take(self, number: int, child: Child) -> None:
        """Note that a trial takes a place."""
        before = self._place_of.get(number)
        if before is not None and before != (child.generation, child.index):
            self._leave(number, before)
        self._place_of[number] = child.generation, child.index
        self._workers[number] = child.worker
        self._newest = max(self._newest, child.generation)
        taken = self._taken.setdefault(child.generation, {})
        others = self._others(number, (child.generation, child.index))
        taken[child.index] = (*others, number)
        self._children.setdefault(child.generation, {})[child.index] = child
        self._handles.setdefault(child.handle, child.generation)
        self._lost.discard((child.generation, child.index))

    def _lose(self, number: int, child: Child) -> None:
        self._workers.pop(number, None)
        if self._leave(number, (child.generation, child.index)):
            self._newest = max(self._newest, child.generation)

    def _leave(self, number: int, place: tuple[int, int]) -> bool:
        """Note that a trial takes its place no more; return whether that is free now."""
        others = self._others(number, place)
        self._taken.setdefault(place[0], {})[place[1]] = others
        if not others:
            self._lost.add(place)
        return not others

    def _others(self, number: int, place: tuple[int, int]) -> tuple[int, ...]:
        """Return the live trials on a place besides one."""
        taken = self._taken.get(place[0], {}).get(place[1], ())
        return tuple(other for other in taken if other != number)

    def rivals(self, number: int, child: Child) -> set[int]:
        """Return the other live trials that have the same place."""
        return set(self._others(number, (child.generation, child.index)))

    @property
    def newest(self) -> int:
        """The newest generation that has a trial; -1 if there is none."""
        return self._newest

    def n_finished(self, generation: int | None = None) -> int:
        """Return how many trials finished, all or on places of a generation; lost ones not."""
        if generation is not None:
            return self._finished.get(generation, 0)
        return self._n_finished

    def lost_places(self) -> list[tuple[int, int]]:
        """Return the places (generation, index) whose worker is gone, in their order."""
        return sorted(self._lost)

    def is_free(self, place: tuple[int, int]) -> bool:
        """Return whether no live trial has a place (generation, index)."""
        generation, index = place
        return not self._taken.get(generation, {}).get(index)

    def siblings(self, generation: int, index: int) -> list[Child]:
        """Return who took the places below ``index`` in a generation."""
        return [child for i, child in self._children.get(generation, {}).items() if i < index]

    def is_known(self, handle: int, generation: int, index: int) -> bool:
        """Return whether a genome came up in an earlier generation, or elsewhere in this one."""
        first = self._handles.get(handle)
        if first is not None and first < generation:
            return True
        children = self._children.get(generation, {})
        return any(child.handle == handle for i, child in children.items() if i != index)

    def trial_of(self, handle: int) -> int | None:
        """Return the first trial that ended with a genome, or ``None``."""
        return self._genome_of.get(handle)

    # -- records --

    def take_changes(self) -> int | None:
        """Return the lowest generation that got a record since the last call, if any did."""
        changed, self._changed = self._changed, None
        return changed

    def generation(self, generation: int) -> list[Record]:
        """Return the records of one generation in the order of their places."""
        records = self._generations.get(generation, [])
        return sorted(records, key=lambda record: (record.child.index, record.number))

    def lowest(self) -> NDArray[np.float64]:
        """Return the lowest losses of each generation, ``float64[g, m]``; infinite without any."""
        none = np.full(self.n_objectives, np.inf)
        rows = [self._lowest.get(generation, none) for generation in range(self._newest + 1)]
        return np.array(rows).reshape(-1, self.n_objectives)

    def seeds(self) -> list[Record]:
        """Return the records that were put into generation 0 with their results."""
        return [record for record in self.generation(0) if record.child.is_seed]

    def records(self) -> Iterator[Record]:
        """Yield all records, generation after generation."""
        for generation in sorted(self._generations):
            yield from self.generation(generation)

    def latest(self, seen: int) -> list[Record]:
        """Return the records that came after the first ``seen``."""
        return self._arrived[seen:]

    def record(self, number: int) -> Record | None:
        """Return the record of a trial, if it has one."""
        return self._records.get(number)
