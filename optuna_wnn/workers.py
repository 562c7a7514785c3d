"""Which process works on a trial, and whether it still runs."""

from __future__ import annotations

import functools
import os
import socket

import psutil


@functools.lru_cache(maxsize=1)
def _named(process: int) -> str:
    return f"{socket.gethostname()}:{process}:{psutil.Process(process).create_time():.0f}"


def this_worker() -> str:
    """Return what names this process: host, process number, and when it started."""
    return _named(os.getpid())


def is_gone(worker: str) -> bool:
    """Return whether a worker is known to have ended; of other hosts nothing is known."""
    host, _, rest = worker.rpartition(":")[0].rpartition(":")
    if host != socket.gethostname():
        return False
    try:
        return _started(int(rest)) != worker.rpartition(":")[2]
    except (psutil.NoSuchProcess, ValueError):
        return True


def _started(process: int) -> str:
    found = psutil.Process(process)
    if found.status() == psutil.STATUS_ZOMBIE:
        raise psutil.NoSuchProcess(process)
    return f"{found.create_time():.0f}"
