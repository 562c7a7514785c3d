"""From a run to the trained network that it found, and on to a table of predictions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray
from optuna.storages import BaseStorage

from optuna_wnn import report
from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.importance import Importance
from optuna_wnn.importance import importance
from optuna_wnn.memory import MemorySettings
from optuna_wnn.network import RAMNetwork
from optuna_wnn.sources import load_config
from optuna_wnn.tasks import Task
from optuna_wnn.tasks import check_options
from optuna_wnn.tasks import load_task
from optuna_wnn.tasks.text import text_code


_VALUES_AT_ONCE: Final = 1 << 24  # probabilities that are held at a time
_LEAST_AT_ONCE: Final = 64  # examples


def trained_winner(storage: BaseStorage, run: str) -> RAMNetwork:
    """Return the best network of a run, trained on its training and its validation part.

    Args:
        storage: Where its studies live.
        run: Its name.

    Raises:
        InputError: If there is no such run, it has no trial yet, or its data is not there, or is
            not what it was.
    """
    task, memory = _task_of(storage, run)
    network = RAMNetwork.for_task(task, report.best_genome(storage, run), memory)
    parts = (task.train, task.validation)
    return network.fit(
        np.concatenate([part.inputs for part in parts]),
        np.concatenate([part.targets for part in parts]),
    )


def importance_of(storage: BaseStorage, run: str) -> Importance:
    """Return how much each input matters to the best genome of a run.

    Args:
        storage: Where its studies live.
        run: Its name.

    Raises:
        InputError: As :func:`trained_winner`, or if its head is ``tokens``.
    """
    task, memory = _task_of(storage, run)
    genome, evaluator = report.best_genome(storage, run), create_evaluator(task, memory)
    if memory.vote == "calibrated":
        evaluator = evaluator.calibrated(genome)
    return importance(evaluator, genome)


def _task_of(storage: BaseStorage, run: str) -> tuple[Task, MemorySettings]:
    """Return what a run learns, loaded again, and its memory."""
    started, options = report.read_run(storage, run)
    try:
        task = load_task(**options)
    except InputError as error:
        raise InputError(
            f"run {run}: its data cannot be loaded: {error}, or export in the folder in which the "
            "run was started"
        ) from error
    if task.digest != started["data"]:
        raise InputError(
            f"run {run}: its data is not what it was when the run was started; bring that back"
        )
    return task, MemorySettings(**started["memory"])


def read_inputs(path: Path, part: str) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Return inputs, and their targets where they are known.

    Args:
        path: A configuration of a run, ``*.yaml``, or an array of inputs, ``*.npy``.
        part: Which part of the configuration's task: ``train``, ``validation`` or ``test``.

    Raises:
        InputError: If the file is neither.
    """
    if path.suffix in (".yaml", ".yml"):
        config = load_config(path)
        task = load_task(config.task.kind, **config.task.options)
        examples = getattr(task, part)
        return examples.inputs, examples.targets
    if path.suffix == ".npy":
        try:  # mapped, so that no array is larger than its file
            inputs = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError, SyntaxError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or "this is no array of numbers"
            raise InputError(f"{path}: {reason}; write it with numpy.save") from error
        if not isinstance(inputs, np.ndarray) or inputs.ndim == 0:
            raise InputError(f"{path}: a row of inputs for each example is needed")
        return inputs, None
    raise InputError(
        f"{path}: give the configuration of a run (*.yaml) or an array of inputs (*.npy)"
    )


def generated_text(
    network: RAMNetwork,
    config: Path | None,
    prompt: str,
    n: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> str:
    """Return what may follow a text; see :meth:`RAMNetwork.generate`.

    Args:
        network: Trained on text.
        config: The configuration of its run, which says what a token is; without, it is a byte.
        prompt: The text to begin with.
        n: How many tokens to generate.
        temperature: What log-probabilities are divided by.
        seed: What the draws derive from.

    Raises:
        InputError: If the network, the configuration and the prompt do not go together.
    """
    kind: str = "python-docs"
    options: dict[str, Any] = {}
    if config is not None:
        task = load_config(config).task
        kind, options = task.kind, task.options
        check_options(kind, options)
    code = text_code(kind, options)
    if len(code.seen) != network.n_outputs:
        raise InputError(
            f"{config or 'bytes'}: {len(code.seen)} tokens are not the {network.n_outputs} that "
            "the network predicts; give the configuration of its run"
        )
    targets = network.generate(
        code.targets(prompt), n, temperature=temperature, seed=seed, seen=code.seen
    )
    return code.text(targets)


def prediction_table(
    network: RAMNetwork, inputs: NDArray[Any], targets: NDArray[np.int64] | None
) -> Iterator[str]:
    """Yield the lines of a table of predictions in CSV, its heading first.

    The probability of the prediction is there where the network lists probabilities; the target
    where it is known.

    Args:
        network: Trained.
        inputs: See :class:`RAMNetwork`.
        targets: What they should be.

    Raises:
        InputError: If the inputs do not fit the network.
    """
    heading = ["example", "prediction"]
    heading += ["probability"] if network.lists_probabilities else []
    heading += [] if targets is None else ["target"]
    step = max(_VALUES_AT_ONCE // network.n_outputs, _LEAST_AT_ONCE)
    for first in range(0, max(len(inputs), 1), step):
        some = inputs[first : first + step]
        columns: list[Any] = []
        if network.lists_probabilities:
            probabilities = network.predict_proba(some)
            best = probabilities.argmax(axis=1)
            columns += [
                best,
                [f"{row[k]:.6g}" for row, k in zip(probabilities, best, strict=True)],
            ]
        else:
            columns += [network.predict(some)]
        if targets is not None:
            columns += [targets[first : first + step]]
        if not first:
            yield ",".join(heading)
        for i, values in enumerate(zip(*columns, strict=True)):
            yield ",".join(map(str, (first + i, *values)))
