"""Trials begun, followed and finished by who runs a study, by as few statements as can be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_wnn.store.places import CHILD
from optuna_wnn.store.places import Child
from optuna_wnn.store.places import child_attributes
from optuna_wnn.store.places import read_child
from optuna_wnn.store.tables import tables_of
from optuna_wnn.store.trials import STALE
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import is_stale
from optuna_wnn.store.trials import mark_stale


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

    def news(self) -> Iterator[FrozenTrial]:
        """Yield the trials that are new or in another state, in the order of their numbers.

        Their places, states, values, times and genomes are there; the rest may not be.
        """
        tables = tables_of(self._study._storage)
        if tables is not None:
            new = tables.news(self._study._study_id, self._last, self._unfinished)
        else:
            new = filter(self._is_new, all_trials(self._study))
        for trial in new:
            self._last = max(self._last, trial._trial_id)
            self._next = max(self._next, trial.number + 1)
            self._unfinished.pop(trial._trial_id, None)
            if not trial.state.is_finished():
                self._unfinished[trial._trial_id] = trial.state
            yield trial

    def _is_new(self, trial: FrozenTrial) -> bool:
        known = self._unfinished.get(trial._trial_id, trial.state)
        return trial._trial_id > self._last or known != trial.state

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
        the storage cannot tell before, the second closes its trial as it closes stale ones; a
        :class:`~optuna_wnn.store.gate.Gate` makes that rare.

        Args:
            child: Its place.
            params: Its parameters.
            distributions: Their distributions.
            user_attributes: What it shows.
            yields: Whether it gives way to another trial, which was begun since the last look.

        Returns:
            The trial, without its parameters, or ``None`` if it gave way.
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

        tables = tables_of(study._storage)
        if tables is not None:
            made = tables.add(study._study_id, trial, self._last, (CHILD, STALE), gives_way)
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
        # Who runs a study has no use for them, and would keep them for every trial.
        trial.params, trial.distributions = {}, {}
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
        storage.set_trial_system_attr(trial_id, CHILD, child.to_json())
        if not storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            return None
        storage.set_trial_system_attr(trial_id, CHILD, child.to_json())
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
    tables = tables_of(study._storage)
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
    tables = tables_of(storage)
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
