"""The command in processes of its own, which fork from one that has imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
from runs import Outcome
from runs import outcome

from optuna_wnn.cli import main
from optuna_wnn.storages import open_storage


TEXT = "the cat sat on the mat; the dog did not. " * 40
CONFIG = """
name: {name}
storage: {storage}
backend: reference
task: {{kind: text, path: text.txt, context: 1}}
space: {{neurons: [2, 3], bits: [2, 4]}}
search: {{trials: 5, population_size: 3, n_neighbors: 3}}
phases: [{{method: ga, free: [neurons, bits]}}, {{method: ts, free: connections}}]
"""
OUT, ERR = "out.txt", "err.txt"
PATIENCE = 200.0  # seconds: a busy machine is slow now and then

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("optuna_wnn.cli", "optuna_wnn.evaluators.reference"),
        *("optuna_dashboard", "plotly.graph_objects"),  # where they are installed
    ]
)


def start(
    words: list[str], out: str = OUT, err: str = ERR, limits: Mapping[int, int] | None = None
) -> BaseProcess:
    """Start the command in the working directory.

    Args:
        words: Of its command line.
        out: The file that it writes to; it is emptied first.
        err: The file for its errors.
        limits: What it may use at most, by the names of :mod:`resource`; of memory, beyond what
            it starts with.
    """
    for path in (out, err):
        open(path, "w").close()
    process = _CONTEXT.Process(target=_command, args=(words, os.getcwd(), out, err, limits or {}))
    process.start()
    return process


def _command(words: list[str], folder: str, out: str, err: str, limits: Mapping[int, int]) -> None:
    os.chdir(folder)
    with (
        open(out, "a", buffering=1) as out_file,
        open(err, "a", buffering=1) as err_file,
        contextlib.redirect_stdout(out_file),
        contextlib.redirect_stderr(err_file),
    ):
        for limit, most in limits.items():
            if limit == resource.RLIMIT_AS:
                most += psutil.Process().memory_info().vms
            resource.setrlimit(limit, (most, resource.RLIM_INFINITY))
        code = main(words)
    sys.exit(code)


def written(path: str = OUT) -> str:
    """Return what a command has written until now."""
    return Path(path).read_text()


def wait_for(process: BaseProcess, word: str, n: int = 1) -> None:
    """Wait until a command has written a word ``n`` times, or is over."""
    end = time.monotonic() + PATIENCE
    while written().count(word) < n and process.is_alive():
        assert time.monotonic() < end, written() + written(ERR)
        time.sleep(0.02)


def ended(process: BaseProcess, err: str = ERR) -> tuple[int | None, list[str]]:
    """Wait for a command, and return its exit code and what it wrote to standard error."""
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(written(err))
    return process.exitcode, written(err).splitlines()


def came_to(url: str, name: str) -> Outcome:
    """Return what a run came to, without the name of the run."""
    found = outcome(open_storage(url), name)
    return {study.partition("/")[2]: trials for study, trials in found.items()}
