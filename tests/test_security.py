"""Nothing that is read is run, passwords stay hidden, and files are ordinary files."""

from __future__ import annotations

import ast
import logging
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from runs import DigestEvaluator
from runs import small_search
from services import with_redis
from test_architecture import SOURCES

from optuna_wnn import Genome
from optuna_wnn import outages
from optuna_wnn import storages
from optuna_wnn.cli import main
from optuna_wnn.config import parse_config
from optuna_wnn.errors import InputError
from optuna_wnn.errors import StorageError
from optuna_wnn.genome import write_atomically
from optuna_wnn.storages import masked
from optuna_wnn.storages import open_storage


SECRET = "geheim"

# -- nothing that is read is run -----------------------------------------------------------------

RUNNING_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
READS_NOTHING = {"joblib.effective_n_jobs"}  # counts processors
RUNNING_CALLS = {"eval", "exec", "compile", "__import__"}


def call_name(node: ast.Call) -> str:
    return ast.unparse(node.func)


@pytest.mark.parametrize("module", SOURCES)
def test_no_module_can_run_what_it_reads(module: str) -> None:
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & RUNNING_MODULES
        elif isinstance(node, ast.ImportFrom):
            named = {f"{node.module}.{alias.name}" for alias in node.names} - READS_NOTHING
            assert not {name.split(".")[0] for name in named} & RUNNING_MODULES
        elif isinstance(node, ast.Call):
            name = call_name(node)
            assert name not in RUNNING_CALLS
            assert name not in ("os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load")
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert keywords.get("shell", "False") == "False"
            if name == "np.load":
                assert keywords["allow_pickle"] == "False"
            if name == "yaml.load":
                assert ast.unparse(node.args[1]) == "_Loader"


class Bomb:
    """Goes off when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_pickle_in_redis_is_not_loaded(tmp_path: Path) -> None:
    redis = pytest.importorskip("redis")
    for address in with_redis():
        with redis.Redis.from_url(address) as client:
            client.set(":snapshot", pickle.dumps(Bomb(tmp_path / "exploded")))
            storage = open_storage(address)
            small_search(storage, search={"trials": 18, "population_size": 3}).run()
            assert not (tmp_path / "exploded").exists()
            assert b"exploded" in client.get(":snapshot")  # nor is one written, at trial 100
            assert len(storage.get_all_studies()) == 6


# -- passwords -----------------------------------------------------------------------------------

URLS = [
    f"postgresql+psycopg://user:{SECRET}@127.0.0.1:1/db",
    f"mysql+pymysql://user:{SECRET}@127.0.0.1:1/db",
    f"redis://:{SECRET}@127.0.0.1:1/0",
    f"postgresql+psycopg://127.0.0.1:1/db?user=me&password={SECRET}",
    f"postgresql+psycopg://me@127.0.0.1:1/db?sslpassword={SECRET}",
    f"mysql+pymysql://me@127.0.0.1:1/db?passwd={SECRET}",
]


@pytest.mark.parametrize("url", URLS)
def test_no_error_and_no_log_of_an_unreachable_server_has_the_password(
    url: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(InputError) as refused:
        open_storage(url)
    told = capsys.readouterr()
    assert SECRET not in str(refused.value) + caplog.text + told.out + told.err
    assert SECRET not in masked(f"cannot connect to {url}: refused")


def leaky() -> Exception:
    """Return an error of a driver that names the URL."""
    return sqlalchemy.exc.OperationalError("…", None, Exception(f"no route to {URLS[0]}"))


def test_a_wait_and_its_end_do_not_tell_the_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outages, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(outages, "PATIENCE", 0.01)

    def work() -> None:
        raise leaky()

    with pytest.raises(StorageError) as refused:
        outages.Outage().keep_trying(work)
    assert "no route to" in str(refused.value)
    assert "no route to" in caplog.text
    assert SECRET not in str(refused.value) + caplog.text


def test_an_error_outside_a_run_does_not_tell_the_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(*_: Any) -> None:
        raise leaky()

    monkeypatch.setattr("optuna_wnn.cli._report", report)
    assert main(["report", "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("optuna-wnn: storage: it does not answer")
    assert SECRET not in line


@pytest.mark.parametrize("by", ["file", "environment", "command line"])
def test_a_password_is_stored_nowhere(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # A URL that opens SQLite has no password; so the storage is put in the place of a server's.
    local = open_storage(f"sqlite:///{tmp_path}/runs.db")
    monkeypatch.setattr("optuna_wnn.phases.storages.open_storage", lambda url: local)
    monkeypatch.setattr("optuna_wnn.cli.open_storage", lambda url, must_exist=False: local)
    Path("text.txt").write_text("the cat sat on the mat; the dog did not. " * 40)
    line = f"storage: {URLS[0]}\n" if by == "file" else ""
    Path("run.yaml").write_text(
        f"name: a\n{line}backend: reference\ntask: {{kind: text, path: text.txt, context: 1}}\n"
        "space: {neurons: [2, 3], bits: [2, 4]}\n"
        "search: {trials: 3, population_size: 3}\nphases: [{method: ga, free: bits}]\n"
    )
    if by == "environment":
        monkeypatch.setenv("OPTUNA_WNN__STORAGE", URLS[0])
    words = ["--storage", URLS[0]] if by == "command line" else []
    assert main(["run", "run.yaml", *words]) == 0
    assert main(["report", "a", "--settings"]) == 0
    assert main(["report", "a", "--html", "a.html"]) == 0
    told = capsys.readouterr()
    assert SECRET not in told.out + told.err
    for path in tmp_path.iterdir():
        if path.name != "run.yaml":
            assert SECRET.encode() not in path.read_bytes(), path


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_that_the_umask_gives(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a", b"x")
        Genome([1], [1], [0]).save(tmp_path / "b.json.gz")  # type: ignore[arg-type]
        assert main(["init", str(tmp_path / "c.yaml")]) == 0
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/x", "", ".", "..", "a\0b", "x" * 101, "-x"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    document = {"name": name, "task": {"kind": "python-docs"}}
    with pytest.raises(InputError, match="name"):
        parse_config(document)


def test_what_waits_in_memory_has_no_url() -> None:
    search = small_search(storages.open_storage("memory:"), DigestEvaluator())
    assert "storage" not in search.config.identity()
