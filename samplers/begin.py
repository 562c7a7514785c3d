"""Trials begun for who runs a study alone or with others: no two get the same place."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from optuna_wnn.crew import Crew
from optuna_wnn.crew import Place
from optuna_wnn.genome import Genome
from optuna_wnn.samplers.base import GenomeSampler
from optuna_wnn.samplers.history import OUTSIDE
from optuna_wnn.samplers.known import KnownStudy
from optuna_wnn.store.gate import Gate
from optuna_wnn.store.genomes import GENOME_PARAMETER
from optuna_wnn.store.places import Child
from optuna_wnn.store.running import begin_waiting
from optuna_wnn.store.trials import fixed_parameters
from optuna_wnn.store.trials import mark_stale
from optuna_wnn.store.trials import trial_by_number
from optuna_wnn.workers import this_worker


Describe = Callable[[Child, Genome], Mapping[str, Any]]


def begin(
    sampler: GenomeSampler,
    study: optuna.Study,
    crew: Crew,
    gate: Gate,
    describe: Describe,
    may_begin: Callable[[], bool],
) -> tuple[FrozenTrial, Genome] | None:
    """Begin a trial by one transaction, where ``study.ask`` takes one for each fact of it.

    A trial that a user enqueued is next. Else a free place is taken by beginning a trial there:
    of two workers that want the same place or drew the same genome, the second to begin gives
    way and looks again. Alone, a worker reads nothing: beginning its trial tells it whether
    another has come.

    Args:
        sampler: The study's sampler.
        study: A study whose space is stored.
        crew: This worker, which has joined the study.
        gate: Lets one worker in at a time, where the storage does not.
        describe: Returns the user attributes of a trial.
        may_begin: Whether there is to be another trial; asked when the history is up to date.

    Returns:
        The trial and its genome, to be told by :func:`optuna_wnn.store.finish_trial`; or
        ``None`` if there is to be none.
    """
    with sampler.knowing(study) as known:
        begun, gave_way = None, False
        while begun is None:
            is_alone = not (crew.others() or known.history.n_running())
            with contextlib.nullcontext() if is_alone and not gave_way else gate.passed():
                if gave_way or known.history.has_missed or not is_alone:
                    catch_up(known, study, crew, at_once=is_alone and gave_way)
                if not may_begin():
                    catch_up(known, study, crew, at_once=True)
                    return None
                waiting = known.history.waiting()
                if waiting:
                    begun = _enqueued(known, study, waiting[0], describe)
                else:
                    place = _place_of(sampler, known, crew)
                    begun = _placed(sampler, known, study, place, describe)
            gave_way = begun is None
        return begun


def catch_up(known: KnownStudy, study: optuna.Study, crew: Crew, at_once: bool = False) -> None:
    """Read what others did, and now and then close the trials of those who are gone."""
    known.history.refresh()
    if crew.look(at_once):
        gone = [n for n, worker in known.history.running() if crew.is_gone(worker)]
        for trial in filter(None, (trial_by_number(study, number) for number in gone)):
            mark_stale(study, trial)
        if gone:
            known.history.refresh()


def _place_of(sampler: GenomeSampler, known: KnownStudy, crew: Crew) -> Place:
    """Return a free place: of several workers, each has places that it prefers."""
    free = known.history.lost_places()
    generations = itertools.count(max(known.history.newest, 0))
    while not free:
        free = list(sampler.free_in(known, next(generations)))
    rank, size = crew.rank(), len(crew.others()) + 1
    # Not the n-th that is free: what is free changes while one looks, what is preferred does not.
    preferred = [place for place in free if place[1] % size == rank]
    return preferred[0] if preferred else free[rank % len(free)]


def _placed(
    sampler: GenomeSampler,
    known: KnownStudy,
    study: optuna.Study,
    place: Place,
    describe: Describe,
) -> tuple[FrozenTrial, Genome] | None:
    """Begin a trial on a place, unless it gives way to another worker's."""
    history, space = known.history, known.space
    assert space is not None
    if place[1] >= OUTSIDE:  # one that a user enqueued, and whose worker is gone
        child, genome = _wanted(known, study, place)
    else:
        child, made = sampler.made(known, study, place)
        assert made is not None
        genome = made
    is_new = not history.is_known(child.handle, *place)

    def yields(other: Child) -> bool:
        is_same = (other.generation, other.index) == place
        return is_same or (is_new and other.handle == child.handle)

    shown = describe(child, genome)
    begun = history.trials.begin(
        child, space.parameters(genome), space.distributions(), shown, yields
    )
    if begun is None:
        return None
    history.began(begun.number, child)
    sampler.write_plan(known, study, child.generation)
    return begun, genome


def _enqueued(
    known: KnownStudy, study: optuna.Study, waiting: FrozenTrial, describe: Describe
) -> tuple[FrozenTrial, Genome] | None:
    """Begin a trial that a user enqueued, beside the places of its generation."""
    assert known.space is not None
    outside = known.history.outside(waiting.number)
    child, genome = _wanted(known, study, (outside.generation, outside.index))
    params, distributions = known.space.parameters(genome), known.space.distributions()
    shown = describe(child, genome)
    begun = begin_waiting(study, waiting, child, params, distributions, shown)
    if begun is None:
        return None
    known.history.began(begun.number, child)
    return begun, genome


def _wanted(known: KnownStudy, study: optuna.Study, place: Place) -> tuple[Child, Genome]:
    """Return the genome that a user enqueued; its place tells the trial."""
    assert known.space is not None
    trial = trial_by_number(study, place[1] - OUTSIDE)
    fixed: Mapping[str, Any] = {} if trial is None else fixed_parameters(trial)
    handle = fixed.get(GENOME_PARAMETER)
    number = None if handle is None else known.history.trial_of(handle)
    model = None if number is None else known.history.genomes.read(number)
    genome = known.space.from_parameters(fixed, model, default=place[1] - OUTSIDE)
    return replace(Child(*place, handle=genome.handle), worker=this_worker()), genome
