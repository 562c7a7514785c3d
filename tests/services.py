"""Storages on servers for tests: a fresh one of each kind, and wires that can be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from optuna_wnn.storages import masked


# What a machine with these services on their usual ports has; other addresses by environment.
URLS = {
    "postgres": ("TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test"),
    "mysql": ("TEST_MYSQL", "mysql+pymysql://root@127.0.0.1:3306/test"),
    "redis": ("TEST_REDIS", "redis://127.0.0.1:6379"),
}
_CLAIM, _USED = "test:claimed", "test:used"


def with_storage(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of a fresh storage of some kind, and remove it."""
    if kind == "journal":
        yield f"journal:///{folder}/runs.journal"
    elif kind == "sqlite":
        yield f"sqlite:///{folder}/runs.db"
    elif kind == "redis":
        yield from with_redis()
    elif kind == "grpc":
        pytest.importorskip("grpc")
        yield from with_proxy(folder)
    else:
        yield from with_database(kind)


def with_database(kind: str) -> Iterator[str]:
    """Yield the URL of a new database of a server, and drop it."""
    address = os.environ.get(*URLS[kind])
    name = f"wnn_{uuid.uuid4().hex[:12]}"
    try:
        server = sqlalchemy.create_engine(address, isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    except (ImportError, sqlalchemy.exc.SQLAlchemyError) as error:
        pytest.skip(f"no database at {masked(address)}: {str(error).splitlines()[0]}")
    url = sqlalchemy.engine.make_url(address).set(database=name)
    yield url.render_as_string(hide_password=False)
    with server.connect() as connection:
        force = " WITH (FORCE)" if kind == "postgres" else ""
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name}{force}"))
    server.dispose()


def with_redis() -> Iterator[str]:
    """Yield the URL of an empty database of Redis, claimed for this test, and empty it again."""
    redis = pytest.importorskip("redis")
    address = os.environ.get(*URLS["redis"])
    for number in range(15, 0, -1):
        url = f"{address}/{number}"
        with redis.Redis.from_url(url) as client:
            try:
                if client.dbsize() and not client.exists(_USED):
                    continue  # somebody else's
                # The claim of a test that is killed ends by itself.
                if not client.set(_CLAIM, 1, nx=True, ex=600):
                    continue
            except redis.exceptions.ConnectionError as error:
                pytest.skip(f"no Redis at {masked(address)}: {error}")
            for key in client.scan_iter():
                if key.decode() != _CLAIM:
                    client.delete(key)
            client.set(_USED, 1)
            yield url
            client.flushdb()
            return
    pytest.skip(f"no empty database in Redis at {masked(address)}")


def with_proxy(folder: Path) -> Iterator[str]:
    """Yield the URL of Optuna's proxy in front of a new database."""
    for behind in with_database("postgres"):
        port = free_port()
        code = (
            "from optuna_wnn import open_storage; from optuna.storages import "
            f"run_grpc_proxy_server as run; run(open_storage({behind!r}), "
            f"host='127.0.0.1', port={port})"
        )
        with open(folder / "proxy.log", "w") as log:
            server = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)
        try:
            proxy = optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=port)
            proxy.wait_server_ready(timeout=60)
            proxy.close()
            yield f"grpc://127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait()


def free_port() -> int:
    """Return the number of a port that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


class PostgreSQL:
    """A server of one's own, on a folder of one's own."""

    def __init__(self, folder: Path) -> None:
        self._binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
        if self._binaries is None or not (self._binaries / "initdb").exists():
            pytest.skip("PostgreSQL's server is not installed")
        pytest.importorskip("psycopg")
        self._user = "postgres" if os.geteuid() == 0 else None  # it does not run as root
        self._folder = folder / "server"
        self._folder.mkdir()
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._port = free_port()
        self._do("initdb", "--auth=trust", "--username=postgres", "--no-sync")
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/postgres"

    def _do(self, program: str, *words: str) -> None:
        assert self._binaries is not None
        subprocess.run(
            [self._binaries / program, f"--pgdata={self._folder}/data", *words],
            check=True,
            user=self._user,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -k {self._folder}"
        self._do("pg_ctl", "start", "-w", "-o", options, f"--log={self._folder}/log")

    def stop(self) -> None:
        self._do("pg_ctl", "stop", "-m", "immediate")


class Wire:
    """A TCP proxy that can be cut: what is connected is hung up on, and nobody comes through."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._ends: list[socket.socket] = []
        self._is_cut = False
        self._is_stalled = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self._is_stalled.is_set():
                    time.sleep(0.01)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self, seconds: float, is_noticed: Callable[[], bool] = lambda: True) -> None:
        """Hang up, and let nobody through for some time, and until that is noticed."""
        self._is_cut = True
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        time.sleep(seconds)
        while not is_noticed():
            time.sleep(0.02)
        self._is_cut = False

    def stall(self, seconds: float) -> None:
        """Keep connections, but forward nothing for some time."""
        self._is_stalled.set()
        time.sleep(seconds)
        self._is_stalled.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut(0)
