"""Sweep files: one clear line for every mistake, and what reaches their base from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_sweep import BASE
from test_sweep import GRID

from optuna_wnn.cli import main
from optuna_wnn.sweep_file import load_sweep


# Name of the case, what follows the base, where the mistake is, and what the line says of it.
BROKEN: list[tuple[str, str, str, str]] = [
    ("no method", "grid: {seed: [1]}", "method", "this key is needed"),
    ("unknown method", "method: hill\ngrid: {seed: [1]}", "method", "'grid', 'list', 'random'"),
    ("unknown key", f"{GRID}jobs: 3", "jobs", "there are name, base, storage, objective"),
    ("close key", f"{GRID}objectiv: x", "objectiv", "did you mean objective?"),
    ("unknown objective", f"{GRID}objective: speed", "objective", "'cross-entropy' or 'accuracy'"),
    ("no grid", "method: grid", "grid", "add grid"),
    ("grid and list", f"{GRID}list: [{{seed: 1}}]", "list", "remove list"),
    ("space for a grid", f"{GRID}space: {{seed: [1]}}", "space", "remove space"),
    ("empty grid", "method: grid\ngrid: {}", "grid", "name at least one key"),
    ("grid of no values", "method: grid\ngrid: {seed: []}", "grid.seed", "at least"),
    ("grid of a value", "method: grid\ngrid: {seed: 1}", "grid.seed", "list"),
    ("grid is a list", "method: grid\ngrid: [seed]", "grid", "a mapping of keys is needed"),
    ("empty list", "method: list\nlist: []", "list", "at least"),
    ("list of words", "method: list\nlist: [seed]", "list.0", "a mapping of keys is needed"),
    (
        "grid too large",
        f"method: grid\ngrid: {{seed: {list(range(101))}, space.bits: {list(range(1, 101))}}}",
        "grid",
        "10,100 combinations",
    ),
    ("unknown key varied", "method: grid\ngrid: {sed: [1]}", "grid.sed.0: sed", "mean seed?"),
    ("section varied", "method: grid\ngrid: {search: [1]}", "grid.search.0", "a mapping"),
    ("wrong type", "method: grid\ngrid: {seed: [1, x]}", "grid.seed.1: seed", "whole number"),
    ("beyond a value", "method: grid\ngrid: {seed.x: [1]}", "grid.seed.x.0", "whole number"),
    ("no such phase", "method: grid\ngrid: {phases.2.trials: [1]}", "phases.2", "there are 2"),
    ("own name", "method: grid\ngrid: {name: [a]}", "grid.name.0", "at the top of the file"),
    ("own storage", "method: list\nlist: [{storage: a}]", "list.0.storage", "at the top"),
    (
        "never valid",
        "method: grid\ngrid: {memory.prior: [0.5, -1], seed: [1, 2]}",
        "grid.memory.prior.1",
        "in no combination valid: memory.prior: -1.0 is not above 0",
    ),
    ("unknown option", "method: grid\ngrid: {task.contxt: [1]}", "task.contxt", "no such option"),
    (
        "unknown option in a list",
        "method: list\nlist: [{seed: 1}, {task.contxt: 1}]",
        "list.1: task.contxt",
        "no such option",
    ),
    (
        "wrong type in a list",
        "method: list\nlist: [{seed: 1}, {seed: 1.5}]",
        "list.1.seed",
        "whole number",
    ),
    ("no trials", "method: tpe\nspace: {seed: [1]}", "trials", "add it"),
    ("trials of a grid", f"{GRID}trials: 3", "trials", "remove it"),
    ("too many trials", "method: tpe\ntrials: 10001\nspace: {seed: [1]}", "trials", "lower it"),
    ("space of a value", "method: tpe\ntrials: 1\nspace: {seed: 1}", "space.seed", "mapping"),
    ("no range", "method: tpe\ntrials: 1\nspace: {seed: {low: 1}}", "space.seed", "low and high"),
    (
        "upside down",
        "method: tpe\ntrials: 1\nspace: {seed: {low: 2, high: 1}}",
        "space.seed",
        "low <= high",
    ),
    (
        "log of zero",
        "method: tpe\ntrials: 1\nspace: {seed: {low: 0, high: 9, log: true}}",
        "space.seed",
        "log needs a low above 0",
    ),
    (
        "range of words",
        "method: tpe\ntrials: 1\nspace: {seed: {low: a, high: b}}",
        "space.seed.low",
        "a number is needed (it is 'a')",
    ),
    (
        "half seeds",
        "method: tpe\ntrials: 1\nspace: {seed: {low: 0, high: 1.5}}",
        "space.seed.high: seed",
        "whole number",
    ),
    (
        "choices and range",
        "method: tpe\ntrials: 1\nspace: {seed: {low: 0, high: 1, choices: [1]}}",
        "space.seed",
        "not both",
    ),
    (
        "wrong choice",
        "method: random\ntrials: 1\nspace: {memory.mode: [frequency, x]}",
        "space.memory.mode.1: memory.mode",
        "'wisard'",
    ),
]


@pytest.mark.parametrize(
    ("text", "place", "hint"), [pytest.param(*case[1:], id=case[0]) for case in BROKEN]
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, place: str, hint: str
) -> None:
    refused(here, capsys, BASE + text, place, hint)


@pytest.mark.parametrize(
    ("base", "place", "hint"),
    [
        ("gone.yaml", "base: gone.yaml", "cannot be read"),
        ("text.txt", "base: text.txt", "a mapping of keys is needed"),
        ("5", "base", "give the path of a file, or a mapping"),
        ("{}", "base: task", "this key is needed"),
        ("{task: {kind: x}}", "base: task.kind", "not one of"),
        ("{task: {kind: python-docs}, serch: {}}", "base: serch", "did you mean search?"),
        ("{task: {kind: python-docs, contxt: 1}}", "base: task.contxt", "no such option"),
        ("{task: {kind: text, path: gone.txt}}", "gone.txt", "correct task.path"),
        ("{task: {kind: text, path: text.txt, context: 1}}", "space.bits", "lower it to 8"),
    ],
)
def test_a_wrong_base_is_one_line_and_leaves_nothing_behind(
    here: Path, capsys: pytest.CaptureFixture[str], base: str, place: str, hint: str
) -> None:
    refused(here, capsys, f"name: many\nbase: {base}\n{GRID}", place, hint)


def refused(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, place: str, hint: str
) -> None:
    Path("sweep.yaml").write_text(text)
    before = sorted(here.iterdir())
    assert main(["sweep", "sweep.yaml"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("optuna-wnn: sweep.yaml: ")
    assert told.count("\n") == 1
    assert place in told
    assert hint in told
    assert sorted(here.iterdir()) == before


def test_the_environment_and_the_command_line_reach_the_base(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("sweep.yaml").write_text(BASE + GRID)
    environment = {"OPTUNA_WNN__SEARCH__TRIALS": "7", "OPTUNA_WNN__NAME": "env"}
    definition = load_sweep("sweep.yaml", ["search.n_neighbors=4"], environment)
    assert definition.config.name == "env"
    search = definition.run_config({}, "x").search
    assert (search.trials, search.n_neighbors) == (7, 4)
    monkeypatch.setenv("OPTUNA_WNN__SEARCH__TRIALS", "x")
    assert main(["sweep", "sweep.yaml"]) == 2
    assert "OPTUNA_WNN__SEARCH__TRIALS: search.trials" in capsys.readouterr().err
