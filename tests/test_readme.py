"""What the README shows works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

import optuna_wnn
from optuna_wnn.cli import main


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_example(n_trials: int, sampler: str = "WNNGeneticSampler()") -> str:
    """Return the README's Python example, shortened, with another sampler if need be."""
    examples: list[str] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (example,) = examples
    assert "n_trials=500" in example
    assert "sampler=WNNGeneticSampler()" in example
    shorter = example.replace("n_trials=500", f"n_trials={n_trials}")
    return shorter.replace("sampler=WNNGeneticSampler()", f"sampler={sampler}")


@pytest.mark.parametrize(
    "sampler",
    [
        "WNNGeneticSampler()",
        "optuna.samplers.TPESampler(n_startup_trials=2)",
        "optuna.samplers.NSGAIISampler(population_size=2)",
        "optuna.samplers.RandomSampler()",
    ],
)
def test_the_python_example_runs_under_any_sampler(sampler: str) -> None:
    scope: dict[str, Any] = {}
    exec(compile(python_example(4, sampler), "README.md", "exec"), scope)
    study, space = scope["study"], scope["space"]
    assert isinstance(study, optuna.Study)
    assert len(study.trials) == 4
    for trial in study.trials:
        assert trial.state == optuna.trial.TrialState.COMPLETE
        cross_entropy, accuracy = trial.values
        assert 0 < cross_entropy < 10
        assert 0 <= accuracy <= 1
        genome = optuna_wnn.genome(trial, study)
        genome.check(space.bounds)
        again = scope["evaluator"].evaluate(genome)
        assert (again.cross_entropy, again.accuracy) == (cross_entropy, accuracy)


def test_the_minimal_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "examples" / "minimal.py"
    shorter = path.read_text(encoding="utf-8").replace("n_trials=100", "n_trials=3")
    exec(compile(shorter, str(path), "exec"), {"__name__": "__main__"})
    assert re.match(r"trial [0-2]: cross-entropy \d", capsys.readouterr().out)


def test_every_file_that_the_readme_names_is_there() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_make_target_that_the_readme_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_examples_are_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--set", "search.trials=2", "--set", "search.population_size=2"]
    quick += ["--set", "search.n_neighbors=2"]
    quick += [word for i in range(6) for word in ("--set", f"phases.{i}.refine_steps=2")]
    assert main(["run", str(ROOT / "examples" / "quickstart.yaml"), *quick]) == 0
    assert "baseline: Kneser-Ney bigram" in capsys.readouterr().out


def test_nothing_is_said_of_extras_that_do_not_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"\[(cuda\d+)\]", README):
        assert f"{extra} = [" in project
