"""Settings that all tests share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import metal
import optuna
import pytest
from hypothesis import settings


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
