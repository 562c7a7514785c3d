"""The wheel holds one package, whole, where its command starts, and nothing else."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
FOLDERS = {
    "optuna_wnn": "optuna_wnn",
    "samplers": "optuna_wnn/samplers",
    "evaluators": "optuna_wnn/evaluators",
}
COMMAND = "optuna_wnn_command.py"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that no earlier build leaks into it."""
    for needed in ("build", "setuptools"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", COMMAND):
        shutil.copy(ROOT / name, source)
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    built = subprocess.run([*command, "."], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_three_folders_and_the_command(wheel: Path) -> None:
    wanted = {COMMAND} | {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == wanted


def test_the_wheel_installs_the_package_and_one_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    assert archive.read(f"{info}/top_level.txt").decode().split() == [
        "optuna_wnn",
        "optuna_wnn_command",
    ]
    scripts = archive.read(f"{info}/entry_points.txt").decode()
    assert scripts.split("\n")[:2] == ["[console_scripts]", "optuna-wnn = optuna_wnn_command:main"]


def test_mlx_is_required_on_apple_silicon_only(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    lines = archive.read(metadata).decode().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist: mlx")]
    unconditional = [line for line in required if "extra ==" not in line]
    assert len(unconditional) == 1
    assert 'platform_system == "Darwin" and platform_machine == "arm64"' in unconditional[0]


def test_samplers_and_evaluators_are_found_inside_the_package_only(
    wheel: Path, tmp_path: Path
) -> None:
    program = f"""
import importlib.util, sys
sys.path.insert(0, {str(wheel)!r})
import optuna_wnn.evaluators, optuna_wnn.samplers
for module in (optuna_wnn, optuna_wnn.evaluators, optuna_wnn.samplers):
    assert module.__file__.startswith({str(wheel)!r}), module
assert importlib.util.find_spec("samplers") is None
assert importlib.util.find_spec("evaluators") is None
"""
    command = [sys.executable, "-I", "-c", program]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_working_copy_is_importable_from_anywhere(tmp_path: Path) -> None:
    program = "import optuna_wnn.samplers, optuna_wnn.evaluators"
    for place in (ROOT, tmp_path):
        subprocess.run([sys.executable, "-c", program], cwd=place, check=True)
