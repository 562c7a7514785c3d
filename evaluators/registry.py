"""Which backends there are, and how one is chosen."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Final

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators.base import Evaluator
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Task


_logger = logging.getLogger(__name__)

# Name -> module and class, fastest first. A new backend is one more line.
BACKENDS: Final[dict[str, tuple[str, str]]] = {
    "mlx": ("optuna_wnn.evaluators.mlx", "MlxEvaluator"),
    "cpu": ("optuna_wnn.evaluators.cpu", "CpuEvaluator"),
    "reference": ("optuna_wnn.evaluators.reference", "ReferenceEvaluator"),
}


@dataclass(frozen=True)
class Lack:
    """Why a backend cannot run here.

    Attributes:
        reason: What it lacks.
        installed: Whether its library is installed, so that one may expect it to run.
    """

    reason: str
    installed: bool


def find_backend(name: str) -> type[Evaluator] | Lack:
    """Return a backend's class, or why it cannot run; its module is imported only now."""
    module, attribute = BACKENDS[name]
    try:
        backend: type[Evaluator] = getattr(import_module(module), attribute)
    except ImportError as error:
        return Lack(str(error), installed=not isinstance(error, ModuleNotFoundError))
    reason = backend.missing()
    return backend if reason is None else Lack(reason, installed=True)


@cache
def say_once(message: str) -> None:
    """Log something, once in a process."""
    _logger.warning(message)


def create_evaluator(
    task: Task,
    memory: MemorySettings | None = None,
    *,
    backend: str = "auto",
    threads: int | None = None,
    cache_bytes: int | None = None,
    device_bytes: int | None = None,
) -> Evaluator:
    """Return what evaluates genomes on ``task``.

    All backends give the same votes bit for bit, and so the same cross-entropy and accuracy.
    Where MLX is installed but finds no GPU, ``auto`` says so once, in the log.

    Args:
        task: The examples and the head.
        memory: What cells hold and how they vote; ``None`` takes the defaults.
        backend: ``auto`` (the first that this machine has), ``mlx`` (an Apple or NVIDIA GPU),
            ``cpu`` or ``reference``.
        threads: How many threads may work at once; ``None`` takes the processors that this
            process may use. The result does not depend on it.
        cache_bytes: Most bytes that are kept between calls: votes of clusters that come again,
            and in up to half of it what refinement knows of neurons; ``None`` takes a sixteenth
            of the machine's memory, 0 keeps nothing. A call may need more while it runs.
        device_bytes: Most bytes of the GPU's memory that a launch of ``mlx`` takes, the examples
            with it; ``None`` takes half of what the system recommends.

    Raises:
        InputError: If there is no such backend, it cannot run here, or it cannot evaluate the
            task's head.
    """
    if backend != "auto" and backend not in BACKENDS:
        known = ", ".join(("auto", *BACKENDS))
        raise InputError(f"evaluator.backend: {backend!r} is not one of {known}")
    lacks: dict[str, Lack] = {}
    for name in BACKENDS if backend == "auto" else (backend,):
        chosen = find_backend(name)
        if not isinstance(chosen, Lack):
            for other, lack in lacks.items():
                if lack.installed:
                    say_once(
                        f"evaluator.backend: {other} cannot run here ({lack.reason}); {name} runs"
                    )
            return chosen(
                task,
                memory,
                threads=threads,
                cache_bytes=cache_bytes,
                device_bytes=device_bytes,
            )
        lacks[name] = chosen
    reasons = "; ".join(f"{name} ({lack.reason})" for name, lack in lacks.items())
    raise InputError(f"evaluator.backend: cannot run here: {reasons}; choose another")
