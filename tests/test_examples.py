"""Every example runs, with fewer trials than a reader would give it."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from optuna_wnn.cli import main


EXAMPLES = Path(__file__).parent.parent / "examples"


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, *words: str
) -> str:
    """Return what a script prints."""
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    return capsys.readouterr().out


def test_an_objective_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(monkeypatch, capsys, "custom_objective.py", "4")
    losses = [float(line.split()[0]) for line in out.splitlines()[1:]]
    sizes = [float(line.split()[1]) for line in out.splitlines()[1:]]
    assert losses == sorted(losses)
    assert sizes == sorted(sizes, reverse=True)  # a front: what is better is larger


def test_samplers_are_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(monkeypatch, capsys, "compare_samplers.py", "2", "1")
    assert out.startswith("2 trials, 1 seeds\n")
    assert len(re.findall(r"^[\w -]+?(?: +\d\.\d{4}){3} +\d+\.\d$", out, re.MULTILINE)) == 6


def test_a_table_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3))
    lines = [f"{a:.3f},{b:.3f},{c:.3f},{'up' if a > 0 else 'down'}" for a, b, c in rows]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["a,b,c,target", *lines]))
    out = run(monkeypatch, capsys, "tabular.py", str(path), "--trials", "12")
    assert "table: 140 training rows, 24 input bits" in out
    assert float(re.findall(r"test accuracy (\S+),", out)[0]) > 0.6


def test_the_digits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    out = run(monkeypatch, capsys, "tabular.py", "--trials", "3")
    assert float(re.findall(r"test accuracy (\S+),", out)[0]) > 0.5


def test_a_table_that_is_missing_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^no\.csv: cannot be read .*correct task\.path$"):
        run(monkeypatch, capsys, "tabular.py", "no.csv")


def test_wikitext_runs_on_any_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wikitext-2.txt").write_text("\n".join(topics.values())[:40_000], encoding="utf-8")
    monkeypatch.setenv("OPTUNA_WNN__SEARCH__TRIALS", "2")
    for phase in (2, 3):
        monkeypatch.setenv(f"OPTUNA_WNN__PHASES__{phase}__REFINE_STEPS", "2")
    assert main(["run", str(EXAMPLES / "wikitext2.yaml")]) == 0
    assert "baseline: unigram" in capsys.readouterr().out


def test_wikitext_says_which_file_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(EXAMPLES / "wikitext2.yaml")]) == 2
    told = capsys.readouterr().err
    assert "wikitext-2.txt: cannot be read (No such file or directory); correct task.path" in told
    assert list(tmp_path.iterdir()) == []


def test_every_example_is_run_by_a_test() -> None:
    tests = "".join(p.read_text("utf-8") for p in Path(__file__).parent.glob("test_*.py"))
    for path in EXAMPLES.glob("*"):
        if path.suffix in (".py", ".yaml"):
            assert path.name in tests or f'"{path.stem}"' in tests, path
