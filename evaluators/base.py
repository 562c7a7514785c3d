"""What every backend does alike: checks, heads, the vote cache, batches and refinement."""

from __future__ import annotations

import os
import weakref
from abc import ABC
from abc import abstractmethod
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from functools import cached_property
from threading import Event
from typing import Any
from typing import ClassVar
from typing import Final
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import heads
from optuna_wnn.evaluators.cache import VoteCache
from optuna_wnn.evaluators.calibration import check_calibrated
from optuna_wnn.evaluators.calibration import check_gains
from optuna_wnn.evaluators.calibration import fitted_gains
from optuna_wnn.evaluators.cells import make_cells
from optuna_wnn.evaluators.chained import Chain
from optuna_wnn.evaluators.chained import Queries
from optuna_wnn.evaluators.chained import chain_of
from optuna_wnn.evaluators.chained import check_chained
from optuna_wnn.evaluators.chained import exact_hits
from optuna_wnn.evaluators.chained import greedy_hits
from optuna_wnn.evaluators.chained import plain_query_votes
from optuna_wnn.evaluators.finder import VoteFinder
from optuna_wnn.evaluators.informed import chances
from optuna_wnn.evaluators.informed import information
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.readings import part_reading
from optuna_wnn.evaluators.readings import temperature_reading
from optuna_wnn.evaluators.refine import Climb
from optuna_wnn.evaluators.refine import climb
from optuna_wnn.evaluators.tokens import BlockTerms
from optuna_wnn.evaluators.tokens import TokenPositives
from optuna_wnn.evaluators.tokens import check_tokens
from optuna_wnn.evaluators.tokens import clusters_of_block
from optuna_wnn.evaluators.tokens import terms_of_votes
from optuna_wnn.evaluators.tokens import tokens_results
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.evaluators.votes import added_up
from optuna_wnn.evaluators.votes import outputs_of
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Dimension
from optuna_wnn.genome import Genome
from optuna_wnn.genome import mix64
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Task


NOT_REFINED: Final = "refine: several clusters per output are not refined; set refine_steps to 0"
EvaluationPart = Literal["fitness", "validation", "test"]
Moves = Literal["blind", "informed"]

_FLAGS_BYTES = 1 << 26  # for which examples are positive ones of a cluster
MOST_NEURONS: Final = 1 << 16  # of an output: votes are 16 bits wide, their sums 32


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well a genome does on some examples.

    Attributes:
        cross_entropy: Nats per example; lower is better.
        accuracy: Share of examples whose arg-max output is the target, in [0, 1]; a tie counts
            ``1 / len(tie)`` when the target is in it. Under ``chained_bits`` the accuracy of the
            fitness may be that of greedy decoding (see ``MemorySettings.accuracy``).
        neuron_order: The genome's neurons, best first within each cluster, ``int64[N]``: what
            :meth:`Genome.reordered` takes. A neuron's score is its mean vote where the
            cluster's target bit is 1 minus its mean vote where it is 0, on the same examples.
        cluster_losses: Mean loss of each cluster in nats per example, ``float64[K]``, where the
            head is ``bits`` or ``chained_bits``, else ``None``. A cluster's loss is that of its
            bit, so all clusters of a bit have the same. With one cluster per output they sum to
            the cross-entropy under ``chained_bits``, and where the vocabulary is a power of two;
            with several, to as many times that.
        n_examples: How many examples were read.
    """

    cross_entropy: float
    accuracy: float
    neuron_order: NDArray[np.int64]
    cluster_losses: NDArray[np.float64] | None
    n_examples: int


class Evaluator(ABC):
    """Trains and reads the RAM network that a genome describes.

    A backend implements :meth:`cluster_votes`; all else is shared, so that every backend gives
    the same numbers.

    Attributes:
        backend: The backend's name.
        task: What genomes are evaluated on.
        memory: What cells hold and how they vote.
        threads: How many threads may work at once.
        device_bytes: Most bytes of a GPU's memory that are used, if that was given.
        gains: How much each cluster's cells count where the vote is ``calibrated``, in units of
            1/256, ``int64[K, GAINS]``; ``None`` for a gain of 1 everywhere.
        cells: How cells are written and what they vote.
        cache: Votes of clusters that were computed before.

    Args:
        task: The examples and the head.
        memory: What cells hold and how they vote; ``None`` takes the defaults.
        threads: How many threads may work at once; ``None`` takes the processors that this
            process may use.
        cache_bytes: Most bytes that are kept between calls: votes of clusters that come again,
            and in up to half of it what refinement knows of neurons; ``None`` takes a sixteenth
            of the machine's memory, 0 keeps nothing. A call may need more while it runs.
        device_bytes: Most bytes of a GPU's memory that are used; only the ``mlx`` backend does.
    Raises:
        InputError: If the head is not one that these evaluators know, or a number is too low.
    """

    backend: ClassVar[str]

    def __init__(
        self,
        task: Task,
        memory: MemorySettings | None = None,
        *,
        threads: int | None = None,
        cache_bytes: int | None = None,
        device_bytes: int | None = None,
    ) -> None:
        if task.head not in heads.HEADS:
            raise InputError(
                f"task {task.name}: head {task.head!r} is not one of {', '.join(heads.HEADS)}"
            )
        self.task = task
        self.memory = memory if memory is not None else MemorySettings()
        if not len(task.train):
            raise InputError(f"task {task.name}: its train part is empty; give it examples")
        if task.head == "chained_bits":
            check_chained(task)
        if task.head == "tokens":
            check_tokens(self.memory)
        elif self.memory.negatives is not None:
            raise InputError(f"memory.negatives: the {task.head} head takes all; leave it out")
        if threads is not None and threads < 1:
            raise InputError(f"evaluator.threads: {threads} is below 1; give at least 1")
        if cache_bytes is not None and cache_bytes < 0:
            raise InputError(f"evaluator.cache_bytes: {cache_bytes} is below 0; 0 keeps nothing")
        if device_bytes is not None and device_bytes < 1:
            raise InputError(f"evaluator.device_bytes: {device_bytes} is below 1; leave it out")
        self.threads = threads if threads is not None else usable_processors()
        self.device_bytes = device_bytes
        check_calibrated(task, self.memory)
        self.gains: NDArray[np.int64] | None = None
        self.cells = make_cells(self.memory, task.head, task.n_outputs, len(task.train))
        self.cache = VoteCache(cache_bytes)
        own = weakref.proxy(self)  # who drops an evaluator gets its cache's memory back at once
        self._finder = VoteFinder(self.cache, lambda *job: own.cluster_votes(*job))
        self._known_flags = VoteCache(_FLAGS_BYTES)
        self._n_positives: dict[tuple[str, int], int] = {}
        self._by_token: dict[str, TokenPositives] = {}

    def calibrated(self, genome: Genome) -> Evaluator:
        """Return an evaluator of the same kind whose gains are fitted to a genome.

        Under the vote ``calibrated``, :attr:`gains` then say how much each cluster's cells count,
        by how many examples they have seen: those with which the training examples are
        predicted best, each from a memory without its block (``memory.blocks``). Validation
        and test examples play no part.

        Args:
            genome: Whose neurons.

        Raises:
            InputError: If the vote is another, or the genome does not fit the task.
        """
        if self.memory.vote != "calibrated":
            raise InputError(
                f"memory.vote: {self.memory.vote} has no gains to fit; take calibrated"
            )
        self.check(genome)
        return self.with_gains(fitted_gains(self, genome))

    def with_gains(self, gains: NDArray[np.int64]) -> Evaluator:
        """Return an evaluator of the same kind with other gains, and nothing in its cache.

        Raises:
            InputError: If they are not those of as many clusters.
        """
        check_gains(self.task, gains)
        other = type(self)(
            self.task,
            self.memory,
            threads=self.threads,
            cache_bytes=self.cache.capacity,
            device_bytes=self.device_bytes,
        )
        other.gains, n_trained = gains, len(self.task.train)
        other.cells = make_cells(
            self.memory, self.task.head, self.task.n_outputs, n_trained, gains
        )
        return other

    @classmethod
    def missing(cls) -> str | None:
        """Return what this backend lacks to run on this machine, or ``None``."""
        return None

    @abstractmethod
    def cluster_votes(self, clusters: Sequence[Cluster], reading: Reading) -> list[ClusterVotes]:
        """Train clusters and read examples; the one thing that a backend must do.

        Args:
            clusters: Any clusters of any genomes; none comes twice.
            reading: Which examples write the memory and which are read.

        Returns:
            Their votes, in the same order.
        """

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        """Return how well ``genome`` does on a part of the data, trained on ``task.train``.

        Args:
            genome: What to evaluate.
            part: ``fitness`` is what ``memory.fitness_on`` says, ``validation`` or ``test``
                that part.

        Raises:
            InputError: If the genome does not fit the task, or the part is empty.
        """
        return self.evaluate_batch([genome], part)[0]

    def evaluate_batch(
        self, genomes: Sequence[Genome], part: EvaluationPart = "fitness"
    ) -> list[Evaluation]:
        """Return the same as :meth:`evaluate` of each; a cluster they share is trained once."""
        for genome in genomes:
            self.check(genome)
        reading = part_reading(self.task, self.memory, part)
        if self.task.head == "tokens":
            return self._evaluate_tokens(genomes, reading)
        found = zip(genomes, self._finder.votes(genomes, reading), strict=True)
        if self.task.head == "chained_bits":
            greedy = part == "fitness" and self.memory.accuracy == "greedy"
            return list(self._evaluate_chained(found, reading, greedy))
        return [
            self._evaluate(genome, clusters, votes, reading) for genome, (clusters, votes) in found
        ]

    def separations(self, genome: Genome, part: EvaluationPart = "fitness") -> NDArray[np.float64]:
        """Return how well each neuron tells its cluster's positive examples, ``float64[N]``.

        That is its mean vote for them, less that for the others: what neurons are ordered by.
        Under the vote ``confidence`` it is of log-odds times their weights.

        Args:
            genome: Whose neurons.
            part: As of :meth:`evaluate`.

        Raises:
            InputError: If the genome does not fit the task, its head is ``tokens``, or the part
                is empty.
        """
        if self.task.head == "tokens":
            raise InputError("separations: the tokens head has none")
        self.check(genome)
        reading = part_reading(self.task, self.memory, part)
        ((clusters, votes),) = self._finder.votes([genome], reading)
        return self._scores(genome, clusters, votes, reading) / self.cells.scale

    def refine(
        self,
        genome: Genome,
        bounds: Bounds,
        free: Collection[Dimension],
        steps: int,
        seed: int,
        moves: Moves = "blind",
    ) -> tuple[Genome, Evaluation]:
        """Make ``steps`` small random moves, keep each that makes the fitness loss no worse.

        A move of ``connections`` lets one neuron observe another input in place of one that it
        observes; one of ``neurons`` adds a copy of a neuron with one input changed, or drops the
        cluster's last neuron; one of ``bits`` gives every neuron of a cluster one more input, or
        takes one from each. Where clusters are bits, each gets its share of the moves and is
        judged by its own loss; under ``classes`` all clusters share one loss. That loss is in
        fixed point, so every backend keeps the same moves.

        Args:
            genome: Where to start; unchanged.
            bounds: What the refined genome must stay within.
            free: The dimensions that may change.
            steps: How many moves are tried, over all clusters.
            seed: Decides the moves: the same seed gives the same genome on every backend.
            moves: Under ``informed``, an input is proposed the more often the more it tells by
                itself of the cluster's target bit, and never if it does not vary; and a move must
                first make the loss no worse on an eighth of the examples. Under ``blind`` all
                inputs are proposed alike, and every move is tried on all examples.

        Returns:
            The refined genome, its neurons in best-first order, and its evaluation on
            ``fitness`` (whose ``neuron_order`` therefore leaves the neurons in place).

        Raises:
            InputError: If the genome does not fit the task or lies outside ``bounds``, the head
                is ``tokens``, or outputs have several clusters.
        """
        if self.task.head == "tokens":
            raise InputError("refine: the tokens head cannot; set refine_steps to 0")
        if self.task.clusters_per_output > 1:
            raise InputError(NOT_REFINED)
        self.check(genome)
        genome.check(bounds)
        if steps < 0:
            raise InputError(f"refine: {steps} steps; give 0 or more")
        if steps and free:
            reading = part_reading(self.task, self.memory, "fitness")
            job = Climb(
                task=self.task,
                cells=self.cells,
                reading=reading,
                temperature=self.temperature(genome),
                bounds=bounds,
                free=frozenset(free),
                steps=steps,
                seed=seed,
                sampled=moves == "informed",
                chances=self._chances(bounds, moves),
            )
            genome = Genome.of_clusters(
                self._climb(job, [genome.cluster(k) for k in range(genome.n_clusters)])
            )
        evaluation = self.evaluate(genome)
        order = np.arange(genome.n_neurons)
        return genome.reordered(evaluation.neuron_order), replace(evaluation, neuron_order=order)

    def query_votes(
        self, asked: Sequence[tuple[Cluster, Queries]], reading: Reading
    ) -> list[NDArray[np.int64]]:
        """Return what clusters vote on inputs that no example has, ``int64[Q]`` each.

        Backends may do it faster.
        """
        return [plain_query_votes(self, cluster, reading, queries) for cluster, queries in asked]

    def token_blocks(
        self, blocks: Sequence[tuple[Genome, int]], reading: Reading, temperature: float
    ) -> list[BlockTerms]:
        """Return what blocks of the ``tokens`` head add to the softmax; backends may be faster.

        Args:
            blocks: A genome and the block's first cluster; the neurons in the order of their
                hashes within each cluster.
            reading: Which examples write the memory and which are read.
            temperature: What outputs are divided by.
        """
        return [
            terms_of_votes(
                self,
                genome,
                first,
                reading,
                temperature,
                self.votes_here(clusters_of_block(genome, first), reading),
            )
            for genome, first in blocks
        ]

    def votes_here(self, clusters: Sequence[Cluster], reading: Reading) -> list[ClusterVotes]:
        """Do what :meth:`cluster_votes` does, in the thread that asks."""
        return self.cluster_votes(clusters, reading)

    def in_threads(
        self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], stop: Event
    ) -> list[Any]:
        """Return what ``function`` gives for every job; backends may use threads.

        Args:
            function: Called with the arguments of each job.
            jobs: The arguments.
            stop: Set if that is interrupted.
        """
        return [function(*job) for job in jobs]

    def check(self, genome: Genome) -> None:
        """Check that ``genome`` fits the task.

        Raises:
            InputError: If its clusters are not as many as the head needs, or it observes an
                input that the task does not have.
        """
        check_fits(genome, self.task)

    def positives(self, reading: Reading, cluster: int) -> NDArray[np.uint8]:
        """Return which of the examples read are positive ones of ``cluster``, ``uint8[E]``."""
        output = self.task.output_of(cluster)
        return self._flags(reading.name, reading.examples.targets, output)

    def trained_positives(self, reading: Reading, cluster: int) -> NDArray[np.uint8]:
        """Return the same of the examples that write the memory."""
        output = self.task.output_of(cluster)
        return self._flags("train", self.task.train.targets, output)[: reading.n_trained]

    def _flags(self, name: str, targets: NDArray[np.int64], output: int) -> NDArray[np.uint8]:
        if self.task.head == "tokens":  # too many outputs to look at every example for each
            return self.positives_by_token(name, targets)[output]
        key = ("positives", name, output)
        flags: NDArray[np.uint8] | None = self._known_flags.get(key)
        if flags is None:
            flags = heads.cluster_targets(
                self.task.head, self.task.n_head_outputs, targets, output
            )
            self._known_flags.put(key, flags)
        return flags

    def _n_positive(self, reading: Reading, cluster: int) -> int:
        key = reading.name, self.task.output_of(cluster)
        if key not in self._n_positives:
            self._n_positives[key] = int(np.count_nonzero(self.positives(reading, cluster)))
        return self._n_positives[key]

    def positives_by_token(self, name: str, targets: NDArray[np.int64]) -> TokenPositives:
        """Return which examples of a part have which target, given all targets; kept."""
        if name not in self._by_token:
            self._by_token[name] = TokenPositives(targets, self.task.n_clusters)
        return self._by_token[name]

    def trained_on(self, reading: Reading, cluster: int) -> NDArray[np.int64] | None:
        """Return the examples that write the memory of ``cluster``, ascending; ``None`` if all.

        With ``memory.negatives``, those are the positive ones and as many others as it says,
        less those drawn twice: ``mix64(mix64(seed) + cluster * negatives + i)`` modulo their
        number, for every ``i`` below ``negatives``.
        """
        negatives = self.memory.negatives
        if negatives is None:
            return None
        start = mix64(np.array([self.memory.sample_seed % 2**64], np.uint64))
        numbers = np.arange(cluster * negatives, (cluster + 1) * negatives, dtype=np.uint64)
        drawn = (mix64(start + numbers) % np.uint64(reading.n_trained)).astype(np.int64)
        by_token = self.positives_by_token("train", self.task.train.targets)
        positive = by_token.examples(cluster)
        return np.union1d(drawn, positive[positive < reading.n_trained])

    def _climb(self, job: Climb, wiring: list[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
        """Return the refined connections of every cluster; backends may do it faster."""
        return climb(job, wiring, self.cluster_votes)

    def _evaluate(
        self,
        genome: Genome,
        clusters: list[Cluster],
        votes: list[ClusterVotes],
        reading: Reading,
    ) -> Evaluation:
        targets = reading.examples.targets
        if self.task.head == "bits":
            terms = self._bit_terms(clusters, votes, reading)
            result = heads.bits_result(terms, targets, self.task.n_outputs)
        else:
            outputs = self._outputs(genome, votes)
            result = heads.classes_result(outputs, targets, self.temperature(genome))
        order = self._neuron_order(genome, clusters, votes, reading)
        return self._evaluation(result, order, reading)

    def _evaluation(
        self, result: heads.HeadResult, order: NDArray[np.int64], reading: Reading
    ) -> Evaluation:
        return Evaluation(
            cross_entropy=result.cross_entropy,
            accuracy=result.accuracy,
            neuron_order=order,
            cluster_losses=self._cluster_losses(result),
            n_examples=len(reading.examples),
        )

    def _evaluate_chained(
        self,
        found: Iterable[tuple[Genome, tuple[list[Cluster], list[ClusterVotes]]]],
        reading: Reading,
        greedy: bool,
    ) -> Iterator[Evaluation]:
        """Yield what genomes are worth; as many are searched together as fit a bounded room."""
        waiting: list[tuple[Chain, NDArray[np.int64]]] = []
        room_bytes = 0
        for genome, (clusters, votes) in found:
            chain = chain_of(self, clusters, votes, reading)
            waiting.append((chain, self._neuron_order(genome, clusters, votes, reading)))
            room_bytes += chain.nbytes
            if room_bytes >= self._finder.room_bytes:
                yield from self._search_chained(waiting, reading, greedy)
                waiting.clear()
                room_bytes = 0
        yield from self._search_chained(waiting, reading, greedy)

    def _search_chained(
        self, waiting: Sequence[tuple[Chain, NDArray[np.int64]]], reading: Reading, greedy: bool
    ) -> Iterator[Evaluation]:
        chains = [chain for chain, _ in waiting]
        if greedy:
            hits = [greedy_hits(chain.terms) for chain in chains]
        else:
            hits = exact_hits(self, chains, reading)
        for (chain, order), its_hits in zip(waiting, hits, strict=True):
            yield self._evaluation(chain.result(its_hits), order, reading)

    def _cluster_losses(self, result: heads.HeadResult) -> NDArray[np.float64] | None:
        """Return the loss of each cluster's bit, ``float64[K]``."""
        losses = result.bit_losses
        return losses if losses is None else np.repeat(losses, self.task.clusters_per_output)

    def _evaluate_tokens(self, genomes: Sequence[Genome], reading: Reading) -> list[Evaluation]:
        temperature = float(self.memory.temperature)
        return [
            self._evaluation(result, order, reading)
            for result, order in tokens_results(self, genomes, reading, temperature)
        ]

    def _bit_terms(
        self, clusters: list[Cluster], votes: list[ClusterVotes], reading: Reading
    ) -> list[heads.BitTerms]:
        """Return what every bit adds to the ``bits`` head; known ones are not computed."""
        per_bit = self.task.clusters_per_output
        bits, terms = outputs_of(clusters, per_bit), []
        for bit in bits:
            key = ("terms", reading.name, bit.key)
            known: heads.BitTerms | None = self.cache.get(key)
            if known is None:
                first = bit.index * per_bit
                sums = [its.sums for its in votes[first : first + per_bit]]
                total, n_neurons = self.cells.pooled(sums, bit.neurons)
                outputs = self.cells.outputs(total[None], np.array([n_neurons]))
                log_odds = heads.bit_log_odds(outputs[0], self.cells.log_odds)
                is_one = self.positives(reading, first) == 1
                digit = heads.size_digit(len(bits), self.task.n_outputs, bit.index)
                known = heads.bit_terms(log_odds, is_one, digit)
                self.cache.put(key, known)
            terms.append(known)
        return terms

    def _outputs(self, genome: Genome, votes: list[ClusterVotes]) -> NDArray[np.float64]:
        sums, neurons = self.cells.pooled_by_output(
            [its.sums for its in votes], genome.neurons.tolist(), self.task.clusters_per_output
        )
        return self.cells.outputs(sums, neurons)

    def temperature(self, genome: Genome) -> float:
        """Return what the ``classes`` head divides the outputs of ``genome`` by."""
        if self.memory.temperature != "fit":
            return float(self.memory.temperature)
        if self.task.head != "classes":
            return 1.0
        reading = self._temperature_reading
        outputs = self._outputs(genome, next(self._finder.votes([genome], reading))[1])
        return heads.fit_temperature(outputs, reading.examples.targets)

    def _chances(self, bounds: Bounds, moves: Moves) -> NDArray[np.int64]:
        if moves == "blind":
            return np.zeros((self.task.n_clusters, 0), np.int64)
        return chances(self._information, bounds.visible_inputs.tolist())

    @cached_property
    def _information(self) -> NDArray[np.float64]:
        """What each input tells each cluster."""
        return information(self.task)

    @cached_property
    def _temperature_reading(self) -> Reading:
        return temperature_reading(self.task, self.cells.counting)

    def _neuron_order(
        self,
        genome: Genome,
        clusters: list[Cluster],
        votes: list[ClusterVotes],
        reading: Reading,
    ) -> NDArray[np.int64]:
        """Return the neurons by cluster, then score, then hash: a function of content alone."""
        scores = self._scores(genome, clusters, votes, reading)
        order = np.lexsort((genome.neuron_hashes, -scores, genome.neuron_cluster))
        return order.astype(np.int64)

    def _scores(
        self,
        genome: Genome,
        clusters: list[Cluster],
        votes: list[ClusterVotes],
        reading: Reading,
    ) -> NDArray[np.float64]:
        """Return each neuron's mean vote for positive examples, less that for negative ones."""
        scores = np.empty(genome.n_neurons)
        n_examples = len(reading.examples)
        for k, cluster in enumerate(clusters):
            n_positive = self._n_positive(reading, k)
            negative, positive = self.cells.ranking_votes(votes[k].scores).T
            mean = positive / max(n_positive, 1) - negative / max(n_examples - n_positive, 1)
            scores[genome.cluster_starts[k] + cluster.order] = mean
        return scores


def check_fits(genome: Genome, task: Task) -> None:
    """Check that a genome fits a task; see :meth:`Evaluator.check`."""
    if genome.n_clusters != task.n_clusters:
        raise InputError(
            f"genome: it has {genome.n_clusters} clusters where task {task.name} needs "
            f"{task.n_clusters}; take one made for this task"
        )
    last = genome.connections[genome.offsets[1:] - 1]
    highest = int(last.max())
    if highest >= task.n_inputs:
        raise InputError(
            f"genome.connections: input {highest} is observed where task {task.name} "
            f"has {task.n_inputs}; take a genome made for this task"
        )
    if task.visible is not None:
        visible = np.asarray(task.visible)[genome.neuron_cluster]
        unseen = last >= visible
        if unseen.any():
            n = int(np.argmax(unseen))
            raise InputError(
                f"genome.connections: neuron {n} observes input {int(last[n])}, but its "
                f"cluster sees only {int(visible[n])}; take a genome made for this task"
            )
    most = int(added_up(genome.neurons.astype(np.int64), task.clusters_per_output).max())
    if most > MOST_NEURONS:
        unit = "one cluster" if task.clusters_per_output == 1 else "the clusters of one output"
        raise InputError(f"genome.neurons: {most} in {unit} is above {MOST_NEURONS}; lower it")


def usable_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
