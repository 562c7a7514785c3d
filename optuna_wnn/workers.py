"""Which process works on a trial, and whether it still runs."""

from __future__ import annotations

import functools
import os
import socket
from typing import Final

import psutil


_TOLERANCE: Final = 3.0  # seconds by which a start time moves when the clock is set


@functools.lru_cache(maxsize=1)
def _named(process: int) -> str:
    return f"{socket.gethostname()}:{process}:{psutil.Process(process).create_time():.0f}"


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
        found = psutil.Process(int(process))
        is_dead = found.status() == psutil.STATUS_ZOMBIE
        return is_dead or abs(found.create_time() - float(started)) > _TOLERANCE
    except psutil.NoSuchProcess:
        return True
