"""Plotly figures of a run: its progress, its trade-off, its best genomes; and of a sweep.

Needs plotly (the extras ``dashboard`` and ``plot`` have it), so it is imported only where figures
are drawn. Figures stay below 300 kB, as optuna-dashboard sends all figures of a study again with
every refresh: many trials are thinned out, many clusters and inputs are summed up.
"""

from __future__ import annotations

import plotly.graph_objects as go

from optuna_wnn.figures.genomes import clusters
from optuna_wnn.figures.genomes import inputs
from optuna_wnn.figures.importance import matters
from optuna_wnn.figures.sweeps import effects
from optuna_wnn.figures.trials import progress
from optuna_wnn.figures.trials import size
from optuna_wnn.figures.trials import trade_off
from optuna_wnn.traces import RunTrace


__all__ = [
    "clusters",
    "effects",
    "inputs",
    "matters",
    "of_phase",
    "of_run",
    "progress",
    "size",
    "trade_off",
]


def of_run(run: RunTrace) -> dict[str, go.Figure]:
    """Return the figures that show a whole run, by name."""
    return {"progress": progress(run), "trade-off": trade_off(run), "size": size(run)}


def of_phase(run: RunTrace, index: int) -> dict[str, go.Figure]:
    """Return the figures that show the best genome of a phase, by name; none before there is one.

    Args:
        run: The run.
        index: Which of its phases, from 0.
    """
    phase = run.phases[index]
    if phase.genome is None:
        return {}
    study = phase.summary.study
    return {
        "clusters": clusters(phase.genome, study),
        "inputs": inputs(phase.genome, run.n_inputs, run.input_groups, study),
    }
