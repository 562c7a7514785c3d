"""Other tools take this package's samplers; those that are not installed are skipped."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

import optuna_wnn


ROOT = Path(__file__).parent.parent
HUB = ROOT / "hub"
PACKAGES = sorted(path.parent.relative_to(HUB).as_posix() for path in HUB.glob("*/*/__init__.py"))


def run(script: str, *arguments: str, needs: str, here: Path) -> str:
    """Return what a script of the examples prints."""
    for module in needs.split():
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install '.[ecosystem]'")
    path = ROOT / "examples" / "ecosystem" / script
    environment = {**os.environ, "WANDB_MODE": "offline", "RAY_USAGE_STATS_ENABLED": "0"}
    ran = subprocess.run(
        [sys.executable, str(path), *arguments],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


# -- in Optuna itself ----------------------------------------------------------------------------


def test_plots_and_importances_of_optuna(tmp_path: Path) -> None:
    out = run("optuna_tools.py", "12", needs="plotly sklearn", here=tmp_path)
    assert len(re.findall(r"neurons_\d: \d\.\d\d", out)) == 3
    assert "optimization_history 3 traces" in out


@pytest.mark.filterwarnings("ignore:`optuna.terminator` module has been deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_terminator_ends_a_study_that_stands_still() -> None:
    from optuna import terminator

    stop = terminator.TerminatorCallback(
        terminator.Terminator(
            improvement_evaluator=terminator.BestValueStagnationEvaluator(5),
            error_evaluator=terminator.StaticErrorEvaluator(0),
            min_n_trials=5,
        )
    )
    sampler = optuna_wnn.WNNGeneticSampler(seed=0, population_size=4)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda t: float(t.suggest_int("x", 1, 9) > 0), n_trials=50, callbacks=[stop])
    assert len(study.trials) < 50


# -- OptunaHub -----------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_for_the_hub_is_as_the_registry_wants_it(package: str) -> None:
    folder = HUB / package
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {
        *("__init__.py", "LICENSE", "README.md", "example.py")
    }
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    _, header, page = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    front = yaml.safe_load(header)
    keys = ("author", "title", "description", "tags", "optuna_versions", "license")
    assert tuple(front) == keys
    assert all(front.values())
    assert "sampler" in front["tags"]
    for section in ("Abstract", "APIs", "Installation", "Example", "Others"):
        assert f"\n## {section}\n" in page


@pytest.mark.parametrize("package", PACKAGES)
def test_the_hub_loads_a_package_and_its_example_runs(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    optunahub = pytest.importorskip("optunahub")

    def load(name: str, **options: Any) -> Any:
        return optunahub.load_local_module(name, registry_root=str(HUB))

    module = load(package)
    for name in module.__all__:
        sampler = getattr(module, name)
        assert sampler is getattr(optuna_wnn, name)
        pickle.loads(pickle.dumps(sampler(seed=0)))
        page = (HUB / package / "README.md").read_text(encoding="utf-8")
        for argument, value in sampler.__init__.__kwdefaults__.items():
            shown = f'"{value.value}"' if hasattr(value, "value") else repr(value)
            assert f"{argument}={shown}".replace("'", '"') in page
    monkeypatch.setattr(optunahub, "load_module", load)
    runpy.run_path(str(HUB / package / "example.py"))
    assert "'k': 7" in capsys.readouterr().out


# -- tools of their own --------------------------------------------------------------------------


def test_dask_shares_a_study_among_workers(tmp_path: Path) -> None:
    out = run("dask_storage.py", "8", needs="distributed optuna_integration", here=tmp_path)
    assert re.search(r"^8 trials, best \d\.\d+: Genome\(8 clusters", out, re.MULTILINE)


def test_hydra_sweeps_with_the_genetic_sampler(tmp_path: Path) -> None:
    needs = "hydra hydra_plugins.hydra_optuna_sweeper"
    if importlib.util.find_spec("hydra_plugins") is None:
        needs = "hydra_plugins"
    options = ("--multirun", "hydra.sweeper.n_trials=5", f"hydra.sweep.dir={tmp_path}/out")
    run("hydra_app.py", *options, needs=needs, here=tmp_path)
    best = yaml.safe_load((tmp_path / "out" / "optimization_results.yaml").read_text())
    assert best["best_value"] > 0
    assert set(best["best_params"]) == {"vote", "prior", "wiring"}


@pytest.mark.slow
def test_ray_tune_evaluates_the_genomes_of_the_sampler(tmp_path: Path) -> None:
    out = run("ray_tune.py", "4", needs="ray optuna pandas", here=tmp_path)
    assert re.search(r"^4 trials, best \d\.\d+$", out, re.MULTILINE)


@pytest.mark.slow
def test_mlflow_has_a_run_for_each_trial(tmp_path: Path) -> None:
    out = run("mlflow_callback.py", "3", needs="mlflow optuna_integration", here=tmp_path)
    assert "3 trials" in out
    assert (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_wandb_logs_the_trials(tmp_path: Path) -> None:
    out = run("wandb_callback.py", "3", needs="wandb optuna_integration", here=tmp_path)
    assert "3 trials" in out
    assert list((tmp_path / "wandb").glob("offline-run-*"))
