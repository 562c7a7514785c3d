"""Settings that all tests share."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import settings


# Optuna's public suites show what an assertion compared, as tests here do.
pytest.register_assert_rewrite("optuna.testing.pytest_samplers")

# A busy machine is slow now and then; that is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

optuna.logging.set_verbosity(optuna.logging.WARNING)
