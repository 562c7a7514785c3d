"""Storages by their URLs: opened the way that suits a search, passwords never shown."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import time
import warnings
import weakref
from typing import Any
from typing import Final

import optuna
import sqlalchemy
import sqlalchemy.event
import sqlalchemy.orm
from optuna.storages import BaseStorage
from optuna.storages import GrpcStorageProxy
from optuna.storages import InMemoryStorage
from optuna.storages import JournalStorage
from optuna.storages import RDBStorage

from optuna_wnn.errors import InputError
from optuna_wnn.errors import StorageError
from optuna_wnn.journal import RedisJournal
from optuna_wnn.journal import journal_backend


def open_storage(url: str, *, must_exist: bool = False) -> BaseStorage:
    """Open a storage by its URL.

    SQLite is opened in WAL mode with ``synchronous=NORMAL``: a trial then costs no wait for the
    disk, and a power cut loses at most the last trials, never the file.

    Args:
        url: ``sqlite:///FILE``, ``postgresql+psycopg://…``, ``mysql+pymysql://…`` or any other
            database that SQLAlchemy speaks; ``journal:///FILE`` or ``redis://…`` for Optuna's
            journal; ``grpc://HOST:PORT`` for its proxy; ``memory:`` for none.
        must_exist: Whether a file that is not there is a mistake; else it is created.

    Raises:
        InputError: If there is no such kind of storage, or it cannot be reached.
        StorageError: If it has lost what was in it.
    """
    try:
        file = _file_of(url)
        if must_exist and file and not os.path.exists(file):
            raise FileNotFoundError(f"there is no file {file}")
        with warnings.catch_warnings():
            # Optuna calls Redis and gRPC experimental; a user who named them has decided.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return _opened_with_others(url)
    except (StorageError, MemoryError):
        raise
    except Exception as error:  # each driver has its own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        for secret in filter(None, map("".join, _PASSWORD.findall(url))):
            reason = reason.replace(secret, "***")
            # Where it was not escaped, a driver takes a part of it for a part of the host.
            if any(part in reason for part in re.split("[@/:?#]", secret) if part):
                reason = type(error).__name__
        raise InputError(
            f"storage {masked(url)}: it cannot be opened ({reason}); check the URL, that the "
            "server runs, and that its driver is installed"
        ) from error


def _file_of(url: str) -> str:
    """Return the path of the file that a storage lives in, or nothing."""
    if url.startswith("journal:///"):
        return url.removeprefix("journal:///")
    database = sqlalchemy.engine.make_url(url).database if url.startswith("sqlite") else None
    return database if database and database != ":memory:" else ""


def _opened_with_others(url: str, attempts: int = 10) -> BaseStorage:
    """Open a storage that other processes may create at this moment: one of them is first."""
    try:
        return _opened(url)
    except sqlalchemy.exc.DBAPIError as error:
        signs = ("exists", "locked", "no such table")
        is_race = any(sign in str(error) for sign in signs) or isinstance(
            error, sqlalchemy.exc.IntegrityError
        )
        if not is_race or attempts == 1:
            raise
    time.sleep(0.2)
    return _opened_with_others(url, attempts - 1)


def _opened(url: str) -> BaseStorage:
    if url == "memory:":
        return InMemoryStorage()
    if url.startswith("journal:///"):
        path = url.removeprefix("journal:///")
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return JournalStorage(journal_backend(path))
    if url.startswith(("redis://", "rediss://")):
        return JournalStorage(RedisJournal(url))
    if url.startswith("grpc://"):
        host, _, port = url.removeprefix("grpc://").partition(":")
        proxy = GrpcStorageProxy(host=host, port=int(port or 13000))
        proxy.wait_server_ready(timeout=_GRPC_PATIENCE)
        return proxy
    return optuna.storages.get_storage(_opened_database(url))


def _opened_database(url: str) -> RDBStorage:
    """Open a database whose connections end with the storage."""
    options: dict[str, Any] = {"pool_logging_name": _POOL}
    if url.startswith("sqlite"):
        if not _file_of(url):
            raise ValueError("it names no file; for a storage that ends with the process: memory:")
        options["connect_args"] = {"timeout": 60}
        # RDBStorage writes its schema in its constructor, so the mode must be set before.
        sqlalchemy.event.listen(sqlalchemy.Engine, "connect", _tune_sqlite)
        try:
            backend = RDBStorage(url, engine_kwargs=options)
        finally:
            sqlalchemy.event.remove(sqlalchemy.Engine, "connect", _tune_sqlite)
        sqlalchemy.event.listen(backend.engine, "connect", _tune_sqlite)
    else:
        backend = RDBStorage(url, engine_kwargs=options)
    log = backend.engine.pool.logger
    if isinstance(log, logging.Logger):
        log.addFilter(_as_information)
    weakref.finalize(backend, _disconnect, backend.scoped_session, backend.engine, os.getpid())
    return backend


_POOL: Final = "optuna_wnn"
_GRPC_PATIENCE: Final = 10.0  # seconds


def _as_information(record: logging.LogRecord) -> bool:
    """Make an error of a pool of connections an information.

    It is of one that was lost when its work was done, and is thrown away. The next statement gets
    another, or its failure is told by who waits for the storage.
    """
    if record.exc_info:
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def _disconnect(
    sessions: sqlalchemy.orm.scoped_session[Any], engine: sqlalchemy.Engine, process: int
) -> None:
    """Close the connections of a storage that is no more; a fork's are those of its parent."""
    if os.getpid() == process:
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):  # it is lost already
            sessions.remove()
        engine.dispose()


def _tune_sqlite(connection: Any, record: Any) -> None:
    if not isinstance(connection, sqlite3.Connection):
        return  # another thread opens another kind of database at this moment
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


# In a URL: what stands between the user and the last "@", or a query that is named so.
_PASSWORD: Final = re.compile(r"(?<=://)[^:@/\s]*:(\S*)@|[?&](?:\w*password|passwd)=([^&\s]+)")


def masked(text: str) -> str:
    """Return a text without the passwords of the URLs in it."""
    text = re.sub(r"(://[^:@/\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"([?&](?:\w*password|passwd)=)[^&\s]+", r"\1***", text)
