"""The floors of the house: who may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent

# Rooms by floor; a room imports only from floors below it.
FLOORS = [
    rooms.split()
    for rooms in (
        "errors",
        "genome memory variation moves fitness schedule packing at_once rdb store storages "
        "journal workers outages strict_yaml validation config sources tasks jobs container",
        "space crew evaluators network report schema sweep_config sweep_file axes leaderboard",
        "samplers traces figures notes models importance",
        "chain phases plan sweep dashboard pages",
        "console cli sklearn",
    )
]
# What is allowed within a floor, besides a package importing from itself.
SAME_FLOOR = {
    ("memory", "genome"),
    ("variation", "genome"),
    ("packing", "genome"),
    ("container", "genome"),
    ("store", "genome"),
    ("store", "packing"),
    ("store", "rdb"),
    ("rdb", "at_once"),
    ("storages", "journal"),
    ("outages", "storages"),
    ("moves", "genome"),
    ("moves", "variation"),
    ("store", "workers"),
    ("config", "genome"),
    ("config", "fitness"),
    ("config", "schedule"),
    ("config", "memory"),
    ("config", "validation"),
    ("sources", "config"),
    ("sources", "validation"),
    ("sources", "strict_yaml"),
    ("network", "evaluators"),
    ("phases", "chain"),
    ("plan", "phases"),
    ("sweep_file", "sweep_config"),
    ("axes", "sweep_config"),
    ("schema", "sweep_config"),
    ("leaderboard", "sweep_config"),
    ("leaderboard", "report"),
    ("sweep", "chain"),
    ("sweep", "phases"),
    ("cli", "console"),
    ("figures", "traces"),
    ("figures", "importance"),
    ("models", "importance"),
    ("notes", "traces"),
}
# Libraries that only these rooms know.
LIBRARIES = {
    "optuna": {
        *("rdb", "store", "storages", "journal", "space", "crew", "report", "models"),
        *("samplers", "chain", "phases", "sweep", "axes", "leaderboard", "traces", "dashboard"),
        "sklearn",
    },
    "numba": {"evaluators"},
    "llvmlite": {"evaluators"},
    "mlx": {"evaluators"},
    "tiktoken": {"tasks"},
    "plotly": {"figures", "pages", "dashboard"},
    "optuna_dashboard": {"dashboard"},
    "sklearn": {"sklearn"},
}
# Names of Optuna that are private: `store` alone spells them.
PRIVATE = {"_storage", "_trial_id", "_study_id", "_get_trials"}


def sources() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    found = {}
    for folder, prefix in (
        ("optuna_wnn", "optuna_wnn"),
        ("samplers", "optuna_wnn.samplers"),
        ("evaluators", "optuna_wnn.evaluators"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([prefix, *(part for part in parts if part != "__init__")])] = path
    return found


SOURCES = sources()
MODULES = [pytest.param(name, id=name) for name in SOURCES]


def tree(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"))


def imports(module: str) -> set[str]:
    """Return the absolute names that a module imports, wherever in it the import stands."""
    package = module.split(".")
    if SOURCES[module].name != "__init__.py":
        package = package[:-1]
    names = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> str:
    """Return the room of a dotted name inside the package; "" for the package itself."""
    return [*name.split("."), ""][1]


def floor(name: str) -> int:
    for height, rooms in enumerate(FLOORS):
        if name in rooms:
            return height
    raise AssertionError(f"optuna_wnn.{name} is no room of FLOORS")


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_from_floors_below(module: str) -> None:
    here = room(module)
    if not here:
        return  # the package's own __init__ shows what is public
    rooms = {room(name) for name in imports(module) if name.startswith("optuna_wnn.")} - {here}
    wrong = {
        there for there in rooms if floor(there) >= floor(here) and (here, there) not in SAME_FLOOR
    }
    assert not wrong, f"{here} (floor {floor(here)}) imports {wrong}"


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_in_their_rooms(module: str) -> None:
    for name in imports(module):
        library = name.split(".")[0]
        assert room(module) in LIBRARIES.get(library, {room(module)}), (
            f"{module} imports {library}, which only {LIBRARIES[library]} may"
        )


@pytest.mark.parametrize("module", MODULES)
def test_only_the_store_uses_private_names_of_optuna(module: str) -> None:
    if room(module) == "store":
        return
    private = {name for name in imports(module) if name.startswith("optuna.") and "._" in name}
    private |= {
        node.attr
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE
    }
    assert not private


def test_importing_the_package_loads_no_heavy_library() -> None:
    program = "import sys, optuna_wnn; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"numba", "llvmlite", "mlx", "plotly"} & set(ran.stdout.split())


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=str(path.relative_to(ROOT)))
        for folder in ("optuna_wnn", "samplers", "evaluators", "tests", "benchmarks", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ],
)
def test_a_module_says_first_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
