"""The lock of a journal file: one that ends with the process that holds it."""

from __future__ import annotations

import os
import sys
from typing import IO

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal import JournalFileOpenLock


if sys.platform != "win32":
    import fcntl


def journal_backend(path: str) -> JournalFileBackend:
    """Return the backend of a journal file that can be killed at any moment.

    Optuna's own locks are files, which a killed process leaves behind: the next one waits half
    a minute. And the half line that it was writing makes the journal unreadable for ever.
    """
    return JournalFileBackend(path, None if sys.platform == "win32" else _ProcessLock(path))


class _ProcessLock(JournalFileOpenLock):
    """``flock`` on the journal itself; who gets it removes the half line of one who was killed."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        file = open(self._path, "r+b")  # noqa: SIM115 (release closes it)
        try:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX)
            _drop_half_line(file)
        except BaseException:
            file.close()
            raise
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()  # and with it the lock goes
            self._file = None


def _drop_half_line(file: IO[bytes]) -> None:
    """Cut off what stands behind the last line break."""
    size = end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 4096)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        file.truncate(end)
