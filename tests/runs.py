"""Runs for tests: a small task, an evaluator that costs nothing, and what a run came to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_wnn import report
from optuna_wnn.config import RunConfig
from optuna_wnn.config import parse_config
from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators.base import EvaluationPart
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.genome import Genome
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.store.places import read_child
from optuna_wnn.store.reader import genome_reader
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import is_stale
from optuna_wnn.tasks import Examples
from optuna_wnn.tasks import Task
from optuna_wnn.tasks.base import pack_bits


def small_task(seed: int = 0) -> Task:
    """Return a task of 12 input bits and 2 classes."""
    rng = np.random.default_rng(seed)
    train, validation, test = (
        Examples(pack_bits(rng.random((8, 12)) < 0.5), rng.integers(0, 2, 8)) for _ in range(3)
    )
    return Task("small", "classes", 12, 2, train, validation, test, input_groups=(12, 1))


class DigestEvaluator(Evaluator):
    """Makes losses of what a genome computes, by hashing: no two genomes have the same.

    Attributes:
        seen: The digests of the genomes that were evaluated for the search, in order.
    """

    backend = "digest"

    def __init__(self, task: Task | None = None) -> None:
        super().__init__(task or small_task())
        self.seen: list[str] = []

    def cluster_votes(self, clusters: Sequence[Cluster], reading: Reading) -> list[ClusterVotes]:
        raise AssertionError("nothing is trained here")

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        if part == "fitness":
            self.seen.append(genome.digest)
        losses = np.array([_share(f"{part}{h}") for h in genome.cluster_hashes])
        return Evaluation(
            cross_entropy=float(losses.sum()),
            accuracy=_share(f"{part}{genome.digest}"),
            neuron_order=np.lexsort((genome.neuron_hashes, genome.neuron_cluster)),
            cluster_losses=losses,
            n_examples=8,
        )


def _share(text: str) -> float:
    return int(hashlib.blake2b(text.encode(), digest_size=6).hexdigest(), 16) / 2**48


def small_config(**changes: Any) -> RunConfig:
    """Return a configuration of six phases of a few trials each; keys may be changed."""
    document: dict[str, Any] = {
        "name": "small",
        "task": {"kind": "text", "path": "unread"},
        "space": {"neurons": [2, 5], "bits": [2, 6], "start_neurons": 3, "start_bits": 4},
        "search": {"trials": 9, "population_size": 4, "n_neighbors": 4},
    }
    return parse_config({**document, **changes})


def small_search(
    storage: BaseStorage, evaluator: Evaluator | None = None, **changes: Any
) -> PhasedSearch:
    """Return a search of six phases that takes a second or so."""
    evaluator = evaluator or DigestEvaluator()
    return PhasedSearch(small_config(**changes), storage, task=evaluator.task, evaluator=evaluator)


def studies(storage: BaseStorage, run: str = "small") -> list[optuna.Study]:
    """Return the studies of a run in the order of its phases."""
    return [
        optuna.load_study(study_name=name, storage=storage)
        for name in report.study_names(storage, run)
    ]


def place(trial: FrozenTrial) -> tuple[int, int]:
    """Return the generation and the index of a trial."""
    child = read_child(trial.system_attrs)
    assert child is not None
    return child.generation, child.index


def genome_of(study: optuna.Study, number: int) -> Genome:
    return genome_reader(study).read(number)


Outcome = dict[str, dict[tuple[int, int], tuple[Any, ...]]]


def outcome(storage: BaseStorage, run: str = "small") -> Outcome:
    """Return all that matters of a run's trials, by study and by (generation, index).

    Trials that were closed because their worker was gone do not matter, nor do numbers of
    trials and times, which differ from one history of interruptions to another. That no place
    was evaluated twice is checked on the way.
    """
    found: Outcome = {}
    for study in studies(storage, run):
        trials = all_trials(study)
        lasting = [t for t in trials if not is_stale(t.system_attrs)]
        assert all(t.state.is_finished() for t in trials)
        places = [place(t) for t in lasting]
        assert len(set(places)) == len(places)
        found[study.study_name] = {
            place(t): (
                t.state,
                t.params,
                t.values,
                genome_of(study, t.number).checksum if t.state == TrialState.COMPLETE else None,
                list(t.constraints.values()),
                {k: v for k, v in t.user_attrs.items() if k != report.SEEDED_FROM},
                _lineage(t, trials),
            )
            for t in lasting
        }
    return found


def _lineage(trial: FrozenTrial, trials: list[FrozenTrial]) -> tuple[Any, ...]:
    child = read_child(trial.system_attrs)
    assert child is not None
    parents = [place(trials[number]) for number in child.parents]
    return parents, child.handle, child.source, child.attribute, child.is_seed


def counts(genome: Genome) -> tuple[list[int], list[int]]:
    """Return the neurons and the bits of each cluster."""
    return genome.neurons.tolist(), genome.bits.tolist()


def connections_of(genome: Genome) -> list[list[int]]:
    """Return what each neuron observes."""
    cuts: NDArray[np.int64] = genome.offsets[1:-1]
    return [part.tolist() for part in np.split(genome.connections, cuts)]
