"""Tasks: problems turned into packed input bits and targets."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from collections.abc import Collection
from dataclasses import replace
from typing import Any
from typing import Final

from optuna_wnn.errors import InputError
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.checks import whole_number
from optuna_wnn.tasks.tabular import tabular_task
from optuna_wnn.tasks.text import python_docs_task
from optuna_wnn.tasks.text import text_task


__all__ = ["TASKS", "Examples", "Task", "check_options", "load_task"]

TASKS: Final[dict[str, Callable[..., Task]]] = {
    "python-docs": python_docs_task,
    "text": text_task,
    "tabular": tabular_task,
}


def load_task(kind: str, *, clusters_per_output: Any = 1, **options: Any) -> Task:
    """Return a task, ready to search a network for.

    Args:
        kind: ``python-docs``, ``text`` or ``tabular``.
        clusters_per_output: How many clusters vote for each output of the head, a class or a bit;
            their votes are added up, and the neurons of each have a width of their own.
        options: What the kind takes: see :func:`~optuna_wnn.tasks.text.python_docs_task`,
            :func:`~optuna_wnn.tasks.text.text_task` and
            :func:`~optuna_wnn.tasks.tabular.tabular_task`.

    Raises:
        InputError: If the kind or an option is unknown or wrong, or a file is.
    """
    check_options(kind, options)
    number = whole_number("clusters_per_output", clusters_per_output, 1)
    task = TASKS[kind](**options)
    return task if number == 1 else replace(task, clusters_per_output=number)


OF_EVERY_KIND: Final = {
    name: parameter
    for name, parameter in inspect.signature(load_task).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
}


def options_of(kind: str) -> dict[str, inspect.Parameter]:
    """Return the options that a kind of task takes: its own, then those of every kind."""
    return {**inspect.signature(TASKS[kind]).parameters, **OF_EVERY_KIND}


def check_options(kind: str, options: Collection[str]) -> None:
    """Check that a kind of task takes some options, whatever their values.

    Raises:
        InputError: If there is no such kind, or it takes other options.
    """
    if kind not in tuple(TASKS):
        raise InputError(f"task.kind: {kind!r} is not one of {', '.join(TASKS)}")
    known = options_of(kind)
    for name in options:
        if name not in known:
            raise InputError(f"task.{name}: {kind} has no such option; it has {', '.join(known)}")
    if "path" in known and "path" not in options:
        raise InputError(f"task.path: {kind} needs the path of a file")
