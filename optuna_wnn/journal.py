"""Journals that can be trusted: a lock that ends with its process, and no pickles from Redis."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import IO
from typing import Any
from typing import Final

from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal import JournalFileOpenLock
from optuna.storages.journal import JournalRedisBackend

from optuna_wnn.errors import StorageError


if sys.platform != "win32":
    import fcntl


def journal_backend(path: str) -> JournalFileBackend:
    """Return the backend of a journal file that can be killed at any moment.

    Optuna's own locks are files, which a killed process leaves behind: the next one waits half
    a minute. And the half line that it was writing makes the journal unreadable for ever.
    """
    return JournalFileBackend(path, None if sys.platform == "win32" else _ProcessLock(path))


class RedisJournal(BaseJournalBackend):
    """A journal on Redis without snapshots.

    Optuna keeps every hundredth state there as a pickle and loads what it finds: whoever may
    write to that Redis could run any program here. The log itself is JSON. And for an entry that
    Redis has lost, Optuna waits for ever.

    Args:
        url: The URL of the Redis server.
    """

    def __init__(self, url: str) -> None:
        self._log = JournalRedisBackend(url)
        from redis import Redis  # is there: Optuna has just looked

        self._redis = Redis.from_url(url)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the entries from a number on.

        Raises:
            StorageError: If entries are gone.
        """
        last = int(self._redis.get(":log_number") or -1)
        if last < log_number_from - 1:
            raise _lost(log_number_from - 1)
        for start in range(log_number_from, last + 1, _MOST_ENTRIES):
            numbers = range(start, min(start + _MOST_ENTRIES, last + 1))
            entries = self._redis.mget([f":log:{number}" for number in numbers])
            for number, entry in zip(numbers, entries, strict=True):
                if entry is None:
                    raise _lost(number)
                yield json.loads(entry)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries."""
        self._log.append_logs(logs)


_MOST_ENTRIES: Final = 1000  # that are asked for at once


def _lost(number: int) -> StorageError:
    """Return what is said where Redis has an entry no more; one is written whole or not at all."""
    return StorageError(
        f"storage: Redis has lost entry {number} of its journal (emptied, or evicted for want of "
        "memory: set maxmemory-policy noeviction); restore it from a copy, or use another "
        "database"
    )


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
