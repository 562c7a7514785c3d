"""Sweeps: every configuration is run once, whatever dies, and the best ones are shown."""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from commands import ended
from commands import start
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from runs import DigestEvaluator
from test_resume import Killed
from test_resume import mortal

from optuna_wnn import report
from optuna_wnn import sweep as sweep_module
from optuna_wnn.cli import main
from optuna_wnn.config import RunConfig
from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators.base import EvaluationPart
from optuna_wnn.genome import Genome
from optuna_wnn.leaderboard import Entry
from optuna_wnn.leaderboard import leaderboard
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.storages import open_storage
from optuna_wnn.store.claims import Claim
from optuna_wnn.store.claims import claim_attributes
from optuna_wnn.store.claims import read_claim
from optuna_wnn.store.settings import write_setting
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import create_trial
from optuna_wnn.store.trials import is_stale
from optuna_wnn.sweep import Sweep
from optuna_wnn.sweep_file import load_sweep


BASE = """
name: many
base:
  backend: reference
  task: {kind: text, path: text.txt, context: 1}
  space: {neurons: [2, 5], bits: [2, 6]}
  search: {trials: 5, population_size: 3, n_neighbors: 3}
  phases: [{method: ga, free: neurons}, {method: ts, free: connections}]
"""
GRID = "method: grid\ngrid: {seed: [1, 2, 3], search.mutation_rate: [0.1, 0.5]}\n"
LIST = "method: list\nlist: [{seed: 1}, {space.bits: [3, 4]}, {phases.1.trials: 2, seed: 2}]\n"
RANDOM = "method: random\ntrials: 5\nspace: {seed: {low: 0, high: 99}, space.bits: [[2, 6], 3]}\n"
TPE = (
    "method: tpe\ntrials: 12\n"
    "space: {seed: {low: 0, high: 99}, search.mutation_rate: {low: 0.01, high: 1, log: true}}\n"
)


class Runs:
    """Makes searches whose evaluations cost nothing, and notes which runs were made.

    Attributes:
        names: The names of the runs, in order.
        evaluator: What evaluates.
    """

    def __init__(self, evaluator: DigestEvaluator | None = None) -> None:
        self.names: list[str] = []
        self.evaluator = evaluator or DigestEvaluator()

    def __call__(self, config: RunConfig, storage: BaseStorage) -> PhasedSearch:
        if "/" in config.name:
            self.names.append(config.name)
        task = self.evaluator.task
        return PhasedSearch(config, storage, task=task, evaluator=self.evaluator)


def swept(
    text: str, storage: BaseStorage | None = None, runs: Callable[..., Any] | None = None
) -> list[Entry]:
    """Write a sweep's file, work on it until it is done, and return its leaderboard."""
    Path("sweep.yaml").write_text(BASE + text)
    sweep = Sweep(load_sweep("sweep.yaml"), storage or InMemoryStorage(), searches=runs or Runs())
    return timeless(sweep.run().entries)


def timeless(entries: Any) -> list[Entry]:
    return [replace(entry, seconds=0.0) for entry in entries]


# -- what is run ---------------------------------------------------------------------------------


def test_a_grid_runs_every_combination_as_a_chain_of_its_own(here: Path) -> None:
    storage = InMemoryStorage()
    entries = swept(GRID, storage)
    assert sorted((e.overrides["seed"], e.overrides["search.mutation_rate"]) for e in entries) == [
        (seed, rate) for seed in (1, 2, 3) for rate in (0.1, 0.5)
    ]
    assert sorted(e.run for e in entries) == [f"many/sweep-000{i}" for i in range(6)]
    for entry in entries:
        summary = report.summarise(storage, entry.run)
        assert [phase.n_trials for phase in summary.phases] == [5, 5]
        assert summary.best_phase is not None
        assert entry.validation == summary.phases[summary.best_phase].validation
        assert entry.test == summary.phases[summary.best_phase].test
        assert entry.n_trials == 10


def test_the_best_run_stands_first(here: Path) -> None:
    losses = [e.validation[0] for e in swept(GRID) if e.validation is not None]
    assert losses == sorted(losses)
    best = [e.validation[1] for e in swept(f"objective: accuracy\n{GRID}") if e.validation]
    assert best == sorted(best, reverse=True)


def test_a_list_runs_its_entries_each_once(here: Path) -> None:
    runs = Runs()
    entries = swept(LIST.replace("]\n", ", {seed: 1}]\n"), runs=runs)
    assert runs.names == ["many/sweep-0000", "many/sweep-0001", "many/sweep-0002"]
    by_place = {e.place: e for e in entries}
    assert by_place[1].overrides == {"space.bits": [3, 4]}
    assert by_place[2].n_trials == 7


def test_random_and_tpe_draw_from_the_space_the_same_again(here: Path) -> None:
    for text, n in ((RANDOM, 5), (TPE, 12)):
        entries = swept(text)
        assert len(entries) == n
        assert all(0 <= e.overrides["seed"] <= 99 for e in entries)
        assert len({e.overrides["seed"] for e in entries}) > 3
        assert swept(text) == entries
        assert swept(f"{text}seed: 1\n") != entries
    assert {str(e.overrides["space.bits"]) for e in swept(RANDOM)} == {"[2, 6]", "3"}


def test_what_was_drawn_before_is_not_run_again(here: Path) -> None:
    runs = Runs()
    entries = swept("method: random\ntrials: 6\nspace: {seed: [1, 2]}\n", runs=runs)
    assert len(entries) == 6
    assert len(runs.names) == 2
    for seed in (1, 2):
        alike = [e for e in entries if e.overrides == {"seed": seed}]
        assert len({(e.run, e.validation, e.test) for e in alike}) == 1


def test_optuna_sees_parameters_and_values(here: Path) -> None:
    storage = InMemoryStorage()
    swept(GRID, storage)
    study = study_in(storage)
    assert study.trials[0].params == {"seed": 1, "search.mutation_rate": 0.1}
    assert study.best_value == leaderboard(storage, "many").entries[0].validation[0]  # type: ignore[index]
    assert study.trials[0].user_attrs["overrides"] == "seed=1 search.mutation_rate=0.1"


# -- what fails ----------------------------------------------------------------------------------


class Fragile(DigestEvaluator):
    """Cannot evaluate anything in its third run."""

    def __init__(self, runs: Runs | None = None) -> None:
        super().__init__()
        self.names: list[str] = []

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        if self.names[-1:] == ["many/sweep-0002"]:
            raise ZeroDivisionError("no\nluck")
        return super().evaluate(genome, part)


def test_a_run_that_fails_is_recorded_with_the_reason_and_not_tried_again(here: Path) -> None:
    storage, fragile = InMemoryStorage(), Fragile()
    runs = Runs(fragile)
    fragile.names = runs.names
    entries = swept(GRID, storage, runs)
    assert [e.state for e in entries] == 5 * [TrialState.COMPLETE] + [TrialState.FAIL]
    assert entries[-1].place == 2
    assert entries[-1].reason == "ZeroDivisionError: no luck"
    again = Runs()
    assert swept(GRID, storage, again) == entries
    assert again.names == []


def test_values_that_do_not_go_together_fail_their_run_alone(here: Path) -> None:
    grid = "{memory.mode: [frequency, ternary], memory.vote: [mean, log_odds]}"
    entries = swept(f"method: grid\ngrid: {grid}\n")
    assert [e.state == TrialState.COMPLETE for e in entries] == [True, True, True, False]
    assert entries[-1].overrides == {"memory.mode": "ternary", "memory.vote": "log_odds"}
    assert "log_odds needs mode: frequency" in entries[-1].reason


# -- going on ------------------------------------------------------------------------------------


def test_finished_runs_stay_and_new_ones_are_appended(here: Path) -> None:
    storage, runs = InMemoryStorage(), Runs()
    first = swept("method: grid\ngrid: {seed: [1, 3], backend: [reference]}\n", storage)
    grown = "method: grid\ngrid: {seed: [1, 2, 3], backend: [auto, reference]}\n"
    second = swept(grown, storage, runs)
    assert runs.names == [f"many/sweep-000{i}" for i in (2, 3, 4, 5)]
    assert len(second) == 6
    assert all(entry in second for entry in first)
    assert swept(grown, storage) == second


def test_more_trials_go_on_drawing(here: Path) -> None:
    storage = InMemoryStorage()
    first = swept(RANDOM, storage)
    more = RANDOM.replace("trials: 5", "trials: 8")
    assert swept(more, storage) == swept(more)
    assert all(entry in swept(more) for entry in first)


@pytest.mark.parametrize(
    ("text", "difference"),
    [
        (BASE.replace("trials: 5", "trials: 6") + GRID, "base.phases.0.trials was 5, is 6"),
        (BASE + "objective: accuracy\n" + GRID, 'objective was "cross-entropy", is "accuracy"'),
        (BASE + LIST, 'method was "grid", is "list"'),
    ],
)
def test_another_sweep_of_the_same_name_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, difference: str
) -> None:
    Path("sweep.yaml").write_text(BASE + "method: grid\ngrid: {seed: [1]}\n")
    assert main(["sweep", "sweep.yaml"]) == 0
    capsys.readouterr()
    Path("sweep.yaml").write_text(text)
    assert main(["sweep", "sweep.yaml"]) == 2
    told = capsys.readouterr().err
    assert difference in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("text", [GRID, RANDOM, TPE], ids=["grid", "random", "tpe"])
def test_a_sweep_may_die_again_and_again(here: Path, text: str) -> None:
    expected = swept(text)
    rng = random.Random(3)
    n_deaths = 0
    while True:
        storage = mortal(open_storage("journal:///sweep.log"), rng.randrange(40, 160))
        try:
            found = swept(text, storage)
        except Killed:
            n_deaths += 1
        else:
            break
    assert n_deaths > 3
    assert found == expected
    states = [t.state for t in all_trials(study_in(storage))]
    assert TrialState.RUNNING not in states


def study_in(storage: BaseStorage, name: str = "many") -> optuna.Study:
    return optuna.load_study(study_name=f"{name}/sweep", storage=storage)


def test_an_interrupted_run_goes_on_where_it_was(here: Path) -> None:
    class Interrupted(DigestEvaluator):
        def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
            if len(self.seen) == 23:
                raise KeyboardInterrupt
            return super().evaluate(genome, part)

    storage, runs = InMemoryStorage(), Runs()
    with pytest.raises(KeyboardInterrupt):
        swept(GRID, storage, Runs(Interrupted()))
    assert swept(GRID, storage, runs) == swept(GRID)
    assert runs.names[0] == "many/sweep-0002"
    assert len(runs.evaluator.seen) == 60 - 23


# -- several workers -----------------------------------------------------------------------------


def claimed(study: optuna.Study, place: int, overrides: dict[str, Any], worker: str) -> int:
    """Have a worker take a place."""
    claim = claim_attributes(Claim(place, overrides, worker))
    template = optuna.trial.create_trial(state=TrialState.RUNNING, system_attrs=claim)
    return create_trial(study, template)


def test_of_two_workers_that_take_the_same_the_first_has_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("sweep.yaml").write_text(BASE + "method: grid\ngrid: {seed: [1, 2]}\n")
    runs = Runs()
    sweep = Sweep(load_sweep("sweep.yaml"), InMemoryStorage(), searches=runs)
    rivals: list[int] = []

    def slow(study: optuna.Study, template: Any) -> int:
        if not rivals:
            rivals.append(-1)
            rivals[0] = claimed(study, 0, {"seed": 1}, "elsewhere:1:1")
        return create_trial(study, template)

    monkeypatch.setattr(sweep_module, "create_trial", slow)
    monkeypatch.setattr(sweep_module, "_SILENCE", 1.0)
    monkeypatch.setattr(sweep_module, "_POLL", 0.05)
    started = time.monotonic()
    entries = sweep.run().entries
    assert runs.names == ["many/sweep-0001", "many/sweep-0000"]  # the rival's when it was silent
    assert time.monotonic() - started > 1.0
    assert {e.state for e in entries} == {TrialState.COMPLETE}
    trials = all_trials(sweep.study)
    lost = [t.number for t in trials if is_stale(t.system_attrs)]
    assert lost == [0, 1]


def test_a_worker_that_beats_is_waited_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sweep.yaml").write_text(BASE + "method: grid\ngrid: {seed: [1]}\n")
    runs = Runs()
    sweep = Sweep(load_sweep("sweep.yaml"), InMemoryStorage(), searches=runs)
    rival = claimed(sweep.study, 0, {"seed": 1}, "elsewhere:1:1")
    beats: list[float] = []

    def sleep(seconds: float) -> None:
        beats.append(seconds)
        write_setting(sweep.study, "beat:elsewhere:1:1", len(beats))
        if len(beats) == 9:
            sweep.study.tell(rival, 1.0)

    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    sweep.run()
    assert runs.names == []
    assert len(beats) == 9


# -- real processes ------------------------------------------------------------------------------


def until_begun(url: str, name: str, n: int) -> None:
    """Wait until a sweep's run number ``n`` has begun."""
    while f"{name}/sweep-{n:04d}/1-ga-neurons" not in optuna.get_all_study_names(
        storage=open_storage(url)
    ):
        time.sleep(0.1)


def board(url: str, name: str) -> list[Any]:
    """Return what matters of a leaderboard: all but names and times."""
    entries = leaderboard(open_storage(url), name).entries
    return [(e.place, e.overrides, e.state, e.validation, e.test, e.n_trials) for e in entries]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="it needs SIGKILL")
@pytest.mark.parametrize("url", ["sqlite:///runs.db", "journal:///runs.journal"])
def test_a_sweep_that_is_killed_and_resumed_ends_as_one_that_was_not(url: str, here: Path) -> None:
    Path("sweep.yaml").write_text(BASE + GRID)
    command = ["sweep", "sweep.yaml", "--storage", url, "--name"]
    assert main([*command, "whole"]) == 0
    rng = random.Random(5)
    for n in (1, 2, 4, 5):
        process = start([*command, "killed"])
        until_begun(url, "killed", n)
        time.sleep(rng.random())  # into its trials
        process.kill()
        process.join()
    process = start([*command, "killed"])
    assert ended(process) == (0, [])
    assert board(url, "killed") == board(url, "whole")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="it needs SIGKILL")
def test_two_jobs_share_a_sweep_and_end_with_whom_started_them(here: Path) -> None:
    url = "sqlite:///runs.db"
    Path("sweep.yaml").write_text(BASE + GRID)
    command = ["sweep", "sweep.yaml", "--storage", url]
    assert main([*command, "--name", "one"]) == 0
    process = start([*command, "--jobs", "2"])
    until_begun(url, "many", 1)
    process.kill()
    process.join()
    process = start([*command, "--jobs", "2"])
    assert ended(process) == (0, [])
    assert board(url, "many") == board(url, "one")
    trials = all_trials(study_in(open_storage(url)))
    workers = {claim.worker for t in trials if (claim := read_claim(t.system_attrs))}
    assert len(workers) >= 2
    assert TrialState.RUNNING not in {t.state for t in trials}
    for entry in leaderboard(open_storage(url), "many").entries:
        assert entry.n_trials == 10


# -- the command ---------------------------------------------------------------------------------


def test_the_command_shows_every_run_and_the_leaderboard(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("base.yaml").write_text("\n".join(line[2:] for line in BASE.splitlines()[3:]))
    Path("base.yaml").write_text("name: base\n" + Path("base.yaml").read_text())
    text = "name: many\nbase: base.yaml\n" + LIST
    Path("sweep.yaml").write_text(text)
    assert main(["sweep", "sweep.yaml", "--set", "search.trials=2"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].startswith("[1/3] many/sweep-0000  seed=1  CE ")
    assert lines[2].startswith("[3/3] many/sweep-0002  phases.1.trials=2 seed=2  CE ")
    table = out[out.index("Sweep many") :]
    assert "3 of 3 runs are finished. See the best one: optuna-wnn report many/sweep-000" in table
    assert main(["report", "many"]) == 0
    assert capsys.readouterr().out == table
    assert main(["report", "many/sweep-0001", "--settings"]) == 0
    assert "sweep many" in capsys.readouterr().out
    assert main(["export", "many", "best.json.gz"]) == 0


def test_what_the_how_to_and_the_example_show_is_taken(here: Path) -> None:
    root = Path(__file__).parent.parent
    (shown,) = re.findall(
        r"```yaml\n(.*?)```", (root / "docs" / "how-to" / "sweeps.md").read_text(), re.DOTALL
    )
    for part in shown.split("---\n"):
        Path("sweep.yaml").write_text("name: x\nbase: {task: {kind: python-docs}}\n" + part)
        assert load_sweep("sweep.yaml").n_runs() in (6, 2, 50)
    assert load_sweep(root / "examples" / "sweep.yaml").n_runs() == 6


def test_the_report_of_a_sweep_is_a_page_with_a_figure(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly")
    Path("sweep.yaml").write_text(BASE + LIST)
    assert main(["sweep", "sweep.yaml", "--storage", "sqlite:///runs.db"]) == 0
    words = ["report", "many", "--storage", "sqlite:///runs.db"]
    assert main([*words, "--html", "many.html"]) == 0
    page = Path("many.html").read_text()
    assert "<h1>Sweep many</h1>" in page
    assert page.count("<td>sweep-000") == 3
    assert main([*words, "--html", "gone/many.html"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_figure_of_a_sweep_has_a_panel_for_each_varied_key(here: Path) -> None:
    pytest.importorskip("plotly")
    from optuna_wnn.figures import effects

    storage = InMemoryStorage()
    swept(GRID, storage)
    figure = effects(leaderboard(storage, "many"))
    titles = [figure.layout[f"xaxis{i}"].title.text for i in ("", "2")]
    assert titles == ["seed", "search.mutation_rate"]
    runs, best = figure.data[:2]
    assert len(runs.x) == 6
    for seed, value in zip(best.x, best.y, strict=True):
        assert value == min(y for x, y in zip(runs.x, runs.y, strict=True) if x == seed)
    assert len(effects(leaderboard(storage, "many")).to_json()) < 20_000


def test_the_figure_of_a_list_says_where_the_base_was_left_as_it_is(here: Path) -> None:
    pytest.importorskip("plotly")
    from optuna_wnn.figures import effects

    storage = InMemoryStorage()
    swept(LIST, storage)
    figure = effects(leaderboard(storage, "many"))
    assert {"as the base", "[3, 4]"} <= {x for trace in figure.data for x in trace.x}
