"""Networks and servers that go away in mid-run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from commands import CONFIG
from commands import ERR
from commands import came_to
from commands import ended
from commands import start
from commands import wait_for
from commands import written
from runs import Outcome
from services import PostgreSQL
from services import Wire
from services import with_storage


@pytest.fixture
def wired(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Wire, str]]:
    """A wire to a fresh storage of some service, and the URL that leads through it."""
    for address in with_storage(request.param, tmp_path):
        url = sqlalchemy.engine.make_url(address)
        assert url.port is not None
        wire = Wire(url.port)
        yield wire, url.set(port=wire.port).render_as_string(hide_password=False)
        wire.close()


SECONDS = float(os.environ.get("TEST_CUT_SECONDS", "1"))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    ("wired", "fault"),
    [("postgres", "cut"), ("postgres", "stall"), ("mysql", "cut"), ("redis", "cut")],
    indirect=["wired"],
)
def test_a_run_survives_a_network_that_is_away(
    wired: tuple[Wire, str],
    fault: str,
    here: Path,
    undisturbed: Outcome,
) -> None:
    wire, url = wired
    Path("run.yaml").write_text(CONFIG.format(name="cut", storage=url))
    process = start(["run", "run.yaml"])
    wait_for(process, "generation")
    if fault == "cut":
        wire.cut(SECONDS, lambda: bool(written(ERR)) or not process.is_alive())
    else:
        wire.stall(SECONDS)
    code, lines = ended(process)
    assert code == 0, lines
    if fault == "cut":
        assert lines
        assert all(line.startswith("The storage does not answer (") for line in lines), lines
    else:
        assert lines == []
    assert came_to(url, "cut") == undisturbed


@pytest.fixture
def server() -> Iterator[PostgreSQL]:
    # Not in pytest's own folder, which only this user may enter.
    folder = Path("/tmp") / f"wnn-postgres-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        server = PostgreSQL(folder)
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)


def test_a_run_survives_a_database_that_crashes_and_comes_back(
    server: PostgreSQL, here: Path, undisturbed: Outcome
) -> None:
    Path("run.yaml").write_text(CONFIG.format(name="crash", storage=server.url))
    process = start(["run", "run.yaml"])
    wait_for(process, "generation")
    server.stop()
    time.sleep(0.5)
    server.start()
    code, lines = ended(process)
    assert code == 0, lines
    assert all(line.startswith("The storage does not answer (") for line in lines), lines
    assert came_to(server.url, "crash") == undisturbed
