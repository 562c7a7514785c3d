"""What a run adds to optuna-dashboard: written once, kept up to date, and no more than that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from runs import DigestEvaluator
from runs import Outcome
from runs import genome_of
from runs import outcome
from runs import small_config
from runs import small_search
from runs import studies

from optuna_wnn import cli
from optuna_wnn import dashboard
from optuna_wnn import notes
from optuna_wnn import open_storage
from optuna_wnn import report
from optuna_wnn.config import parse_config


pytest.importorskip("optuna_dashboard")
pytest.importorskip("plotly")

from optuna_dashboard import get_note
from optuna_dashboard import save_note


FIGURES = [
    f"optuna-wnn-{name}" for name in ("clusters", "inputs", "progress", "size", "trade-off")
]


def written(storage: BaseStorage) -> dict[str, dict[str, Any]]:
    """Return what optuna-dashboard keeps of each study of a run, by the study's name."""
    return {
        s.study_name: {
            key: value
            for key, value in storage.get_study_system_attrs(
                storage.get_study_id_from_name(s.study_name)
            ).items()
            if key.startswith("dashboard:")
        }
        for s in studies(storage)
    }


def figures_of(attributes: dict[str, Any]) -> dict[str, str]:
    """Return the JSON text of each figure among a study's attributes, by name."""
    pieces = sorted(
        (name, int(i), value)
        for key, value in attributes.items()
        if key.startswith("dashboard:plot_data:")
        for _, _, name, i in [key.split(":")]
    )
    return {
        name: "".join(value for owner, _, value in pieces if owner == name)
        for name in dict.fromkeys(name for name, _, _ in pieces)
    }


@pytest.fixture(scope="module")
def finished() -> InMemoryStorage:
    """A finished run of six phases, shown in the dashboard."""
    storage = InMemoryStorage()
    small_search(storage).run()
    dashboard.refresh(storage, "small")
    return storage


# -- what is written -----------------------------------------------------------------------------


def test_every_study_has_a_note_and_four_figures(finished: InMemoryStorage) -> None:
    studies_of = written(finished)
    assert len(studies_of) == 6
    for attributes in studies_of.values():
        found = figures_of(attributes)
        assert list(found) == FIGURES
        assert all("data" in json.loads(text) for text in found.values())
        assert attributes["dashboard:note_ver"] == 1


def test_a_note_tells_the_seed_the_best_genome_the_run_and_how_to_resume(
    finished: InMemoryStorage,
) -> None:
    summary = report.summarise(finished, "small")
    before, phase = summary.phases[2], summary.phases[3]
    study = studies(finished)[3]
    note = get_note(study)
    assert phase.best_trial is not None
    genome = genome_of(study, phase.best_trial)
    for words in (
        "Phase 4 of run small",
        "Tabu search over bits",
        f"trial 0, which is `{before.study} #{before.best_trial}`",
        f"CE {study.trials[0].values[0]:.4f}, accuracy {study.trials[0].values[1]:.4f}",
        f"**{phase.best_trial}**",
        f"{genome.n_neurons} neurons",
        genome.digest,
        "| first random genome |",
        "optuna-wnn run CONFIG.yaml",
        "optuna-wnn report small",
    ):
        assert words in note
    for other in summary.phases:
        assert other.study in note
    assert "starts from | random genomes" in get_note(studies(finished)[0])


def test_the_settings_in_a_note_are_the_run_s_configuration(finished: InMemoryStorage) -> None:
    note = get_note(studies(finished)[0])
    text = note.partition("```yaml\n")[2].partition("```")[0]
    document = yaml.safe_load(text)
    document["task"]["path"] = "unread"
    assert parse_config(document).identity() == small_config().identity()
    assert document["name"] == "small"


@pytest.mark.parametrize(
    "changes",
    [
        {"phases": [{"method": "ts", "free": ["neurons", "bits"], "trials": 3}]},
        {"threshold": {"end": 0.5}, "scaling": {}, "fitness": {"calculator": "PARETO"}},
        {
            "phases": [
                {"method": "ga", "free": "neurons", "patience": 2},
                {"method": "ga", "free": "bits", "refine_steps": 3},
            ]
        },
    ],
)
def test_settings_mean_what_the_configuration_meant(changes: dict[str, Any]) -> None:
    config = small_config(**changes)
    document = yaml.safe_load(notes.settings("small", config.identity()))
    document["task"]["path"] = "unread"
    assert parse_config(document).identity() == config.identity()


# -- how it is written ---------------------------------------------------------------------------


def test_what_is_up_to_date_is_not_written_again(finished: InMemoryStorage) -> None:
    before = written(finished)
    dashboard.refresh(finished, "small")
    assert written(finished) == before


def test_trials_and_user_attributes_stay_as_they_are() -> None:
    storage = InMemoryStorage()
    small_search(storage).run()
    before: list[Outcome | dict[str, Any]] = [outcome(storage)]
    before += [s.user_attrs for s in studies(storage)]
    dashboard.refresh(storage, "small")
    assert [outcome(storage), *(s.user_attrs for s in studies(storage))] == before


def test_one_phase_alone_can_be_brought_up_to_date() -> None:
    storage = InMemoryStorage()
    small_search(storage).run()
    dashboard.refresh(storage, "small", only=4)
    assert [bool(attributes) for attributes in written(storage).values()] == [
        *(False, False, False, False, True, False)
    ]


def test_what_the_user_wrote_below_the_line_stays() -> None:
    storage = InMemoryStorage()
    phases = [{"method": "ga", "free": "neurons"}, {"method": "ts", "free": "bits"}]
    small_search(storage, phases=phases).run()
    first, second = studies(storage)
    save_note(first, "my own words")
    dashboard.refresh(storage, "small")
    assert get_note(first).endswith(f"{dashboard.LAST_LINE}\n\nmy own words")
    save_note(second, get_note(second).replace("Phase 2", "Face 2") + "\n\nand more")
    for _ in range(2):
        dashboard.refresh(storage, "small")
        assert get_note(first).endswith(f"{dashboard.LAST_LINE}\n\nmy own words")
        assert get_note(second).endswith(f"{dashboard.LAST_LINE}\n\nand more")
        assert "Face 2" not in get_note(second)


class Stopping(DigestEvaluator):
    """Interrupts the run in the middle of its third phase."""

    def evaluate(self, genome: Any, part: Any = "fitness") -> Any:
        if len(self.seen) == 22:
            raise KeyboardInterrupt
        return super().evaluate(genome, part)


def test_a_run_that_goes_on_ends_with_the_same_notes_and_figures(
    finished: InMemoryStorage,
) -> None:
    storage = InMemoryStorage()
    with pytest.raises(KeyboardInterrupt):
        small_search(storage, Stopping()).run()
    dashboard.refresh(storage, "small")
    assert "not yet" in get_note(studies(storage)[2])
    small_search(storage).run()
    dashboard.refresh(storage, "small")
    for mine, other in zip(written(storage).values(), written(finished).values(), strict=True):
        assert figures_of(mine) == figures_of(other)


def test_a_run_without_a_trial_has_a_note_and_no_genome() -> None:
    storage = InMemoryStorage()
    stop = Stopping()
    stop.seen = 22 * [""]
    with pytest.raises(KeyboardInterrupt):
        small_search(storage, stop).run()
    dashboard.refresh(storage, "small")
    (attributes,) = written(storage).values()
    assert list(figures_of(attributes)) == [
        "optuna-wnn-progress",
        "optuna-wnn-size",
        "optuna-wnn-trade-off",
    ]
    assert "| best genome |" not in get_note(studies(storage)[0])


# -- the command ---------------------------------------------------------------------------------


CONFIG = """
name: small
backend: reference
storage: sqlite:///small.db
task: {kind: text, path: text.txt, context: 1}
space: {neurons: [2, 3], bits: [2, 4]}
search: {trials: 3, population_size: 2, n_neighbors: 2}
phases: [{method: ga, free: neurons}, {method: ts, free: bits}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text.txt").write_text("the cat sat on the mat; the dog did not. " * 40)
    (tmp_path / "run.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_shows_itself_in_the_dashboard(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "run.yaml"]) == 0
    assert "optuna-wnn[dashboard]" not in capsys.readouterr().out
    first = written(open_storage("sqlite:///small.db"))
    assert [list(figures_of(attributes)) for attributes in first.values()] == [FIGURES, FIGURES]
    assert cli.main(["run", "run.yaml"]) == 0
    assert written(open_storage("sqlite:///small.db")) == first


def test_a_run_without_the_extra_goes_without_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "is_available", lambda: False)
    assert cli.main(["run", "run.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("pip install 'optuna-wnn[dashboard]'" in line for line in lines) == 1
    assert not any(written(open_storage("sqlite:///small.db")).values())


def test_what_cannot_be_imported_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna_dashboard", None)
    assert not dashboard.is_available.__wrapped__()


def test_studies_of_other_runs_are_left_alone(finished: InMemoryStorage) -> None:
    other = optuna.create_study(study_name="other/1-ga-bits", storage=finished)
    dashboard.refresh(finished, "small")
    assert get_note(other) == ""
