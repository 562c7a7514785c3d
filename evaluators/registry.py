"""Which backends there are, and how one is chosen."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators.base import Evaluator
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Task


# Name -> module and class, fastest first. A new backend is one more line.
BACKENDS: Final[dict[str, tuple[str, str]]] = {
    "mlx": ("optuna_wnn.evaluators.mlx", "MlxEvaluator"),
    "cpu": ("optuna_wnn.evaluators.cpu", "CpuEvaluator"),
    "reference": ("optuna_wnn.evaluators.reference", "ReferenceEvaluator"),
}


def _backend(name: str) -> type[Evaluator] | str:
    """Return a backend's class, or why it cannot run; its module is imported only now."""
    module, attribute = BACKENDS[name]
    try:
        backend: type[Evaluator] = getattr(import_module(module), attribute)
    except ImportError as error:  # a library that it needs is missing, or finds no device
        return str(error)
    missing = backend.missing()
    return backend if missing is None else missing


def create_evaluator(
    task: Task,
    memory: MemorySettings | None = None,
    *,
    backend: str = "auto",
    threads: int | None = None,
    cache_bytes: int | None = None,
) -> Evaluator:
    """Return what evaluates genomes on ``task``.

    All backends give the same votes bit for bit, and so the same cross-entropy and accuracy.

    Args:
        task: The examples and the head.
        memory: What cells hold and how they vote; ``None`` takes the defaults.
        backend: ``auto`` (the fastest that this machine has), ``cpu`` or ``reference``.
        threads: How many threads may work at once; ``None`` takes the processors that this
            process may use. The result does not depend on it.
        cache_bytes: Most bytes of votes that are kept for clusters that come again; ``None``
            takes a sixteenth of the machine's memory, 0 keeps nothing.

    Raises:
        InputError: If there is no such backend, it cannot run here, or it cannot evaluate the
            task's head.
    """
    if backend != "auto" and backend not in BACKENDS:
        known = ", ".join(("auto", *BACKENDS))
        raise InputError(f"evaluator.backend: {backend!r} is not one of {known}")
    reasons = []
    for name in BACKENDS if backend == "auto" else (backend,):
        chosen = _backend(name)
        if not isinstance(chosen, str):
            return chosen(task, memory, threads=threads, cache_bytes=cache_bytes)
        reasons.append(f"{name} ({chosen})")
    raise InputError(f"evaluator.backend: cannot run here: {'; '.join(reasons)}; choose another")
