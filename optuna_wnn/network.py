"""A trained RAM network: a genome's wiring with the cells that training wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from dataclasses import replace
from functools import cached_property
from functools import partial
from threading import Event
from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.container import read_container
from optuna_wnn.container import write_container
from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators import predictions
from optuna_wnn.evaluators.base import Evaluator
from optuna_wnn.evaluators.base import check_fits
from optuna_wnn.evaluators.base import usable_processors
from optuna_wnn.evaluators.cells import Cells
from optuna_wnn.evaluators.cells import make_cells
from optuna_wnn.evaluators.chained import flip_bits
from optuna_wnn.evaluators.heads import BIT_HEADS
from optuna_wnn.evaluators.heads import HEADS
from optuna_wnn.evaluators.heads import bit_log_odds
from optuna_wnn.evaluators.heads import codes_of
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.tables import NeuronTable
from optuna_wnn.evaluators.tables import Tables
from optuna_wnn.evaluators.tables import plain_sums
from optuna_wnn.evaluators.tables import plain_table
from optuna_wnn.evaluators.tables import unwritten_vote
from optuna_wnn.genome import DIMENSIONS
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Codes
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Head
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.given import checked_targets
from optuna_wnn.tasks.given import n_context
from optuna_wnn.tasks.given import packed_inputs
from optuna_wnn.tasks.text import windows


MOST_CODES: Final = 1 << 13  # outcomes whose probabilities are listed where clusters are bits

_FORMAT: Final = "optuna-wnn network"
_VERSION: Final = 1
_DTYPES: Final[dict[str, tuple[str, ...]]] = {
    "neurons": ("<i4",),
    "bits": ("<i4",),
    "connections": ("<i4",),
    "votes": ("<i8",),
    "codes": ("|u1", "<u2"),
    "sizes": ("<i8",),
    "keys": ("<u8",),
}
_OF_TABLES: Final = ("votes", "codes", "sizes", "keys")
_VALUES_AT_ONCE: Final = 1 << 22  # numbers per example times examples that are held at a time
_RUN: Final = 8192  # examples whose votes become outputs at a time, in the cache
_LEAST_SHARE: Final = 1 << 13  # examples that are worth a thread

Block = Callable[[NDArray[np.uint64]], NDArray[Any]]


class RAMNetwork:
    """A RAM network that learns and predicts: what a search is for.

    Its probabilities are those that :meth:`Evaluator.evaluate` scores. Inputs are ``bool[E, B]``
    (or 0 and 1 of any integer type but ``uint64``), or packed, ``uint64[E, ceil(B / 64)]``:
    input ``i`` is bit ``i % 64`` of word ``i // 64``. Under ``chained_bits`` the last ``U - 1``
    inputs are the target's own bits: they may be left out, and are not read where they are given.

    Attributes:
        genome: The wiring.
        memory: What cells remember and how they vote.
        temperature: What the ``classes`` and ``tokens`` heads divide outputs by; known once
            the network is trained.
        n_trained: How many examples it was trained on; 0 before.

    Args:
        genome: The wiring.
        head: ``classes``, ``tokens``, ``bits`` or ``chained_bits``.
        n_inputs: ``B``, under ``chained_bits`` with the target's own ``U - 1`` bits.
        n_outputs: ``V``, how many values a target can take.
        memory: ``None`` takes the defaults.
        compiled: Whether compiled code is used, which loads numba; NumPy alone gives the same
            numbers, slower.
        threads: How many threads may work at once; ``None`` takes the processors that this
            process may use. No result depends on it.
        clusters_per_output: How many clusters vote for each of the head's ``U`` outputs.

    Raises:
        InputError: If the genome does not fit the head, the inputs or the outputs.
    """

    def __init__(
        self,
        genome: Genome,
        head: Head,
        n_inputs: int,
        n_outputs: int,
        memory: MemorySettings | None = None,
        *,
        compiled: bool = True,
        threads: int | None = None,
        clusters_per_output: int = 1,
    ) -> None:
        if head not in HEADS:
            raise InputError(f"network.head: {head!r} is not one of {', '.join(HEADS)}")
        if not (1 <= n_inputs < 2**31 and 1 <= n_outputs < 2**53):
            raise InputError(
                f"network: {n_inputs} inputs and {n_outputs} outputs are out of range; give 1 or "
                "more"
            )
        if threads is not None and threads < 1:
            raise InputError(f"network.threads: {threads} is below 1; give at least 1")
        none = Examples(np.zeros((0, -(-n_inputs // 64)), np.uint64), np.zeros(0, np.int64))
        self._task = Task(
            "network",
            head,
            n_inputs,
            n_outputs,
            none,
            none,
            none,
            input_groups=(1, n_inputs),
            clusters_per_output=clusters_per_output,
        )
        check_fits(genome, self._task)
        self.genome = genome
        self.memory = memory if memory is not None else MemorySettings()
        self.temperature = 1.0
        self.n_trained = 0
        self.compiled = compiled
        self.threads = threads
        self._tables: Tables | None = None

    @classmethod
    def for_task(
        cls, task: Task, genome: Genome, memory: MemorySettings | None = None, **options: Any
    ) -> RAMNetwork:
        """Return an untrained network for a task's inputs and outputs.

        Args:
            task: Says head, inputs and outputs; its examples are not read.
            genome: The wiring.
            memory: ``None`` takes the defaults.
            options: ``compiled`` and ``threads``.

        Raises:
            InputError: If the genome does not fit the task.
        """
        return cls(
            genome,
            task.head,
            task.n_inputs,
            task.n_outputs,
            memory,
            clusters_per_output=task.clusters_per_output,
            **options,
        )

    def __repr__(self) -> str:
        trained = f"trained on {self.n_trained}" if self.n_trained else "not trained"
        return f"RAMNetwork({self.head}, {self.genome}, {trained})"

    @property
    def head(self) -> Head:
        """How clusters make a prediction."""
        return self._task.head

    @property
    def n_inputs(self) -> int:
        """``B``, the number of input bits."""
        return self._task.n_inputs

    @property
    def n_outputs(self) -> int:
        """``V``, how many values a target can take."""
        return self._task.n_outputs

    @property
    def clusters_per_output(self) -> int:
        """How many clusters vote for each of the head's outputs."""
        return self._task.clusters_per_output

    @property
    def size_kib(self) -> float:
        """KiB that the trained cells take, in memory and in a file.

        A cell takes a byte, or two where cells vote in more than 256 ways; one that is listed
        by its address takes 16 bytes more. What votes mean is counted, wiring is not. Hardware
        needs less, where a cell is two bits: see :meth:`MemorySettings.kib`.
        """
        return self._trained.nbytes / 1024

    # -- training --------------------------------------------------------------------------------

    def fit(self, inputs: NDArray[Any], targets: NDArray[np.integer[Any]]) -> RAMNetwork:
        """Train on examples, in their order; what was learnt before is forgotten.

        Args:
            inputs: See the class.
            targets: ``int[E]``, each in ``[0, V)``.

        Returns:
            This network.

        Raises:
            InputError: If the examples do not fit the network, or each other.
        """
        words = packed_inputs(self._task, inputs)
        wanted = checked_targets(self._task, targets, len(words))
        if self.head == "chained_bits":
            flip_bits(words, wanted >> 1, self._task.n_head_outputs - 1, self._task)
        train = Examples(words, wanted)
        evaluator = create_evaluator(
            replace(self._task, train=train),
            self.memory,
            backend="cpu" if self.compiled else "reference",
            threads=self.threads,
            cache_bytes=0,
        )
        if self.memory.vote == "calibrated":
            evaluator = evaluator.calibrated(self.genome)
        self.temperature = evaluator.temperature(self.genome)
        self._tables = self._trained_tables(evaluator, Reading("train", len(train), train))
        self.n_trained = len(train)
        for known in ("_sums", "_cells"):
            self.__dict__.pop(known, None)  # of what was learnt before
        return self

    def _trained_tables(self, evaluator: Evaluator, reading: Reading) -> Tables:
        table: Any = plain_table
        if self.compiled:
            from optuna_wnn.evaluators.table_kernels import compiled_table

            table = compiled_table

        def some(first: int, last: int) -> list[NeuronTable]:
            return [table(evaluator, self.genome, reading, n) for n in range(first, last)]

        n_neurons = self.genome.n_neurons
        step = max(1, n_neurons // (8 * evaluator.threads))
        jobs = [(n, min(n + step, n_neurons)) for n in range(0, n_neurons, step)]
        parts = evaluator.in_threads(some, jobs, Event())
        tables = [table for part in parts for table in part]
        return Tables.joined(tables, unwritten_vote(evaluator))

    # -- prediction ------------------------------------------------------------------------------

    def predict(self, inputs: NDArray[Any]) -> NDArray[np.int64]:
        """Return the most probable target of every example, ``int64[E]``; of several the lowest.

        Args:
            inputs: See the class.

        Raises:
            InputError: If the inputs do not fit, the network is not trained, or it has the head
                ``chained_bits`` and more than 8,192 outcomes.
        """
        if self.head == "chained_bits":
            self._check_listed()
            return self._by_block(
                inputs, self.n_outputs, lambda block: self._log_probabilities(block).argmax(axis=1)
            )
        width = self._task.n_head_outputs
        if self.head == "bits":
            return self._by_block(inputs, width, self._best_codes)
        return self._by_block(inputs, width, lambda block: self._outputs(block).argmax(axis=0))

    def predict_proba(self, inputs: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probability of every target, ``float64[E, V]``; rows sum to 1.

        Args:
            inputs: See the class.

        Raises:
            InputError: If the inputs do not fit, the network is not trained, or clusters are bits
                and there are more than 8,192 outcomes.
        """
        self._check_listed()
        return self._by_block(inputs, self.n_outputs, self._probabilities)

    def predict_log_proba(self, inputs: NDArray[Any]) -> NDArray[np.float64]:
        """Return the natural logarithms of :meth:`predict_proba`, exact where that is 0."""
        self._check_listed()
        return self._by_block(inputs, self.n_outputs, self._log_probabilities)

    def predict_bits(self, inputs: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probability that each bit of the target is 1, ``float64[E, U]``.

        The most significant bit comes first. They are those of the ``bits`` head before codes
        that are no targets are left out.

        Args:
            inputs: See the class.

        Raises:
            InputError: If the head is not ``bits``, the inputs do not fit, or the network is not
                trained.
        """
        if self.head != "bits":
            raise InputError(
                f"network.predict_bits: only the bits head has them, not {self.head}; take "
                "predict_proba"
            )
        width = self._task.n_head_outputs
        return self._by_block(
            inputs, width, lambda block: 1 / (1 + np.exp(-self._log_odds(block).T))
        )

    def generate(
        self,
        prompt: NDArray[np.integer[Any]],
        n: int,
        *,
        temperature: float = 1.0,
        seed: int = 0,
        seen: Codes | None = None,
    ) -> NDArray[np.int64]:
        """Return what may follow a text, target after target, ``int64[n]``.

        Each is drawn by its probability, and then is part of what the next one is predicted
        from. Inputs are those of the text tasks: the codes of the tokens before, oldest first.

        Args:
            prompt: Targets to begin with, ``int[L]`` in ``[0, V)``; the last ones are seen.
            n: How many to generate.
            temperature: Log-probabilities are divided by it; above 1 makes rare targets commoner,
                and 0 always takes the most probable one. Under ``chained_bits`` this is done bit
                by bit.
            seed: What the draws derive from.
            seen: The code of every target as an input, ``int64[V]``; the target itself by
                default. See :func:`optuna_wnn.tasks.text.text_code`.

        Raises:
            InputError: If the network is none of text, it is not trained, or the prompt is too
                short or has other targets.
        """
        width = max(1, (self.n_outputs - 1).bit_length())
        context, rest = divmod(n_context(self._task), width)
        if self.head == "classes" or rest or not context:
            raise InputError(
                "network.generate: its inputs are not the codes of targets; it needs the network "
                "of a text"
            )
        if n < 0 or not 0 <= temperature < np.inf:
            raise InputError(
                f"network.generate: n is {n} and temperature {temperature}; both must be 0 or more"
            )
        given = np.asarray(prompt)
        if given.ndim != 1 or given.dtype.kind not in "iu" or len(given) < context:
            raise InputError(
                f"network.generate: the prompt has {given.size} targets, and {context} are seen; "
                "give more"
            )
        if given.min() < 0 or given.max() >= self.n_outputs:
            raise InputError(f"network.generate: the prompt is not all in [0, {self.n_outputs})")
        rng = np.random.default_rng(seed)
        targets = np.zeros(context + n, np.int64)
        targets[:context] = given[-context:]
        for i in range(n):
            window = windows(targets[i : i + context + 1], context, width, seen).inputs
            words = packed_inputs(self._task, window)
            targets[context + i] = self._drawn(words, temperature, rng)
        return targets[context:]

    def _drawn(
        self, words: NDArray[np.uint64], temperature: float, rng: np.random.Generator
    ) -> int:
        """Return a target drawn by the probabilities of one example."""
        if self.head == "chained_bits":
            n_bits = self._task.n_head_outputs

            def log_odds(bit: int, prefix: int) -> float:
                asked = words.copy()
                flip_bits(asked, np.array([prefix]), bit, self._task)
                return float(self._log_odds(asked, bit, bit + 1)[0, 0])

            return predictions.drawn_chain(log_odds, n_bits, self.n_outputs, temperature, rng)
        if not temperature:
            return int(self.predict(words)[0])
        if self.head == "bits":
            odds = self._log_odds(words)[:, 0] / temperature
            return predictions.drawn_code(odds, self.n_outputs, rng)
        return predictions.drawn(self._log_probabilities(words)[0] / temperature, rng)

    @property
    def lists_probabilities(self) -> bool:
        """Whether :meth:`predict_proba` can list the probabilities of all targets."""
        return self.head not in BIT_HEADS or self.n_outputs <= MOST_CODES

    def _check_listed(self) -> None:
        if not self.lists_probabilities:
            others = " or predict_bits" if self.head == "bits" else ""
            instead = f"; take predict{others}" if others else ""
            raise InputError(
                f"network: probabilities of {self.n_outputs} outcomes are too many to list under "
                f"{self.head} (most: {MOST_CODES}){instead}"
            )

    def _best_codes(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        n_bits = self._task.n_head_outputs
        if self.n_outputs == 1 << n_bits:  # each bit for itself
            codes = np.empty(len(words), np.int64)
            for run, sums, neurons in self._runs(words, range(n_bits)):
                codes[run] = codes_of([*self._cells.says_yes(sums, neurons)])
            return codes
        return predictions.most_probable_codes(self._log_odds(words), self.n_outputs)

    def _log_probabilities(self, words: NDArray[np.uint64]) -> NDArray[np.float64]:
        if self.head == "bits":
            return predictions.bit_log_probabilities(self._log_odds(words), self.n_outputs)
        if self.head == "chained_bits":
            n_bits = self._task.n_head_outputs

            def log_odds_after(bit: int, n_prefixes: int) -> NDArray[np.float64]:
                asked = np.repeat(words, n_prefixes, axis=0)
                prefixes = np.tile(np.arange(n_prefixes), len(words))
                flip_bits(asked, prefixes, bit, self._task)
                return self._log_odds(asked, bit, bit + 1).reshape(len(words), n_prefixes)

            return predictions.chained_log_probabilities(
                log_odds_after, len(words), n_bits, self.n_outputs
            )
        return predictions.class_log_probabilities(self._outputs(words), self.temperature)

    def _probabilities(self, words: NDArray[np.uint64]) -> NDArray[np.float64]:
        if self.head in BIT_HEADS:
            return np.exp(self._log_probabilities(words))
        return predictions.class_probabilities(self._outputs(words), self.temperature)

    def _log_odds(
        self, words: NDArray[np.uint64], first: int = 0, last: int | None = None
    ) -> NDArray[np.float64]:
        """Return the log-odds that some bits are 1, ``float64[bits, E]``."""
        return bit_log_odds(self._outputs(words, first, last), self._cells.log_odds)

    def _outputs(
        self, words: NDArray[np.uint64], first: int = 0, last: int | None = None
    ) -> NDArray[np.float64]:
        """Return what some of the head's outputs are, ``float64[outputs, E]``."""
        which = range(first, self._task.n_head_outputs if last is None else last)
        outputs = np.empty((len(which), len(words)))
        for run, sums, neurons in self._runs(words, which):
            outputs[:, run] = self._cells.outputs(sums, neurons)
        return outputs

    def _runs(
        self, words: NDArray[np.uint64], outputs: range
    ) -> Iterator[tuple[slice, NDArray[Any], NDArray[np.int64]]]:
        """Yield the pooled votes for some of the head's outputs, some examples at a time."""
        per_output = self.clusters_per_output
        clusters = range(outputs.start * per_output, outputs.stop * per_output)
        sums = self._sums(clusters, words)
        neurons = self.genome.neurons[clusters.start : clusters.stop].tolist()
        for start in range(0, len(words), _RUN):
            run = slice(start, start + _RUN)
            yield run, *self._cells.pooled_by_output([*sums[:, run]], neurons, per_output)

    @property
    def _trained(self) -> Tables:
        if self._tables is None:
            raise InputError("network: it is not trained yet; call fit first")
        return self._tables

    @cached_property
    def _cells(self) -> Cells:
        return make_cells(self.memory, self.head, self.n_outputs, self.n_trained)

    @cached_property
    def _sums(self) -> Callable[[range, NDArray[np.uint64]], NDArray[np.int64]]:
        tables = self._trained
        if self.compiled:
            from optuna_wnn.evaluators.table_kernels import TableReader

            return TableReader(tables, self.genome).sums
        return partial(plain_sums, tables, self.genome, self.n_inputs)

    def _by_block(self, inputs: NDArray[Any], width: int, function: Block) -> NDArray[Any]:
        """Return what a function gives for all examples, some of them at a time."""
        words = packed_inputs(self._task, inputs)
        _ = self._sums, self._cells  # made once, before threads need them
        n_threads = self.threads or usable_processors()
        share = max(-(-len(words) // n_threads), _LEAST_SHARE)  # large: tables stay in the cache
        step = min(max(_VALUES_AT_ONCE // (width * self.clusters_per_output), 1), share)
        blocks = [words[first : first + step] for first in range(0, max(len(words), 1), step)]
        n_threads = min(n_threads, len(blocks))
        if n_threads == 1:
            return np.concatenate([function(block) for block in blocks])
        with ThreadPoolExecutor(n_threads) as pool:
            return np.concatenate(list(pool.map(function, blocks)))

    # -- files -----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trained network to ``path``, whole or not at all.

        The format is described in ``docs/reference/models.md``.

        Raises:
            InputError: If it is not trained, or the file cannot be written there.
        """
        tables = self._trained
        header: dict[str, Any] = {
            "format": _FORMAT,
            "version": _VERSION,
            "head": self.head,
            "n_inputs": self.n_inputs,
            "n_outputs": self.n_outputs,
            "n_trained": self.n_trained,
            "temperature": self.temperature,
            "memory": asdict(self.memory),
        }
        if self.clusters_per_output > 1:  # else the file is as it was before there were several
            header["clusters_per_output"] = self.clusters_per_output
        arrays: dict[str, NDArray[Any]] = {
            **{name: getattr(self.genome, name) for name in DIMENSIONS},
            **{name: getattr(tables, name) for name in _OF_TABLES},
        }
        write_container(path, header, arrays)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        compiled: bool = True,
        threads: int | None = None,
    ) -> RAMNetwork:
        """Return the network that :meth:`save` wrote to ``path``.

        Args:
            path: The file.
            compiled: See the class.
            threads: See the class.

        Raises:
            InputError: If the file is missing, truncated, edited, or no network at all.
        """
        header, arrays = read_container(path, _FORMAT, _VERSION, _DTYPES)
        try:
            numbers = [header[name] for name in ("n_inputs", "n_outputs", "n_trained")]
            if not all(type(n) is int and 0 < n < 2**53 for n in numbers):
                raise InputError("a number of inputs, outputs or examples is out of range")
            if not arrays["neurons"].sum(dtype=np.float64) <= len(arrays["connections"]):
                raise InputError("there are more neurons than connections")
            genome = Genome(*(arrays[name] for name in DIMENSIONS))
            memory = MemorySettings(**header["memory"])
            n_inputs, n_outputs, n_trained = numbers
            network = cls(
                genome,
                header["head"],
                n_inputs,
                n_outputs,
                memory,
                compiled=compiled,
                threads=threads,
                clusters_per_output=header.get("clusters_per_output", 1),
            )
            network.n_trained = n_trained
            network.temperature = float(header["temperature"])
            if not 0 < network.temperature < float("inf"):
                raise InputError(f"temperature: {network.temperature} is not above 0")
            tables = Tables(**{name: arrays[name] for name in _OF_TABLES})
            tables.check(genome)
            network._tables = tables
            _ = network._cells
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{path}: {error}; export the model again") from error
        return network
