"""Tabu search over genomes, and over ordinary parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from typing import Any
from typing import Final
from typing import Literal
from typing import get_args

import numpy as np
from optuna.distributions import BaseDistribution

from optuna_wnn.errors import InputError
from optuna_wnn.fitness import Fitness
from optuna_wnn.fitness import FitnessCalculatorType
from optuna_wnn.genome import Genome
from optuna_wnn.moves import apply_move
from optuna_wnn.moves import random_move
from optuna_wnn.samplers.base import GenomeSampler
from optuna_wnn.samplers.history import Record
from optuna_wnn.samplers.history import losses_of
from optuna_wnn.samplers.history import violations_of
from optuna_wnn.samplers.known import KnownStudy
from optuna_wnn.samplers.parameters import nearby_value
from optuna_wnn.samplers.parameters import random_value
from optuna_wnn.schedule import AdaptiveScaling
from optuna_wnn.schedule import Plan
from optuna_wnn.schedule import Threshold
from optuna_wnn.store.places import Child


Improvement = Literal["best", "first"]
_Order = Callable[[list[Record]], list[int]]  # of records, best first

_WIDTH: Final = 0.1  # standard deviation of an ordinary parameter's move, of its range
_PATIENCE: Final = 16  # attempts at a new genome between two further moves
_DRAWS: Final = 32  # of a move, until one exists


@dataclass(frozen=True)
class Source:
    """One of the solutions that a tabu search moves from.

    Attributes:
        current: Where it stands.
        best: The best that it ever was at.
        tabu: Until which iteration, inclusive, the attribute of a move is tabu.
    """

    current: Record
    best: Record
    tabu: Mapping[tuple[Any, ...], int]

    def forbids(self, neighbor: Record, iteration: int) -> bool:
        """Return whether the move that leads to a neighbour is tabu in an iteration."""
        move = neighbor.child.attribute
        return move is not None and self.tabu.get(move, -1) >= iteration


class WNNTabuSearchSampler(GenomeSampler):
    """A tabu search that searches the wiring of RAM networks by single moves.

    At each iteration it evaluates ``n_neighbors`` distinct neighbours of the current genome,
    each one move away: a neuron or a bit more or less in one cluster, or one connection moved.
    Then the best admissible neighbour becomes the current genome, even if it is worse: that is
    how the search leaves a local optimum. The move that would undo it is tabu for
    ``tabu_tenure`` iterations; a tabu move is admissible all the same if its result beats the
    best that was ever found (aspiration). If no neighbour is admissible, the search stays.

    With ``n_neighbors=1`` there is no best of several, and it is the plain one-slot hill
    climber: the neighbour becomes current if it is not worse.

    With ``improvement="first"`` an iteration ends as soon as an admissible neighbour is not worse
    than the current genome, which is then left for it. Where a neighbourhood is far larger than
    what can be evaluated of it, this spends no evaluations on choosing between improvements,
    and a worse neighbour is accepted only when ``n_neighbors`` in a row were worse.

    With ``n_sources`` above 1 it is a cooperative multi-start: the best genomes that the study
    starts with each have their own share of the neighbours and their own tabu list.

    It works on any objective. Without a genome, a move gives one ordinary parameter another
    value, and going back to the old value is tabu.

    Example:

        .. code-block:: python

            study = optuna.create_study(
                directions=["minimize", "maximize"], sampler=WNNTabuSearchSampler()
            )
            study.optimize(objective, n_trials=500)

    References:
        Glover, "Tabu search, part I", ORSA Journal on Computing 1(3), 1989: recency-based
        memory of move attributes and aspiration by objective. Garcia and de Souto, "Global
        optimization methods for choosing the connectivity pattern of N-tuple classifiers",
        IJCNN 2004: its use on the wiring of weightless networks.

    Args:
        seed: What all random numbers derive from; ``None`` draws one when a study starts and
            stores it there.
        n_neighbors: Neighbours per iteration; at least 1.
        tabu_tenure: Iterations for which the reverse of a move is tabu; at least 0.
        n_sources: Solutions that are moved side by side; at least 1, at most ``n_neighbors``.
        improvement: Whether an iteration evaluates all its neighbours and takes the ``best``, or
            ends at the ``first`` that is not worse than the current genome.
        fitness: Which of two trials is better in a study with several objectives: the name of a
            calculator, or a :class:`~optuna_wnn.Fitness` with weights.
        threshold: An accuracy that trials must reach, rising from iteration to iteration;
            trials store by how much they miss its final bar as an Optuna constraint.
        scaling: How the number of neighbours grows while there is no progress.

    Raises:
        InputError: If a value is out of range.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        n_neighbors: int = 20,
        tabu_tenure: int = 10,
        n_sources: int = 1,
        improvement: Improvement = "best",
        fitness: Fitness | FitnessCalculatorType | str = FitnessCalculatorType.CE,
        threshold: Threshold | None = None,
        scaling: AdaptiveScaling | None = None,
    ) -> None:
        super().__init__(
            seed=seed,
            fitness=fitness,
            population=n_neighbors,
            mutation_rate=0.0,
            threshold=threshold,
            scaling=scaling,
        )
        kinds = get_args(Improvement)
        self._require(
            ("n_neighbors", n_neighbors, n_neighbors >= 1, "at least 1"),
            ("tabu_tenure", tabu_tenure, tabu_tenure >= 0, "at least 0"),
            ("n_sources", n_sources, 1 <= n_sources <= n_neighbors, "1 to n_neighbors"),
            ("improvement", repr(improvement), improvement in kinds, f"one of {', '.join(kinds)}"),
        )
        if improvement == "first" and n_sources > 1:
            raise InputError(
                "WNNTabuSearchSampler: improvement is 'first', which needs n_sources=1; the "
                "iterations of several sources end together"
            )
        self._improvement = improvement
        self._n_neighbors = n_neighbors
        self._tabu_tenure = tabu_tenure
        self._n_sources = n_sources

    def _size(self, known: KnownStudy, generation: int) -> int:
        if generation == 0:
            return len(known.history.seeds()) or self._n_sources
        most = super()._size(known, generation)
        if self._improvement == "best":
            return most
        start = self._start(known, generation)
        records = known.history.generation(generation)
        for source in start.state:  # there is one, or none before the first
            ends = self._first_no_worse(known, start.plan.slack, source, records, generation)
            if ends is not None:
                return min(most, ends.child.index + 1)
        return most

    def _first_no_worse(
        self,
        known: KnownStudy,
        slack: float,
        source: Source,
        neighbors: list[Record],
        iteration: int,
    ) -> Record | None:
        """Return the first admissible neighbour that is no worse than the current solution."""
        last = len(neighbors)
        order = self._order(known, slack, [*neighbors, source.current])
        no_worse = sorted(order[: order.index(last)])
        for place in no_worse:
            neighbor = neighbors[place]
            beats_best = self._order(known, slack, [source.best, neighbor])[0] == 1
            if beats_best or not source.forbids(neighbor, iteration):
                return neighbor
        return None

    def _derive(
        self, known: KnownStudy, generation: int, before: list[Source] | None, plan: Plan
    ) -> list[Source]:
        """Return where the search stands when an iteration starts."""
        if before is None:
            return []
        order = functools.partial(self._order, known, plan.slack)
        neighbors = self._parents(known, generation - 1)
        if not before:  # the first iteration that starts with something to move from
            starts = [neighbors[i] for i in order(neighbors)[: self._n_sources]]
            return [Source(start, start, {}) for start in starts]
        return [
            self._moved(
                order, source, [n for n in neighbors if n.child.source == place], generation - 1
            )
            for place, source in enumerate(before)
        ]

    def _moved(
        self, order: _Order, source: Source, neighbors: list[Record], iteration: int
    ) -> Source:
        """Return where a source stands after an iteration: at its best admissible neighbour."""
        if not neighbors:
            return source
        if self._n_neighbors == 1:
            first = order([*neighbors, source.current])[0]
            accepted = neighbors[first] if first < len(neighbors) else None
        else:
            accepted = self._admissible(order, source, neighbors, iteration)
        if accepted is None:
            return source
        tabu = {move: until for move, until in source.tabu.items() if until > iteration}
        if accepted.child.reverse is not None:
            tabu[accepted.child.reverse] = iteration + self._tabu_tenure
        is_best = order([source.best, accepted])[0] == 1
        return Source(accepted, accepted if is_best else source.best, tabu)

    def _admissible(
        self, order: _Order, source: Source, neighbors: list[Record], iteration: int
    ) -> Record | None:
        pool = [source.best, *neighbors]
        beats_best = True  # until the best is passed on the way down
        for place in order(pool):
            if place == 0:
                beats_best = False
                continue
            neighbor = pool[place]
            if beats_best or not source.forbids(neighbor, iteration):
                return neighbor
        return None

    def _order(self, known: KnownStudy, slack: float, records: list[Record]) -> list[int]:
        fitness = self._fitness_of(known)
        missed = violations_of(records, slack)
        order: list[int] = fitness.order(losses_of(records), missed).tolist()
        return order

    def _conceive(
        self,
        known: KnownStudy,
        generation: int,
        index: int,
        draw: Callable[..., np.random.Generator],
    ) -> tuple[Child, Callable[[int], tuple[Genome, Child]] | None]:
        sources: list[Source] = self._start(known, generation).state
        space = known.space
        if not sources:
            if space is None:
                return Child(generation, index), None

            def start(attempt: int) -> tuple[Genome, Child]:
                genome = space.opening(index + attempt, draw(attempt))
                return genome, Child(generation, index, handle=genome.handle)

            return Child(generation, index), start

        place = index % len(sources)
        current = sources[place].current
        child = Child(generation, index, (current.number,), source=place)
        if space is None or current.final_handle < 0:
            siblings = known.history.siblings(generation, index)
            return self._parameter_move(current, child, siblings, draw), None
        here = known.history.genomes.read(current.number)

        def step(attempt: int) -> tuple[Genome, Child]:
            rng, genome, moved = draw(attempt), here, child
            for _ in range(1 + attempt // _PATIENCE):  # ever farther from what is known
                for _ in range(_DRAWS):
                    move = random_move(genome, space.bounds, space.free, rng)
                    if move is not None:
                        genome = apply_move(genome, move, space.bounds)
                        moved = replace(
                            child, attribute=move.attribute, reverse=move.reverse_attribute
                        )
                        break
            return genome, replace(moved, handle=genome.handle)

        return child, step

    def _parameter_move(
        self,
        current: Record,
        child: Child,
        siblings: list[Child],
        draw: Callable[..., np.random.Generator],
    ) -> Child:
        """Return the child with the ordinary parameter that it changes, and to what.

        Where there is a choice, it is not what one of the ``siblings`` does already.
        """
        names = [name for name, d in sorted(current.distributions.items()) if not d.single()]
        if not names:
            return child
        made = {sibling.attribute for sibling in siblings if sibling.source == child.source}
        for attempt in range(_DRAWS):
            rng = draw(attempt)
            name = names[int(rng.integers(len(names)))]
            distribution, value = current.distributions[name], current.params[name]
            target = nearby_value(distribution, value, _WIDTH, rng)
            attribute = ("set", name, distribution.to_internal_repr(target))
            if attribute not in made:
                break
        reverse = ("set", name, distribution.to_internal_repr(value))
        return replace(child, attribute=attribute, reverse=reverse)

    def _parameter(
        self,
        known: KnownStudy,
        child: Child,
        name: str,
        distribution: BaseDistribution,
        rng: np.random.Generator,
    ) -> Any:
        record = known.history.record(child.parents[0]) if child.parents else None
        if record is None or name not in record.params:
            return random_value(distribution, rng)
        if child.attribute is not None and child.attribute[:2] == ("set", name):
            return distribution.to_external_repr(child.attribute[2])
        return record.params[name]
