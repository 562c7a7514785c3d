"""Settings that all tests share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import metal
import optuna
import pytest
from commands import CONFIG
from commands import TEXT
from commands import came_to
from commands import ended
from commands import start
from hypothesis import settings
from runs import Outcome


# Optuna's public suites show what an assertion compared, as tests here do.
pytest.register_assert_rewrite("optuna.testing.pytest_samplers")

# A busy machine is slow now and then; that is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def gpu() -> Iterator[None]:
    """A GPU: the machine's, or what stands in for it."""
    if importlib.util.find_spec("mlx") is None:
        pytest.skip("MLX is not installed")
    from optuna_wnn.evaluators import gpu_kernels

    if gpu_kernels.api() is not None:
        yield
        return
    reason = metal.missing()
    if reason is not None:
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        metal.install(patch, schedules=1, any_order=metal.ANY_ORDER)
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory but for a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the run of ``commands.CONFIG`` comes to if nothing disturbs it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("text.txt").write_text(TEXT)
        Path("run.yaml").write_text(CONFIG.format(name="whole", storage="sqlite:///runs.db"))
        assert ended(start(["run", "run.yaml"])) == (0, [])
        return came_to("sqlite:///runs.db", "whole")
