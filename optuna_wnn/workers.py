"""Which process works on a trial, and whether it still runs."""

from __future__ import annotations

import functools
import os
import socket
from typing import Final

import psutil


_TOLERANCE: Final = 3.0  # seconds by which a start time read from the clock moves


def _started(process: int) -> float:
    """Return when a process started, in seconds; where Linux tells, whatever the clock is set to.

    Raises:
        psutil.NoSuchProcess: If there is none.
    """
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:  # no Linux, or no such process
        return psutil.Process(process).create_time()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")  # since the machine started


@functools.lru_cache(maxsize=1)
def _named(process: int) -> str:
    return f"{socket.gethostname()}:{process}:{_started(process):.2f}"


def this_worker() -> str:
    """Return what names this process: host, process number, and when it started."""
    return _named(os.getpid())


def is_gone(worker: str) -> bool:
    """Return whether a worker is known to have ended; of other hosts nothing is known."""
    host, _, rest = worker.partition(f"{socket.gethostname()}:")
    process, _, started = rest.partition(":")
    if host or not process.isdecimal():
        return False
    try:
        is_dead = psutil.Process(int(process)).status() == psutil.STATUS_ZOMBIE
        return is_dead or abs(_started(int(process)) - float(started)) > _TOLERANCE
    except psutil.NoSuchProcess:
        return True
