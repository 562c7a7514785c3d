"""Which examples write the memory, and which are then read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Task


_MOST_FITTED = 4096  # examples that a temperature is fitted on


@dataclass(frozen=True, eq=False)
class Reading:
    """One way to use a task's examples.

    Attributes:
        name: What distinguishes it from the task's other readings.
        n_trained: How many training examples, from the first on, write the memory.
        examples: What is read.
        blocks: ``None``, or ``int64[n + 1]`` ascending: the examples read are the training
            examples ``blocks[0]`` to ``blocks[n]``, and those from ``blocks[i]`` to
            ``blocks[i + 1]`` are read from a memory without all of them.
    """

    name: str
    n_trained: int
    examples: Examples
    blocks: NDArray[np.int64] | None = None

    @property
    def one_by_one(self) -> bool:
        """Whether every example is read from a memory without it alone."""
        return self.blocks is not None and int(np.ptp(self.blocks)) == len(self.blocks) - 1


def _part(examples: Examples, first: int, last: int) -> Examples:
    return Examples(examples.inputs[first:last], examples.targets[first:last])


def fitness_reading(task: Task, memory: MemorySettings) -> Reading:
    """Return what guides the search."""
    n_trained = len(task.train)
    if memory.fitness_on == "validation":
        return Reading("validation", n_trained, task.validation)
    n_blocks = n_trained if memory.fitness_on == "leave_one_out" else memory.blocks
    blocks = np.arange(n_blocks + 1, dtype=np.int64) * n_trained // n_blocks
    return Reading(memory.fitness_on, n_trained, task.train, blocks)


def part_reading(task: Task, memory: MemorySettings, part: str) -> Reading:
    """Return the reading of a part: ``fitness``, ``validation`` or ``test``.

    Raises:
        InputError: If there is no such part, or it is empty.
    """
    readings = {
        "fitness": lambda: fitness_reading(task, memory),
        "validation": lambda: Reading("validation", len(task.train), task.validation),
        "test": lambda: Reading("test", len(task.train), task.test),
    }
    if part not in readings:
        raise InputError(f"evaluate: part {part!r} is not one of {', '.join(readings)}")
    reading = readings[part]()
    if not len(reading.examples):
        raise InputError(f"task {task.name}: its {reading.name} part is empty; give it examples")
    return reading


def temperature_reading(task: Task, counting: bool) -> Reading:
    """Return the training examples that a temperature is fitted on: the last tenth, or 4,096.

    Where cells count, each is left out of a memory of all training examples; elsewhere the
    memory is written by the examples before them.
    """
    n_trained = len(task.train)
    size = max(1, min(n_trained // 10, _MOST_FITTED))
    first = n_trained - size
    examples = _part(task.train, first, n_trained)
    if counting:
        blocks = np.arange(first, n_trained + 1, dtype=np.int64)
        return Reading("temperature", n_trained, examples, blocks)
    return Reading("temperature", first, examples)
