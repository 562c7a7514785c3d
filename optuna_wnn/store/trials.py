"""Trials as the storage has them: looked up, added, closed, and what is shown of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Final

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial
from optuna.trial import Trial
from optuna.trial import TrialState

from optuna_wnn.store.attributes import write_attribute


STALE: Final = "wnn:stale"
_CONSTRAINTS: Final = "constraints"  # what both Optuna 5 and optuna-dashboard 0.21 read


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


def mark_stale(study: optuna.Study, trial: FrozenTrial) -> None:
    """Close a running trial whose worker is gone, so that its place is given out again.

    Several workers may do so at once.
    """
    with contextlib.suppress(UpdateFinishedTrialError):  # another worker was faster
        study._storage.set_trial_system_attr(trial._trial_id, STALE, True)
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def is_stale(attributes: Mapping[str, Any]) -> bool:
    """Return whether a failed trial was closed because its worker was gone."""
    return bool(attributes.get(STALE, False))


def write_constraint(study: optuna.Study, trial: Trial | FrozenTrial, violation: float) -> None:
    """Store how far a trial misses its final bar; at most 0 is feasible.

    Optuna 5 has ``set_constraint``, but optuna-dashboard 0.21 does not read what it writes. Both
    read the list that Optuna 4 wrote.
    """
    write_attribute(study._storage, trial, _CONSTRAINTS, [float(violation)])


def constraint_attributes(violations: Sequence[float]) -> dict[str, list[float]]:
    """Return the system attributes that hold constraint values, for ``create_trial``."""
    return {_CONSTRAINTS: [float(v) for v in violations]} if violations else {}
