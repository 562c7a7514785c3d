"""What released versions stored is read, reported and resumed; what others stored is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from runs import outcome
from runs import small_search
from runs import studies

from optuna_wnn import Genome
from optuna_wnn import report
from optuna_wnn.cli import main
from optuna_wnn.errors import InputError
from optuna_wnn.storages import open_storage
from optuna_wnn.store.settings import write_setting
from optuna_wnn.store.version import SCHEMA


FOLDER = Path(__file__).parent / "released"
VERSIONS = sorted(path.stem for path in FOLDER.glob("*.db"))


@pytest.fixture(params=VERSIONS)
def released(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The URL of a copy of what a released version stored; its task's text lies beside it."""
    for path in (FOLDER / f"{request.param}.db", FOLDER / "text.txt", FOLDER / "run.yaml"):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{request.param}.db"


def test_there_is_one() -> None:
    assert "0.1.0" in VERSIONS


def test_a_finished_run_is_reported(released: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--generations", "--settings", "--html", "page.html", "--storage", released]
    assert main(["report", "finished", *options]) == 0
    told = capsys.readouterr().out
    assert told.count("all 4 trials") == 2
    assert "search.trials" in told
    assert Path("page.html").stat().st_size > 100_000


def test_its_best_genome_is_exported(released: str) -> None:
    assert main(["export", "finished", "best.json.gz", "--storage", released]) == 0
    storage = open_storage(released)
    assert Genome.load("best.json.gz") == report.best_genome(storage, "finished")


def test_a_run_that_was_killed_is_resumed_and_ends_as_the_finished_one(released: str) -> None:
    storage = open_storage(released)
    assert report.summarise(storage, "killed").phases[-1].ended is None
    assert main(["run", "run.yaml", "--name", "killed", "--storage", released]) == 0
    assert_alike(storage, "killed", "finished")


def test_a_finished_run_still_is_what_its_configuration_gives(released: str) -> None:
    assert main(["run", "run.yaml", "--name", "again", "--storage", released]) == 0
    storage = open_storage(released)
    assert_alike(storage, "again", "finished")


def assert_alike(storage: BaseStorage, run: str, finished: str) -> None:
    """Two runs have the same trials, whose values agree but for the last digits.

    The finished one ran on another processor, where NumPy takes logarithms by wider
    instructions. What does not come from a logarithm has to be equal.
    """
    here, there = (list(outcome(storage, name).values()) for name in (run, finished))
    assert [list(study) for study in here] == [list(study) for study in there]
    for ours, theirs in zip(here, there, strict=True):
        for trial, (state, parameters, values, *rest) in theirs.items():
            assert ours[trial][2] == pytest.approx(values, rel=1e-14, abs=0)
            assert ours[trial] == (state, parameters, ours[trial][2], *rest)


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        (SCHEMA + 1, r"a newer optuna-wnn wrote it .*pip install --upgrade optuna-wnn"),
        (None, r"an optuna-wnn from before 0\.1\.0 wrote it, .*choose another --name"),
        ("x", r".*its attributes are damaged"),
    ],
)
def test_what_another_version_stored_is_refused_and_left_alone(schema: object, line: str) -> None:
    storage = InMemoryStorage()
    short = {"trials": 3, "population_size": 3, "n_neighbors": 3}
    small_search(storage, search=short).run()
    last = studies(storage)[-1]
    write_setting(last, "schema", schema)
    before = outcome(storage)
    with pytest.raises(InputError, match=f"study small/6-ts-connections: {line}"):
        small_search(storage, search=short).run()
    with pytest.raises(InputError, match=line):
        report.summarise(storage, "small")
    assert outcome(storage) == before
