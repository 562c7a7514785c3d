"""The search space: bounds, which dimensions are free, and how a trial gets its genome."""

from __future__ import annotations

import functools
import itertools
import json
import weakref
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import Final
from typing import Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import IntDistribution
from optuna.trial import BaseTrial
from optuna.trial import FrozenTrial
from optuna.trial import Trial

from optuna_wnn.errors import InputError
from optuna_wnn.genome import DIMENSIONS
from optuna_wnn.genome import HANDLE_BITS
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Dimension
from optuna_wnn.genome import Genome
from optuna_wnn.store.attributes import system_attributes
from optuna_wnn.store.genomes import GENOME_PARAMETER
from optuna_wnn.store.genomes import read_genome
from optuna_wnn.store.genomes import read_genome_and_child
from optuna_wnn.store.genomes import write_genome
from optuna_wnn.store.places import read_child
from optuna_wnn.store.settings import read_setting
from optuna_wnn.store.settings import write_setting
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.contexts import Token
from optuna_wnn.tasks.contexts import context_inputs
from optuna_wnn.tasks.given import n_context
from optuna_wnn.variation import mutate
from optuna_wnn.variation import random_genome
from optuna_wnn.variation import resize
from optuna_wnn.variation import rewire


GENOME_DISTRIBUTION: Final = IntDistribution(0, 2**HANDLE_BITS)
_MOST_COUNTS: Final = 32  # free integers that are shown as parameters of their own
_SETTING: Final = "space"
_MUTATED: Final = 0.5  # of the clusters of a starting genome, where a sample is one


@dataclass(frozen=True)
class GenomeSpace:
    """What genomes are searched.

    Attributes:
        bounds: What a genome may look like.
        free: The dimensions that the search may change. What is not free keeps the counts of
            the genomes that a study starts with.
        start: Neurons per cluster and bits per neuron that random genomes get in the dimensions
            that are not free.
        start_inputs: For each cluster the inputs that its neurons observe in the genomes that a
            search starts with, ascending; ``None`` starts with random genomes.

    Example:

        .. code-block:: python

            space = GenomeSpace.for_task(task, neurons=(2, 64), bits=(4, 16))


            def objective(trial):
                result = evaluator.evaluate(space.suggest(trial))
                return result.cross_entropy, result.accuracy
    """

    bounds: Bounds
    free: tuple[Dimension, ...] = DIMENSIONS
    start: tuple[int, int] = (1, 1)
    start_inputs: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        unknown = set(self.free) - set(DIMENSIONS)
        if unknown or not self.free:
            raise InputError(
                f"space.free: {', '.join(map(str, self.free)) or 'nothing'} is free; give one or "
                f"more of {', '.join(DIMENSIONS)}"
            )
        object.__setattr__(self, "free", tuple(d for d in DIMENSIONS if d in self.free))
        ranges = (("neurons", self.bounds.neurons), ("bits", self.bounds.bits))
        for (name, (low, high)), value in zip(ranges, self.start, strict=True):
            if name not in self.free and not low <= value <= high:
                raise InputError(f"space.start: {value} {name} are outside [{low}, {high}]")
        if self.start_inputs is not None:
            self._check_inputs(self.start_inputs)

    def _check_inputs(self, start_inputs: tuple[tuple[int, ...], ...]) -> None:
        low, high = self.bounds.bits
        if len(start_inputs) != self.bounds.n_clusters:
            raise InputError(
                f"space.start_inputs: {len(start_inputs)} sets for {self.bounds.n_clusters} "
                "clusters; give one for each"
            )
        for k, (inputs, visible) in enumerate(
            zip(start_inputs, self.bounds.visible_inputs.tolist(), strict=True)
        ):
            if not low <= len(inputs) <= high:
                raise InputError(
                    f"space.start_inputs.{k}: {len(inputs)} inputs are outside space.bits, "
                    f"[{low}, {high}]; change one of them"
                )
            ascending = all(a < b for a, b in itertools.pairwise(inputs))
            if not ascending or inputs[0] < 0 or inputs[-1] >= visible:
                raise InputError(
                    f"space.start_inputs.{k}: {list(inputs)} are not distinct ascending inputs "
                    f"below {visible}"
                )

    @classmethod
    def for_task(
        cls,
        task: Task,
        *,
        neurons: tuple[int, int] | int = (2, 64),
        bits: tuple[int, int] | int = (4, 16),
        free: Collection[Dimension] = DIMENSIONS,
        start: tuple[int, int] | None = None,
        start_contexts: Sequence[Sequence[Token]] | None = None,
        moves: Literal["any", "fields"] = "any",
    ) -> GenomeSpace:
        """Return the space of genomes that fit a task.

        Args:
            task: Says how many clusters and inputs there are.
            neurons: Fewest and most neurons per cluster; one number fixes them.
            bits: Fewest and most bits per neuron; one number fixes them.
            free: The dimensions that the search may change.
            start: Neurons and bits of random genomes in dimensions that are not free; the
                middle of the bounds by default.
            start_contexts: Of text tasks, for each cluster of an output the tokens that its
                neurons observe at the start, whole, by their position before the target; see
                :func:`~optuna_wnn.tasks.contexts.context_inputs`.
            moves: ``fields`` lets variation know the task's input groups, tokens or features of
                several bits each (see :class:`Bounds`); ``any`` treats all inputs alike.

        Raises:
            InputError: If the task has fewer inputs than a neuron would observe, or a range is
                empty, or the contexts fit neither the task nor ``bits``.
        """
        ranges = [
            (r, r) if isinstance(r, int) else (int(r[0]), int(r[1])) for r in (neurons, bits)
        ]
        fields = task.input_groups if moves == "fields" else None
        bounds = Bounds(task.n_clusters, task.n_inputs, ranges[0], ranges[1], task.visible, fields)
        middle = tuple((low + high) // 2 for low, high in ranges)
        inputs = None
        if start_contexts is not None:
            inputs = context_inputs(task, start_contexts)
            _check_widths(inputs, bounds, n_context(task))
        return cls(bounds, tuple(free), (middle[0], middle[1]) if start is None else start, inputs)

    def starting_genome(self) -> Genome | None:
        """Return the genome whose clusters observe ``start_inputs``; ``None`` if nothing says.

        Clusters have as few neurons as they may. Where that is more than one, all but the first
        observe a random input in place of one of these, always the same.
        """
        if self.start_inputs is None:
            return None
        fewest = self.bounds.neurons[0]
        genome = Genome.of_clusters(
            np.tile(np.array(inputs, np.int32), (fewest, 1)) for inputs in self.start_inputs
        )
        copies = np.flatnonzero(np.arange(genome.n_neurons) % fewest)
        return rewire(genome, copies, self.bounds, np.random.default_rng(0))

    def sample(self, rng: np.random.Generator) -> Genome:
        """Return a genome that a search may start with.

        That is the starting genome with a mutation of the free dimensions in about half of its
        clusters. Without one it has random wiring, and random counts in the free dimensions.
        """
        start = self.starting_genome()
        if start is not None:
            return mutate(start, self.bounds, self.free, _MUTATED, rng)
        return random_genome(
            self.bounds,
            rng,
            neurons=None if "neurons" in self.free else self.start[0],
            bits=None if "bits" in self.free else self.start[1],
        )

    def opening(self, place: int, rng: np.random.Generator) -> Genome:
        """Return what a search evaluates first: at place 0 the starting genome, if there is one.

        Args:
            place: In the first generation.
            rng: What :meth:`sample` draws from at any other.
        """
        start = self.starting_genome() if place == 0 else None
        return self.sample(rng) if start is None else start

    def seeded(self, handle: int) -> Genome:
        """Return the genome that a number seeds where no sampler of this package gives one."""
        return self.sample(np.random.default_rng(handle))

    def from_parameters(
        self, given: Mapping[str, Any], model: Genome | None, default: int
    ) -> Genome:
        """Return the genome that parameters ask for; those that do not fit are left aside.

        Args:
            given: Parameters, as a user enqueues them.
            model: The genome that their ``genome`` names, if there is one.
            default: What seeds a genome where nothing names one.
        """
        handle = given.get(GENOME_PARAMETER)
        if type(handle) is not int or not 0 <= handle <= 2**HANDLE_BITS:
            handle = default
        genome = self.seeded(handle) if model is None else model
        counts = {"neurons": genome.neurons.copy(), "bits": genome.bits.copy()}
        for name, dimension, k, (low, high) in self.counts():
            count = given.get(name)
            if type(count) is int and low <= count <= high:
                counts[dimension][k] = count
        rng = np.random.default_rng(handle)
        return resize(genome, counts["neurons"], counts["bits"], self.bounds, rng)

    def suggest(self, trial: BaseTrial) -> Genome:
        """Return the genome of a trial.

        Under this package's samplers it is the one that the sampler gave out. Under any other,
        the parameter ``genome`` seeds random wiring, and the free neuron and bit counts are
        parameters of their own (where there are at most 32; else the seed decides them too).
        Parameters that were fixed by hand, as ``enqueue_trial`` does, are obeyed. A finished
        trial gives the genome that it was evaluated with.

        Args:
            trial: A running trial, a finished one, or an ``optuna.trial.FixedTrial``.

        Raises:
            InputError: If the study already has another space, or the genome of a finished trial
                can only be read with its study (see :func:`optuna_wnn.genome`).
        """
        if isinstance(trial, Trial):
            self._remember(trial.study)
        handle = trial.suggest_int(GENOME_PARAMETER, 0, 2**HANDLE_BITS)
        given = child = None
        if isinstance(trial, Trial | FrozenTrial):
            given, child = read_genome_and_child(trial)
        # Fresh from the sampler, it obeys the parameters. Later calls find it as it was left.
        is_fresh = given is None or (child is not None and child.handle == given.handle)
        genome = given
        if genome is None or (is_fresh and child is not None and child.handle != handle):
            genome = self.seeded(handle)
        counts = {"neurons": genome.neurons.copy(), "bits": genome.bits.copy()}
        for name, dimension, k, (low, high) in self.counts():
            counts[dimension][k] = trial.suggest_int(name, low, high)
        if is_fresh and any((counts[d] != getattr(genome, d)).any() for d in counts):
            # Another sampler, or parameters that were fixed by hand.
            rng = np.random.default_rng(handle)
            genome = resize(genome, counts["neurons"], counts["bits"], self.bounds, rng)
        if genome is not given and isinstance(trial, Trial):
            write_genome(trial.study, trial, genome)
        return genome

    def counts(self) -> Iterator[tuple[str, Dimension, int, tuple[int, int]]]:
        """Yield the free integers that are parameters: name, dimension, cluster and range."""
        dimensions = [d for d in self.free if d != "connections"]
        if self.bounds.n_clusters * len(dimensions) > _MOST_COUNTS:
            return
        for dimension in dimensions:
            limits = self.bounds.neurons if dimension == "neurons" else self.bounds.bits
            for k in range(self.bounds.n_clusters):
                yield f"{dimension}_{k}", dimension, k, limits

    def parameters(self, genome: Genome) -> dict[str, int]:
        """Return the values that a genome's trial shows for its parameters."""
        counts: dict[Dimension, NDArray[np.int32]] = {
            "neurons": genome.neurons,
            "bits": genome.bits,
        }
        shown = {name: int(counts[dimension][k]) for name, dimension, k, _ in self.counts()}
        return {GENOME_PARAMETER: genome.handle, **shown}

    def distributions(self) -> dict[str, IntDistribution]:
        """Return the distributions of :meth:`parameters`."""
        return dict(_distributions(self))

    def to_json(self) -> str:
        """Return the space as JSON text."""
        b = self.bounds
        fields = [b.n_clusters, b.n_inputs, b.neurons, b.bits, b.visible, self.free, self.start]
        later = [self.start_inputs, b.fields]  # spaces were stored without before
        while later and later[-1] is None:
            later.pop()
        return json.dumps([*fields, *later])

    @classmethod
    def from_json(cls, text: str) -> GenomeSpace:
        """Return the inverse of :meth:`to_json`."""
        n_clusters, n_inputs, neurons, bits, visible, free, start, *later = json.loads(text)
        inputs, groups = (*later, None, None)[:2]
        bounds = Bounds(
            n_clusters,
            n_inputs,
            tuple(neurons),
            tuple(bits),
            None if visible is None else tuple(visible),
            None if groups is None else tuple(groups),
        )
        start_inputs = None if inputs is None else tuple(map(tuple, inputs))
        return cls(bounds, tuple(free), tuple(start), start_inputs)

    def write(self, study: optuna.Study) -> None:
        """Store the space with a study, where the samplers find it."""
        write_setting(study, _SETTING, self.to_json())

    @classmethod
    def read(cls, study: optuna.Study) -> GenomeSpace | None:
        """Return the space that is stored with a study, or ``None``."""
        text: Any = read_setting(study, _SETTING)
        return None if text is None else cls.from_json(text)

    def _remember(self, study: optuna.Study) -> None:
        if _SEEN.get(study) == self:
            return
        known = self.read(study)
        if known is None:
            self.write(study)
        elif known != self:
            raise InputError(
                f"study {study.study_name}: it searches another space; start a new study for "
                "other bounds"
            )
        _SEEN[study] = self


def _check_widths(
    start_inputs: tuple[tuple[int, ...], ...], bounds: Bounds, n_context: int
) -> None:
    """Check that neurons may observe as many inputs as starting contexts have."""
    widths = [len(inputs) for inputs in start_inputs]
    low, high = bounds.bits
    wanted = min(low, *widths), max(high, *widths)
    if wanted != bounds.bits:
        longer = " and raise task.context" if wanted[1] > n_context else ""
        raise InputError(
            f"space.start_contexts: neurons would observe {min(widths)} to {max(widths)} inputs, "
            f"the target's bits so far among them, which space.bits, [{low}, {high}], does not "
            f"allow; set it to [{wanted[0]}, {wanted[1]}]{longer}, or name other tokens"
        )


@functools.lru_cache(maxsize=16)
def _distributions(space: GenomeSpace) -> dict[str, IntDistribution]:
    shown = {name: IntDistribution(*limits) for name, _, _, limits in space.counts()}
    return {GENOME_PARAMETER: GENOME_DISTRIBUTION, **shown}


# Per study object the space that is known to be stored there: saves a query a trial.
_SEEN: weakref.WeakKeyDictionary[optuna.Study, GenomeSpace] = weakref.WeakKeyDictionary()


def genome(trial: Trial | FrozenTrial, study: optuna.Study | None = None) -> Genome:
    """Return the genome of a trial.

    Args:
        trial: A running or a finished trial of an objective that called
            :meth:`GenomeSpace.suggest`.
        study: Its study; only needed for a finished trial whose genome is so large (above 6 kB)
            that it is stored as a difference from its parents.

    Raises:
        InputError: If the trial has no genome, or it cannot be read.
    """
    found = read_genome(trial, study)
    if found is None:
        raise InputError(
            f"trial {trial.number}: it has no genome; its objective did not call "
            "GenomeSpace.suggest"
        )
    return found


def set_genome(
    trial: Trial, genome: Genome, cluster_losses: NDArray[np.float64] | None = None
) -> None:
    """Store the genome that a running trial ended with, in place of the one it was given.

    To be called by objectives that change the genome: they refine it, or put the best neurons of
    each cluster first, so that mutations which drop a neuron drop the worst.

    Args:
        trial: A trial of an objective that called :meth:`GenomeSpace.suggest`.
        genome: The genome that the trial's values belong to.
        cluster_losses: The loss of each cluster, ``float64[K]``, where the loss is a sum over
            clusters: it lets the genetic sampler take each cluster from the better parent.
            Clusters that share a loss all have the whole of it, and are taken together.
    """
    study = trial.study
    child = read_child(system_attributes(trial))
    parents = () if child is None else child.parents
    write_genome(study, trial, genome, parents, cluster_losses)
