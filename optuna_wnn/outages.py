"""Storages that fail in mid-run: which failures pass, and how long they are waited for."""

from __future__ import annotations

import errno
import logging
import sqlite3
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from typing import Final
from typing import TypeVar

import sqlalchemy

from optuna_wnn.errors import InputError
from optuna_wnn.errors import StorageError
from optuna_wnn.storages import masked


PATIENCE: Final = 300.0  # seconds without an answer after which a run stops
_FIRST_WAIT: Final = 0.5  # seconds; doubled at every attempt
_LONGEST_WAIT: Final = 30.0

_LOGGER: Final = logging.getLogger("optuna_wnn")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What SQLite, PostgreSQL, MySQL and Redis say where waiting changes nothing.
_LASTING: Final = {
    "disk is full": "no space is left on its disk; free some",
    "no space left": "no space is left on its disk; free some",
    "disk full": "no space is left on its disk; free some",
    "disk i/o error": "its disk cannot be read or written; see whether it is full or broken",
    "readonly database": "it may not be written; see who owns its file",
    "malformed": "its file is damaged; restore it from a copy",
    "not a database": "its file is damaged; restore it from a copy",
    "oom command not allowed": "Redis has no memory left; give it more",
    "no such table": "its tables are gone; restore them from a copy",
    "authentication failed": "it refuses the user or the password; check them",
    "access denied": "it refuses the user or the password; check them",
}


Result = TypeVar("Result")


class Outage:
    """Waits while a storage does not answer, each time longer, until patience is spent.

    Each wait is logged as a warning of the logger ``optuna_wnn``.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._wait = _FIRST_WAIT
        self._other: Exception | None = None

    def over(self) -> None:
        """Note that the storage works."""
        self._since, self._wait = None, _FIRST_WAIT

    def not_mine(self, error: Exception) -> None:
        """Note that an error is none of the storage's, whatever its kind."""
        self._other = error

    def keep_trying(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns, done again from its beginning after each outage.

        Raises:
            StorageError: If the storage's failure does not pass, or did not for long.
            Exception: What ``work`` raises for any other reason.
        """
        while True:
            try:
                return work()
            except Exception as error:  # noqa: PERF203 (an attempt may take days)
                self._sit_out(error)

    def _sit_out(self, error: Exception) -> None:
        is_other = error is self._other or isinstance(error, InputError)
        failure = None if is_other else storage_failure(error)
        if failure is None:
            raise error
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if lasting_cause(failure) or now - self._since > PATIENCE:
            raise explained(failure) from error
        _LOGGER.warning(
            "The storage does not answer (%s); next attempt in %g s.", _reason(failure), self._wait
        )
        time.sleep(self._wait)
        self._wait = min(2 * self._wait, _LONGEST_WAIT)


def explained(failure: BaseException) -> StorageError:
    """Return in one line what a storage's failure is, and what to do."""
    remedy = lasting_cause(failure) or "it does not answer; see whether it runs and is reachable"
    return StorageError(
        f"storage: {remedy}, then run the same command again: nothing is lost ({_reason(failure)})"
    )


def storage_failure(error: BaseException) -> BaseException | None:
    """Return the failure of a storage that an error was caused by, or ``None``."""
    return next(filter(_is_of_storage, _causes(error)), None)


def lasting_cause(failure: BaseException) -> str:
    """Return what a user can do about a failure that does not pass; nothing if it may pass."""
    if isinstance(failure, OSError) and failure.errno in _FULL:
        return _LASTING["disk full"]
    text = str(failure).lower()
    return next((remedy for sign, remedy in _LASTING.items() if sign in text), "")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending: BaseException | None = error
    while pending is not None and id(pending) not in seen:
        seen.add(id(pending))
        yield pending
        pending = pending.__cause__ or pending.__context__


def _is_of_storage(error: BaseException) -> bool:
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        kinds = sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError
        damaged = isinstance(error.orig, sqlite3.DatabaseError) and lasting_cause(error)
        return isinstance(error, kinds) or error.connection_invalidated or bool(damaged)
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        return True
    if isinstance(error, OSError):
        return error.errno in (*_FULL, errno.EIO, errno.ESTALE, errno.EROFS)
    redis, grpc = sys.modules.get("redis"), sys.modules.get("grpc")
    if redis is not None and isinstance(error, redis.RedisError):
        kind = redis.ConnectionError, redis.TimeoutError
        return isinstance(error, kind) or bool(lasting_cause(error))
    return grpc is not None and isinstance(error, grpc.RpcError)


def _reason(failure: BaseException) -> str:
    origin = getattr(failure, "orig", None) or failure
    details = getattr(failure, "details", None)  # of gRPC
    text = str(details() if callable(details) else origin)
    return masked(next(iter(text.strip().splitlines()), "") or type(origin).__name__)
