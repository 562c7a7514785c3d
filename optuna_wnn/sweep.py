"""Many configurations as trials of one outer study: each runs or resumes its own phases.

Several workers may share a sweep, on one machine or on many. A worker takes a configuration by
adding a running trial that names it. Every storage numbers trials in the order in which they are
added, so of two workers that take the same one at the same time, both see who was first.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from contextlib import suppress
from typing import Any
from typing import Final

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_wnn import axes
from optuna_wnn import leaderboard
from optuna_wnn.axes import Parameters
from optuna_wnn.chain import differences
from optuna_wnn.config import RunConfig
from optuna_wnn.errors import InputError
from optuna_wnn.errors import StorageError
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.leaderboard import Entry
from optuna_wnn.leaderboard import Leaderboard
from optuna_wnn.outages import Outage
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.phases import Progress
from optuna_wnn.report import RunSummary
from optuna_wnn.storages import masked
from optuna_wnn.storages import open_storage
from optuna_wnn.store.claims import Claim
from optuna_wnn.store.claims import claim_attributes
from optuna_wnn.store.claims import read_claim
from optuna_wnn.store.settings import read_setting
from optuna_wnn.store.settings import write_setting
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import create_trial
from optuna_wnn.store.trials import mark_stale
from optuna_wnn.store.trials import trial_by_number
from optuna_wnn.store.trials import write_user_attributes
from optuna_wnn.store.version import check_schema
from optuna_wnn.store.version import write_schema
from optuna_wnn.sweep_config import Definition
from optuna_wnn.sweep_config import Overrides
from optuna_wnn.sweep_config import key_of
from optuna_wnn.sweep_config import shown
from optuna_wnn.tasks import Task
from optuna_wnn.workers import is_gone
from optuna_wnn.workers import this_worker


_IDENTITY: Final = "sweep"
_BEAT: Final = "beat:"
_BEAT_SECONDS: Final = 20.0
_SILENCE: Final = 120.0  # seconds without a beat after which a worker of another host is gone
_POLL: Final = 0.5  # seconds between two looks at what others do
_MOST_REASON: Final = 500  # characters

Searches = Callable[[RunConfig, BaseStorage], PhasedSearch]


class Sweep:
    """Works on a sweep until all its runs are finished or failed.

    Everything that a sweep is lives in the storage: start it again, in this process or in
    another, and finished runs stay, an unfinished one is resumed, and runs that were added to
    the file come after them.

    Args:
        definition: What to run.
        storage: Where the studies live; ``None`` opens the one that the definition names.
        searches: Makes the search of a configuration; ``None`` loads what it names, and keeps
            the data and the evaluator for as long as the next ones need the same.

    Raises:
        InputError: If the base does not fit its task, the storage cannot be opened, or it has
            another sweep of this name.
    """

    def __init__(
        self,
        definition: Definition,
        storage: BaseStorage | None = None,
        *,
        searches: Searches | None = None,
    ) -> None:
        self.definition = definition
        self.name = definition.config.name
        self._searches = searches or _Equipment().search
        # First, so that a mistake in the base leaves no database behind.
        base = definition.run_config({}, self.name)
        self._searches(base, open_storage("memory:"))
        self.storage = storage if storage is not None else open_storage(definition.storage)
        self.study = self._open()
        self._beats: dict[str, tuple[Any, float]] = {}

    def _open(self) -> optuna.Study:
        """Return the sweep's study, made if need be; making it twice does no harm."""
        config = self.definition.config
        study = optuna.create_study(
            study_name=leaderboard.study_name(self.name),
            storage=self.storage,
            direction=config.direction,
            sampler=RandomSampler(),
            load_if_exists=True,
        )
        check_schema(study)
        wanted = json.loads(json.dumps(self.definition.identity()))
        started = read_setting(study, _IDENTITY)
        changes = [] if started is None else list(differences(json.loads(started), wanted))
        if changes:
            more = f" (and {len(changes) - 3} more)" if len(changes) > 3 else ""
            raise InputError(
                f"sweep {self.name}: it was started with other settings: "
                f"{'; '.join(changes[:3])}{more}; choose another --name or undo the change"
            )
        write_schema(study)
        write_setting(study, _IDENTITY, json.dumps(wanted))
        write_setting(study, leaderboard.OBJECTIVE, config.objective)
        write_setting(study, leaderboard.PLANNED, self.definition.n_runs())
        return study

    def run(
        self,
        watch: Callable[[Entry, int, int], None] | None = None,
        watch_run: Callable[[Progress], None] | None = None,
    ) -> Leaderboard:
        """Work until nothing is left to do, here or elsewhere, and return what it came to.

        Args:
            watch: Called after every run with what it came to, how many are done, and how many
                there are.
            watch_run: Called whenever something happened in a run.

        Raises:
            KeyboardInterrupt: When the user interrupts; the sweep can be resumed.
            StorageError: If the storage fails for long; the sweep can be resumed.
        """
        outage = Outage()
        return outage.keep_trying(lambda: self._run(outage, watch, watch_run))

    def _run(
        self,
        outage: Outage,
        watch: Callable[[Entry, int, int], None] | None,
        watch_run: Callable[[Progress], None] | None,
    ) -> Leaderboard:
        with _beating(self.study):
            while True:
                self._close_left_behind()
                trials = leaderboard.lasting(self.study)
                found = self._next(trials)
                if found is not None:
                    done = self._work(*found, trials, watch_run)
                    outage.over()
                    if done is not None and watch is not None:
                        watch(*done)
                elif any(trial.state == TrialState.RUNNING for trial in trials):
                    time.sleep(_POLL)  # it may yet turn out that their workers are gone
                else:
                    return leaderboard.leaderboard(self.storage, self.name)

    # -- what is next --

    def _next(self, trials: Sequence[FrozenTrial]) -> tuple[int, Overrides, Parameters] | None:
        """Return place, overrides and parameters of the next run, or nothing if there is none."""
        config = self.definition.config
        if config.space is None:
            return self._next_listed(trials)
        taken = {claim.place for claim in map(_claim, trials)}
        place = next(i for i in range(len(taken) + 1) if i not in taken)
        if place >= self.definition.n_runs():
            return None
        overrides, parameters = axes.drawn(config, place, trials)
        return place, overrides, parameters

    def _next_listed(
        self, trials: Sequence[FrozenTrial]
    ) -> tuple[int, Overrides, Parameters] | None:
        wanted = self.definition.configurations()
        lasting = {key_of(dict(claim.overrides)) for claim in map(_claim, trials)}
        overrides = next((o for o in wanted if key_of(o) not in lasting), None)
        if overrides is None:
            return None
        place = self._places(wanted)[key_of(overrides)]
        parameters = axes.listed(overrides, wanted, all_trials(self.study))
        return place, overrides, parameters

    def _places(self, wanted: Sequence[Overrides]) -> dict[str, int]:
        """Return the place of every configuration: once it had one, it keeps it."""
        places: dict[str, int] = {}
        for trial in all_trials(self.study):
            claim = read_claim(trial.system_attrs)
            if claim is not None:
                places.setdefault(key_of(dict(claim.overrides)), claim.place)
        taken = set(places.values())
        free = iter(i for i in range(len(taken) + len(wanted)) if i not in taken)
        for overrides in wanted:
            if key_of(overrides) not in places:
                places[key_of(overrides)] = next(free)
        return places

    # -- one run --

    def _work(
        self,
        place: int,
        overrides: Overrides,
        given: Parameters,
        trials: Sequence[FrozenTrial],
        watch_run: Callable[[Progress], None] | None,
    ) -> tuple[Entry, int, int] | None:
        """Take a place and run what belongs there; return nothing if another worker has it."""
        parameters, distributions = given
        run = leaderboard.run_name(self.name, place)
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=parameters,
            distributions=distributions,
            user_attrs={leaderboard.RUN: run, leaderboard.OVERRIDES: shown(overrides)},
            system_attrs=claim_attributes(Claim(place, overrides, this_worker())),
        )
        number = create_trial(self.study, template)
        if not self._is_first(number, place, overrides):
            self._give_up(number)
            return None
        try:
            attributes, value = self._result(run, overrides, trials, watch_run)
        except KeyboardInterrupt:
            self._give_up(number)
            raise
        if not self._is_lasting(number):
            return None  # others thought that this worker was gone, and do it again
        write_user_attributes(self.study, number, attributes)
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self.study.tell(number, value, state, skip_if_finished=True)
        trials = leaderboard.lasting(self.study)
        (own,) = (trial for trial in trials if _claim(trial).place == place)
        n_done = sum(trial.state.is_finished() for trial in trials)
        return leaderboard.entry(own), n_done, self.definition.n_runs()

    def _is_first(self, number: int, place: int, overrides: Overrides) -> bool:
        """Return whether no other worker took a place, or its configuration, before."""
        listed = self.definition.config.space is None
        for trial in leaderboard.lasting(self.study):
            claim = _claim(trial)
            same = listed and key_of(dict(claim.overrides)) == key_of(overrides)
            if trial.number < number and (claim.place == place or same):
                return False
        return True

    def _is_lasting(self, number: int) -> bool:
        return any(trial.number == number for trial in leaderboard.lasting(self.study))

    def _give_up(self, number: int) -> None:
        """Close a trial of this worker, so that its place is free."""
        trial = trial_by_number(self.study, number)
        if trial is not None and trial.state == TrialState.RUNNING:
            _close(self.study, trial)

    def _result(
        self,
        run: str,
        overrides: Overrides,
        trials: Sequence[FrozenTrial],
        watch_run: Callable[[Progress], None] | None,
    ) -> tuple[dict[str, Any], float | None]:
        """Return the user attributes of a run that ended, and its value unless it failed."""
        for trial in trials:  # random and tpe may come to the same values again
            if trial.state.is_finished() and _claim(trial).overrides == overrides:
                return dict(trial.user_attrs), trial.values[0] if trial.values else None
        try:
            summary = self._searched(run, overrides, watch_run)
        except StorageError:
            raise  # of no run, but of the whole sweep
        except Exception as error:
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            reason = " ".join(masked(f"{kind}{error}").split())
            return {leaderboard.REASON: reason[:_MOST_REASON]}, None
        attributes = leaderboard.results(summary)
        return attributes, attributes[self.definition.config.objective]

    def _searched(
        self,
        run: str,
        overrides: Overrides,
        watch_run: Callable[[Progress], None] | None,
    ) -> RunSummary:
        search = self._searches(self.definition.run_config(overrides, run), self.storage)
        if watch_run is not None:
            search.watch(watch_run)
        return search.run()

    # -- other workers --

    def _close_left_behind(self) -> None:
        """Close the trials of workers that are gone, so that their places are taken again."""
        for trial in all_trials(self.study):
            claim = read_claim(trial.system_attrs)
            if trial.state != TrialState.RUNNING or claim is None:
                continue
            worker = claim.worker
            if worker == this_worker() or is_gone(worker) or self._is_silent(worker):
                _close(self.study, trial)

    def _is_silent(self, worker: str) -> bool:
        """Return whether a worker has not beaten for long, by the clock of this machine."""
        beat, now = read_setting(self.study, _BEAT + worker), time.monotonic()
        seen, since = self._beats.get(worker, (None, now))
        if worker not in self._beats or beat != seen:
            seen, since = beat, now
        self._beats[worker] = seen, since
        return now - since > _SILENCE


class _Equipment:
    """Makes searches, and keeps the data and the evaluator of the last one."""

    def __init__(self) -> None:
        self._task: tuple[str, Task] | None = None
        self._evaluator: tuple[Any, Evaluator] | None = None

    def search(self, config: RunConfig, storage: BaseStorage) -> PhasedSearch:
        """Return the search of a configuration."""
        named = json.dumps([config.task.kind, config.task.options], sort_keys=True)
        wanted = (named, config.memory, config.backend, config.threads, config.device_bytes)
        task = self._task[1] if self._task and self._task[0] == named else None
        kept = self._evaluator if self._evaluator and self._evaluator[0] == wanted else None
        search = PhasedSearch(
            config, storage, task=task, evaluator=None if kept is None else kept[1]
        )
        self._task, self._evaluator = (named, search.task), (wanted, search.evaluator)
        return search


def _claim(trial: FrozenTrial) -> Claim:
    claim = read_claim(trial.system_attrs)
    assert claim is not None
    return claim


def _close(study: optuna.Study, trial: FrozenTrial) -> None:
    with suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):
        mark_stale(study, trial)  # unless another worker was faster


@contextmanager
def _beating(study: optuna.Study) -> Iterator[None]:
    """Have a thread tell other machines that this worker is there."""
    ended = threading.Event()

    def beat() -> None:
        count = 0
        while True:
            with suppress(Exception):  # where the storage is away, the work itself will say so
                write_setting(study, _BEAT + this_worker(), count)
            count += 1
            if ended.wait(_BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
