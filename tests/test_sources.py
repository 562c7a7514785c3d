"""Where the values of a configuration come from, and who is to blame for a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from optuna_wnn.cli import main
from optuna_wnn.errors import InputError
from optuna_wnn.sources import load_config
from optuna_wnn.sources import settings


TEXT = """
name: tiny
seed: 1
backend: reference
task: {kind: text, path: text.txt, context: 1}
space: {neurons: [2, 3], bits: [2, 4]}
search: {trials: 3, population_size: 3, n_neighbors: 3}
phases: [{method: ga, free: bits}, {method: ts, free: bits, trials: 4}]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a configuration and its text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(TEXT)
    (tmp_path / "text.txt").write_text("the cat sat on the mat; the dog did not. " * 40)
    return tmp_path


# -- what overrules what -------------------------------------------------------------------------


def test_the_command_line_overrules_the_environment_which_overrules_the_file(here: Path) -> None:
    def seed(overrides: list[str], environment: dict[str, str]) -> int | None:
        return load_config("run.yaml", overrides, environment).seed

    assert seed([], {}) == 1
    assert seed([], {"OPTUNA_WNN__SEED": "2"}) == 2
    assert seed(["seed=3"], {"OPTUNA_WNN__SEED": "2"}) == 3


def test_variables_reach_every_key(here: Path) -> None:
    config = load_config(
        "run.yaml",
        [],
        {
            "OPTUNA_WNN__SEARCH__POPULATION_SIZE": "8",
            "OPTUNA_WNN__PHASES__1__TRIALS": "9",
            "OPTUNA_WNN__SPACE__NEURONS": "[4, 5]",
            "OPTUNA_WNN__STORAGE": "sqlite:///a.db",
            "OPTUNA_WNN": "not one of ours",
            "OTHER__SEED": "7",
        },
    )
    assert config.search.population_size == 8
    assert [phase.trials for phase in config.phases] == [3, 9]
    assert config.space.neurons == (4, 5)
    assert config.storage == "sqlite:///a.db"


def test_an_option_overrules_all_and_is_taken_literally(here: Path) -> None:
    config = load_config("run.yaml", ["name=b"], {"OPTUNA_WNN__NAME": "c"}, {"name": "007"})
    assert config.name == "007"
    assert config.sources["name"] == "--name"


def test_an_entry_of_a_list_that_the_file_leaves_out_can_be_set(here: Path) -> None:
    (here / "run.yaml").write_text("name: x\ntask: {kind: python-docs}\n")
    config = load_config("run.yaml", ["space.neurons.1=9", "phases.5.trials=2"])
    assert config.space.neurons == (2, 9)
    assert config.phases[5].trials == 2


# -- where values came from ----------------------------------------------------------------------


def test_every_setting_says_where_it_came_from(here: Path) -> None:
    environment = {"OPTUNA_WNN__SEARCH__TRIALS": "7"}
    config = load_config("run.yaml", ["space.neurons.1=4"], environment)
    found = {key: (value, origin) for key, value, origin in settings(config)}
    assert found["seed"] == (1, "file: run.yaml")
    assert found["search.trials"] == (7, "environment: OPTUNA_WNN__SEARCH__TRIALS")
    assert found["space.neurons"] == ([2, 4], "command line: --set space.neurons.1")
    assert found["memory.prior"] == (0.8, "default")
    assert found["task.path"] == ("text.txt", "file: run.yaml")
    assert found["phases.1.trials"] == (4, "file: run.yaml")
    assert "phases.0.trials" not in found  # it is what search says
    assert not any(key.startswith("storage") for key in found)  # it may hold a password


def test_the_report_shows_the_settings_that_a_run_was_started_with(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTUNA_WNN__STORAGE", "sqlite:///elsewhere.db")
    assert main(["run", "run.yaml", "--set", "seed=5"]) == 0
    assert (here / "elsewhere.db").exists()
    capsys.readouterr()
    assert main(["report", "tiny", "--settings"]) == 0
    rows = [line.strip("│ ").split(" │ ") for line in capsys.readouterr().out.splitlines()]
    found = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if len(row) == 3}
    assert found["seed"] == ["5", "command line: --set seed"]
    assert found["search.trials"] == ["3", "file: run.yaml"]
    assert found["search.crossover"] == ['"informed"', "default"]


# -- who is to blame -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("SEED", "x", "OPTUNA_WNN__SEED: seed: a whole number is needed (it is 'x')"),
        ("SEED", "[", "OPTUNA_WNN__SEED: seed: not valid YAML"),
        ("SED", "1", "OPTUNA_WNN__SED: sed: there is no such key; did you mean seed?"),
        ("SEARCH__TRAILS", "1", "OPTUNA_WNN__SEARCH__TRAILS: search.trails: there is no such"),
        ("PHASES__2__TRIALS", "1", "OPTUNA_WNN__PHASES__2__TRIALS: phases.2: there are 2"),
        ("SEED__X", "1", "OPTUNA_WNN__SEED__X: seed.x: seed is a single value"),
        ("", "1", "OPTUNA_WNN__: : give a key"),
        ("SPACE__BITS", "200", "OPTUNA_WNN__SPACE__BITS: space.bits: upper bound 200"),
        ("TASK__CONTEXT", "0", "OPTUNA_WNN__TASK__CONTEXT: task.context"),
        ("BACKEND", "tpu", "OPTUNA_WNN__BACKEND: backend: 'tpu' is not one of"),
        ("STORAGE", "floppy://a", "OPTUNA_WNN__STORAGE: storage floppy://a"),
    ],
)
def test_a_wrong_variable_is_named_and_nothing_is_stored(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    line: str,
) -> None:
    monkeypatch.setenv(f"OPTUNA_WNN__{variable}", value)
    before = sorted(here.iterdir())
    assert main(["run", "run.yaml"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"optuna-wnn: {line}")
    assert told.count("\n") == 1
    assert sorted(here.iterdir()) == before


def test_the_file_is_to_blame_where_nothing_overrules_it(here: Path) -> None:
    (here / "run.yaml").write_text(TEXT.replace("seed: 1", "seed: -1"))
    with pytest.raises(InputError, match=r"^run\.yaml: seed: "):
        load_config("run.yaml", ["search.trials=2"], {"OPTUNA_WNN__NAME": "x"})


def test_an_option_of_the_command_line_is_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "run.yaml", "--name", "a/b"]) == 2
    assert capsys.readouterr().err.startswith("optuna-wnn: --name: name: 'a/b' is no name")
