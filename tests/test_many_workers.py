"""Several processes that run the same command are one search."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState
from runs import outcome
from runs import place
from runs import studies

from optuna_wnn import report
from optuna_wnn.storages import open_storage
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import is_stale


CONFIG = """
name: shared
backend: reference
task: {kind: text, path: text.txt, context: 1}
space: {neurons: [2, 3], bits: [2, 4]}
search: {trials: 6, population_size: 4, n_neighbors: 4}
"""
N_WORKERS = 2


@pytest.mark.parametrize("url", ["sqlite:///runs.db", "journal:///runs.journal"])
def test_workers_share_the_trials_and_none_is_lost(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the cat sat on the mat; the dog did not. " * 40)
    Path("run.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "optuna_wnn.cli", "run", "run.yaml", "--storage", url]
    workers = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(N_WORKERS)
    ]
    for worker in workers:
        _, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err
        assert err == ""

    storage = open_storage(url)
    outcome(storage, "shared")  # no place was taken twice
    for index, study in enumerate(studies(storage, "shared")):
        trials = all_trials(study)
        lasting = [t for t in trials if not is_stale(t.system_attrs)]
        assert {t.state for t in lasting} == {TrialState.COMPLETE}
        # In a journal, a worker may give a trial up before it knows of the other.
        most_given_up = 0 if url.startswith("sqlite") else N_WORKERS - 1
        assert len(trials) - len(lasting) <= most_given_up
        own = [t for t in lasting if report.SEEDED_FROM not in t.user_attrs]
        assert 6 <= len(own) < 6 + N_WORKERS
        if index:
            assert [place(t) for t in trials[:4]] == [(0, i) for i in range(4)]
    assert all(phase.ended for phase in report.summarise(storage, "shared").phases)
