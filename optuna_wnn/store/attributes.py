"""System attributes of running trials, remembered by the process that writes them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any
from typing import Final

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna.trial import Trial


_MOST_RUNNING: Final = 64  # trials whose attributes are remembered while they run


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


def write_attribute(
    storage: BaseStorage, trial: Trial | FrozenTrial, key: str, value: Any
) -> None:
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
