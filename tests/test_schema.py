"""What users are told of the keys: the file that init writes, the JSON schema, the dry run."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from optuna_wnn.cli import main
from optuna_wnn.config import parse_config
from optuna_wnn.errors import InputError
from optuna_wnn.schema import json_schema
from optuna_wnn.schema import keys
from optuna_wnn.schema import sweep_schema
from optuna_wnn.schema import template
from optuna_wnn.sources import load_config
from optuna_wnn.tasks import options_of


ROOT = Path(__file__).parent.parent
MINIMAL: dict[str, Any] = {"name": "x", "task": {"kind": "python-docs"}}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- init ----------------------------------------------------------------------------------------


def test_what_init_writes_is_the_default_configuration(here: Path) -> None:
    assert main(["init", "my.run.yaml"]) == 0
    config = load_config("my.run.yaml")
    assert config.name == "my.run"
    identity, default = config.identity(), parse_config(MINIMAL).identity()
    identity["task"] = default["task"] = None
    assert identity == default
    defaults = options_of("python-docs")
    assert {name: str(value).strip("[]") for name, value in config.task.options.items()} == {
        name: str(option.default).strip("()") for name, option in defaults.items()
    }


def test_every_key_is_in_what_init_writes_and_explained() -> None:
    text = template("x")
    for key in keys():
        name = key.path.rpartition(".")[2]
        assert re.search(rf"^[ #-]*{{?{name}: ", text, re.MULTILINE), key.path
        words = " ".join(line.strip("# ") for line in text.splitlines())
        assert key.description.partition(" (of `kind")[0] in words


def test_what_init_comments_out_is_valid_too() -> None:
    text = re.sub(r"^# (?=threshold:|scaling:|  )", "", template("x"), flags=re.MULTILINE)
    config = parse_config(yaml.safe_load(text))
    assert config.threshold is not None
    assert config.scaling is not None


def test_init_overwrites_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "run.schema.json").write_text("mine")
    assert main(["init", "--schema"]) == 2
    assert "run.schema.json: it is there already" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["run.schema.json"]
    assert main(["init"]) == 0
    before = (here / "run.yaml").read_text()
    assert main(["init"]) == 2
    assert (here / "run.yaml").read_text() == before


@pytest.mark.parametrize("path", ["gone/run.yaml", "."])
def test_a_file_that_init_cannot_write_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    assert main(["init", path, "--schema"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_editors_are_told_of_the_schema_only_if_it_is_there(here: Path) -> None:
    assert main(["init", "a.yaml"]) == 0
    assert "yaml-language-server" not in Path("a.yaml").read_text()
    assert main(["init", "b.yaml", "--schema"]) == 0
    first = Path("b.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=b.schema.json"
    jsonschema.validate(yaml.safe_load(Path("b.yaml").read_text()), schema_in("b.schema.json"))


def schema_in(path: str) -> Any:
    return json.loads(Path(path).read_text())


# -- the JSON schema -----------------------------------------------------------------------------


def test_the_schema_is_a_schema_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema == json.loads(json.dumps(json_schema()))


def test_the_examples_validate_against_the_schema() -> None:
    for name, schema in (("quickstart", json_schema()), ("sweep", sweep_schema())):
        document = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
        jsonschema.validate(document, schema)


SWEEP: dict[str, Any] = {"name": "x", "base": "run.yaml", "method": "tpe"}


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({"space": {"seed": [1, 2]}, "trials": 3}, True),
        ({"space": {"seed": {"low": 1, "high": 2}}, "trials": 3}, True),
        ({"base": {"task": {"kind": "python-docs"}}}, True),
        ({"method": "list", "list": [{"seed": 1}]}, True),
        ({"base": {"task": {"kind": "python-docs"}, "serch": {}}}, False),
        ({"base": 5}, False),
        ({"space": {"seed": {"lowest": 1}}}, False),
        ({"grid": {"seed": []}}, False),
        ({"method": "hill"}, False),
        ({"entries": []}, False),
    ],
)
def test_the_schema_of_sweeps_knows_their_keys(changes: dict[str, Any], holds: bool) -> None:
    jsonschema.Draft202012Validator.check_schema(sweep_schema())
    valid = jsonschema.Draft202012Validator(sweep_schema()).is_valid({**SWEEP, **changes})
    assert valid is holds


def test_the_schema_of_sweeps_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--sweep"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(sweep_schema()))


VALID: list[dict[str, Any]] = [
    {},
    {"space": {"bits": 8, "neurons": [2, 9]}},
    {"phases": [{"method": "ga", "free": "bits", "trials": 3}]},
    {"phases": [{"method": "ts", "free": ["bits", "neurons"], "patience": None}]},
    {"task": {"kind": "tabular", "path": "a.csv", "thresholds": 4}},
    {"threshold": {"end": 0.5}, "scaling": None, "threads": 2},
    {"backend": "mlx", "device_bytes": 8_000_000_000},
    {"memory": {"temperature": "fit"}},
]
INVALID: list[dict[str, Any]] = [
    {"sed": 1},
    {"seed": -1},
    {"seed": "1"},
    {"device_bytes": 0},
    {"space": {"bits": [1, 2, 3]}},
    {"space": {"bit": 3}},
    {"memory": {"mode": "x"}},
    {"memory": {"mod": "x"}},
    {"phases": [{"method": "sa", "free": "bits"}]},
    {"phases": [{"method": "ga"}]},
    {"task": {"kind": "tabular"}},
    {"task": {"kind": "python-docs", "contxt": 3}},
    {"search": {"mutation_rate": 2}},
    {"threshold": {}},
]


@pytest.mark.parametrize("changes", VALID)
def test_the_schema_takes_what_the_program_takes(changes: dict[str, Any]) -> None:
    document = {**copy.deepcopy(MINIMAL), **changes}
    parse_config(document)
    jsonschema.validate(document, json_schema())


@pytest.mark.parametrize("changes", INVALID)
def test_the_schema_refuses_what_the_program_refuses(changes: dict[str, Any]) -> None:
    document = {**copy.deepcopy(MINIMAL), **changes}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json_schema())
    if "task" not in changes:  # the options of a kind are checked when the task is loaded
        with pytest.raises(InputError):
            parse_config(document)


# -- the dry run ---------------------------------------------------------------------------------


def test_a_dry_run_shows_what_would_be_done_and_stores_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "text.txt").write_text("the cat sat on the mat; the dog did not. " * 40)
    (here / "run.yaml").write_text(
        "name: tiny\nbackend: reference\ntask: {kind: text, path: text.txt, context: 1}\n"
        "space: {neurons: [2, 3], bits: [2, 4]}\nsearch: {trials: 5}\n"
        "phases: [{method: ga, free: connections},"
        " {method: ts, free: connections, refine_steps: 7}]\n"
    )
    before = sorted(here.iterdir())
    assert main(["run", "run.yaml", "--dry-run", "--set", "search.trials=6"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"1-ga-connections +│ +6 │ +│ +\d", out)
    assert re.search(r"2-ts-connections +│ +6 │ +7 │ +\d", out)
    assert re.search(r"all +│ +12 │", out)
    assert "1,311 train, 163 validation, 163 test" in out
    # 8 clusters of 2 neurons of 3 bits, and of 3 neurons of 4 bits, a byte a cell
    assert re.search(r"0\.125 KiB of tables for a network at the start, at most 0\.375 KiB", out)
    assert sorted(here.iterdir()) == before


def test_a_dry_run_refuses_what_a_run_refuses(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "run.yaml").write_text(
        "name: x\ntask: {kind: python-docs, context: 1}\nspace: {bits: 9}"
    )
    assert main(["run", "run.yaml", "--dry-run"]) == 2
    assert "lower it to 8" in capsys.readouterr().err
