"""Several processes of one machine that do the same work together."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

from optuna_wnn.errors import InputError
from optuna_wnn.errors import Terminated


def run_jobs(n_jobs: int, work: Callable[..., None], *arguments: Any) -> None:
    """Have several processes do the same, until all are done.

    A job ends with the process that started it, even where that one is killed.

    Args:
        n_jobs: How many processes; at least 1.
        work: What each of them does: a function of a module.
        arguments: What it takes; they are pickled.

    Raises:
        InputError: If a process died.
        KeyboardInterrupt: When the user interrupts.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_job, args=(work, *arguments)) for _ in range(n_jobs)]
    resource_tracker.ensure_running()  # which would let Ctrl-C through again
    try:
        with _ctrl_c_waits():
            for process in processes:
                process.start()
        for process in processes:
            process.join()
    except KeyboardInterrupt as request:
        for process in processes:  # a terminal sends Ctrl-C to all of them
            process.join(0 if isinstance(request, Terminated) else 10)
            process.terminate()
        raise
    codes = [process.exitcode for process in processes]
    if any(codes):
        raise InputError(
            f"--jobs: {len(codes) - codes.count(0)} of {n_jobs} died (exit codes "
            f"{', '.join(map(str, codes))}); run the same command again to go on"
        )


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Hold Ctrl-C back; a process that is started meanwhile does so until it lets it through."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _job(work: Callable[..., None], *arguments: Any) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    try:
        # Until here, all that it needs was loaded.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        work(*arguments)
    except KeyboardInterrupt:
        os._exit(130)
