"""What is stored with a study: settings, plans of generations, signs of life."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import Final

import optuna

from optuna_wnn.store.tables import tables_of


STUDY: Final = "wnn:study:"
_WORKER: Final = "wnn:worker:"
_GENERATION: Final = "wnn:generation:"
_FIGURE: Final = "dashboard:plot_data:"  # what optuna-dashboard 0.21 writes


def write_setting(study: optuna.Study, name: str, value: Any) -> None:
    """Store a JSON value with a study, where the dashboard does not show it."""
    study._storage.set_study_system_attr(study._study_id, STUDY + name, value)


def read_setting(study: optuna.Study, name: str) -> Any:
    """Return a value that :func:`write_setting` stored, or ``None``."""
    return study._storage.get_study_system_attrs(study._study_id).get(STUDY + name)


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
    tables = tables_of(study._storage)
    if tables is not None:
        attributes = tables.study_attributes(study._study_id, _WORKER)
    else:
        attributes = study._storage.get_study_system_attrs(study._study_id)
    return {
        key.removeprefix(_WORKER): tuple(sign)
        for key, sign in attributes.items()
        if key.startswith(_WORKER)
    }


def identity(study: optuna.Study) -> tuple[int, int]:
    """Return what names a study within this process for as long as its storage is open."""
    return id(study._storage), study._study_id
