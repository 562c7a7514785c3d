"""RAM-network evaluation: a genome goes in, cross-entropy and accuracy come out.

Importing this package loads neither numba nor MLX: a backend is imported when it is created.
"""

from __future__ import annotations

from optuna_wnn.evaluators.base import Evaluation
from optuna_wnn.evaluators.base import Evaluator
from optuna_wnn.evaluators.registry import create_evaluator


__all__ = ["Evaluation", "Evaluator", "create_evaluator"]
