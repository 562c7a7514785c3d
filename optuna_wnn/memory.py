"""How a RAM neuron remembers and votes: the settings that every backend obeys."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated
from typing import Any
from typing import Final
from typing import Literal
from typing import get_args

from pydantic import Strict

from optuna_wnn.errors import InputError
from optuna_wnn.genome import Genome


MemoryMode = Literal["wisard", "ternary", "quad_binary", "quad_weighted", "frequency"]
Vote = Literal["mean", "log_odds", "confidence", "calibrated"]
FitnessOn = Literal["validation", "leave_one_out", "leave_block_out"]
Accuracy = Literal["exact", "greedy"]

# In a file, '0.5' is a text and true is no number; pydantic would take both.
Real = Annotated[float, Strict()]
Whole = Annotated[int, Strict()]

# What a cell takes when the trained network is stored: three or four states, or a byte of counts.
_CELL_BITS: Final[dict[MemoryMode, int]] = {
    "wisard": 2,
    "ternary": 2,
    "quad_binary": 2,
    "quad_weighted": 2,
    "frequency": 8,
}
_DENSE_BITS: Final = 22  # up to here a neuron has a cell for every address


_A_NUMBER: Final = numbers.Real, "a number"
_A_WHOLE_NUMBER: Final = numbers.Integral, "a whole number"
_NUMBERS: Final[dict[str, tuple[type[Any], str]]] = {
    **dict.fromkeys(("empty_value", "prior", "sample_rate", "temperature"), _A_NUMBER),
    **dict.fromkeys(("sample_seed", "blocks", "negatives"), _A_WHOLE_NUMBER),
}


def _is_temperature(value: float | str) -> bool:
    return value == "fit" or 0 < float(value) < math.inf


@dataclass(frozen=True)
class MemorySettings:
    """What a cell holds, how it votes, and which examples the fitness is measured on.

    Attributes:
        mode: What training writes into a cell.
        vote: How the votes of a cluster's neurons become its output; all but ``mean`` need
            ``frequency`` cells.
        empty_value: Vote of a ``wisard`` or ``ternary`` cell that no training reached, in [0, 1].
        prior: Pseudo-examples that every ``frequency`` cell starts with where the vote is not
            ``mean``.
        sample_rate: Probability that a neuron is trained on an example, in (0, 1].
        sample_seed: What decides which examples those are.
        temperature: What the ``classes`` and ``tokens`` heads divide the outputs by before the
            softmax; ``fit`` chooses it on a slice of the training data.
        fitness_on: Whether the search is guided by the validation part, or by the training part
            with each example, or each block of examples, left out of its own memory.
        blocks: Number of blocks of ``leave_block_out``.
        negatives: How many training examples, drawn by ``sample_seed``, each cluster of the
            ``tokens`` head is trained on besides its own; ``None`` takes all.
        accuracy: What the accuracy of the fitness is under ``chained_bits``: ``exact`` is the
            share of targets that are the most probable code of all, ``greedy`` of those that one
            gets by taking the more probable value of each bit in turn, at next to no cost.

    Raises:
        InputError: If a value is out of range or two do not go together.
    """

    mode: MemoryMode = "frequency"
    vote: Vote = "confidence"
    empty_value: Real = 0.0
    prior: Real = 0.8
    sample_rate: Real = 1.0
    sample_seed: Whole = 0
    temperature: Real | Literal["fit"] = 1.0
    fitness_on: FitnessOn = "validation"
    blocks: Whole = 8
    negatives: Whole | None = None
    accuracy: Accuracy = "exact"

    def __post_init__(self) -> None:
        choices = (
            ("mode", self.mode, get_args(MemoryMode)),
            ("vote", self.vote, get_args(Vote)),
            ("fitness_on", self.fitness_on, get_args(FitnessOn)),
            ("accuracy", self.accuracy, get_args(Accuracy)),
        )
        for name, value, known in choices:
            if value not in known:
                raise InputError(f"memory.{name}: {value!r} is not one of {', '.join(known)}")
        if self.vote != "mean" and self.mode != "frequency":
            raise InputError(
                f"memory.vote: {self.vote} needs mode: frequency, not {self.mode}; use vote: mean"
            )
        if self.vote == "calibrated" and self.sample_rate != 1:
            raise InputError(
                f"memory.sample_rate: the calibrated vote needs 1, not {self.sample_rate}"
            )
        if self.fitness_on != "validation" and self.mode not in ("frequency", "ternary"):
            raise InputError(
                f"memory.fitness_on: {self.fitness_on} needs cells that count (mode: frequency "
                f"or ternary), not {self.mode}"
            )
        for name, (kind, words) in _NUMBERS.items():
            value = getattr(self, name)
            is_word = (name, value) in (("temperature", "fit"), ("negatives", None))
            if not is_word and (isinstance(value, bool) or not isinstance(value, kind)):
                raise InputError(f"memory.{name}: {words} is needed (it is {value!r})")
        ranges = (
            ("empty_value", 0 <= self.empty_value <= 1, "in [0, 1]"),
            ("prior", 0 < self.prior < math.inf, "above 0"),
            ("sample_rate", 0 < self.sample_rate <= 1, "in (0, 1]"),
            ("temperature", _is_temperature(self.temperature), "above 0, or fit"),
            ("blocks", self.blocks >= 2, "at least 2"),
            ("negatives", self.negatives is None or self.negatives >= 0, "0 or more"),
        )
        for name, holds, wanted in ranges:
            if not holds:
                raise InputError(f"memory.{name}: {getattr(self, name)} is not {wanted}")

    def kib(self, genome: Genome, n_trained: int | None = None) -> float:
        """Return the size of the trained network's tables in KiB, connections not counted.

        Args:
            genome: What is trained.
            n_trained: On how many examples. Neurons of more than 22 bits list the cells that
                these address, so they have no more; ``None`` takes every address for a cell.
        """
        return self.kib_of(genome.neurons.tolist(), genome.bits.tolist(), n_trained)

    def kib_of(
        self, neurons: Iterable[int], bits: Iterable[int], n_trained: int | None = None
    ) -> float:
        """Return the same of clusters with so many neurons, of so many bits."""
        cells = sum(
            n * (1 << b if b <= _DENSE_BITS or n_trained is None else min(1 << b, n_trained))
            for n, b in zip(neurons, bits, strict=True)
        )
        return cells * _CELL_BITS[self.mode] / 8192
