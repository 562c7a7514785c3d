"""What a task is: examples of packed input bits and targets, in three parts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from functools import cached_property
from typing import Any
from typing import Final
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.tasks.checks import whole_number


Head = Literal["classes", "bits", "chained_bits", "tokens"]
Part = Literal["train", "validation", "test"]
Codes = NDArray[np.integer[Any]]
PARTS: Final[tuple[Part, ...]] = ("train", "validation", "test")

_MOST_CLUSTERS: Final = 1 << 16  # of an output: as many neurons as it can have
_TURNED: Final = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)), bitorder="little")


def pack_bits(bits: NDArray[Any]) -> NDArray[np.uint64]:
    """Pack ``bool[E, B]`` into ``uint64[E, ceil(B / 64)]``: input ``i`` in bit ``i % 64``."""
    n_examples, n_inputs = bits.shape
    octets = np.zeros((n_examples, (n_inputs + 63) // 64 * 8), np.uint8)
    octets[:, : (n_inputs + 7) // 8] = np.packbits(bits, axis=1, bitorder="little")
    return octets.view("<u8").astype(np.uint64, copy=False)


def unpack_bits(inputs: NDArray[np.uint64], n_inputs: int) -> NDArray[np.uint8]:
    """Return the inverse of :func:`pack_bits`: ``uint8[E, B]`` of zeros and ones."""
    octets = np.ascontiguousarray(inputs).astype("<u8").view(np.uint8)
    return np.unpackbits(octets, axis=1, bitorder="little")[:, :n_inputs]


def add_codes(inputs: NDArray[np.uint64], start: int, codes: Codes, n_bits: int) -> None:
    """Write the bits of codes into packed inputs, most significant first.

    Args:
        inputs: ``uint64[E, words]``, changed: zeros where the bits are written.
        start: The input that the first bit becomes.
        codes: ``int[E]``, below ``2**n_bits``.
        n_bits: Bits of a code, 0 to 64.
    """
    if not n_bits:
        return
    # Inputs start at the least significant bit of a word, so every code is turned round.
    octets = np.ascontiguousarray(codes.astype("<u8")).view(np.uint8)
    turned = _TURNED[octets].reshape(-1, 8)[:, ::-1]
    bits = np.ascontiguousarray(turned).view("<u8").reshape(-1) >> np.uint64(64 - n_bits)
    word, shift = divmod(start, 64)
    inputs[:, word] |= bits << np.uint64(shift)
    if shift + n_bits > 64:
        inputs[:, word + 1] |= bits >> np.uint64(64 - shift)


@dataclass(frozen=True, eq=False)
class Examples:
    """Some examples of a task.

    Attributes:
        inputs: Packed input bits, ``uint64[E, ceil(B / 64)]``; input ``i`` is bit ``i % 64`` of
            word ``i // 64``.
        targets: What is to be predicted, ``int64[E]`` in ``[0, n_outputs)``.
    """

    inputs: NDArray[np.uint64]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class Task:
    """A problem that a RAM network is searched for.

    Attributes:
        name: What reports call it.
        head: What is predicted: ``classes`` has an output per class, ``bits`` and
            ``chained_bits`` one per bit of the target's code, ``tokens`` one per token.
        n_inputs: ``B``, the number of input bits. Under ``chained_bits`` the last ``U - 1`` are
            the target's own bits but the last, most significant first (see :func:`chained`).
        n_outputs: How many values a target can take: classes, or the size of the vocabulary.
        train: What writes the memory.
        validation: What guides the search.
        test: What only the final table reads.
        input_groups: How the inputs are laid out, for pictures: (positions, bits per position);
            the target's own bits do not count.
        baselines: Cross-entropy in nats per example that simple models reach on ``test``.
        picture: Height and width where positions are the pixels of pictures, line by line.
        clusters_per_output: How many clusters vote for each output of the head; their votes are
            added up. Each may have neurons of another width.

    Raises:
        InputError: If ``clusters_per_output`` is no whole number of at least 1, or above 1 under
            ``tokens``.
    """

    name: str
    head: Head
    n_inputs: int
    n_outputs: int
    train: Examples
    validation: Examples
    test: Examples
    input_groups: tuple[int, int]
    baselines: Mapping[str, float] = field(default_factory=dict)
    picture: tuple[int, int] | None = None
    clusters_per_output: int = 1

    def __post_init__(self) -> None:
        number = whole_number("clusters_per_output", self.clusters_per_output, 1)
        if number > _MOST_CLUSTERS:
            raise InputError(
                f"task.clusters_per_output: {number} is above {_MOST_CLUSTERS}; lower it"
            )
        if number > 1 and self.head == "tokens":
            raise InputError(
                "task.clusters_per_output: the tokens head has one cluster per token; leave it out"
            )
        object.__setattr__(self, "clusters_per_output", number)

    @property
    def n_head_outputs(self) -> int:
        """``U``, the number of outputs of the head: classes, tokens, or bits of a code."""
        if self.head in ("bits", "chained_bits"):
            return max(1, (self.n_outputs - 1).bit_length())
        return self.n_outputs

    @property
    def n_clusters(self) -> int:
        """``K``, the number of clusters that the head needs."""
        return self.n_head_outputs * self.clusters_per_output

    def output_of(self, cluster: int) -> int:
        """Return which output of the head a cluster votes for, in ``[0, U)``."""
        return cluster // self.clusters_per_output

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that name the examples of all three parts."""
        digest = hashlib.blake2b(digest_size=8)
        for part in (self.train, self.validation, self.test):
            digest.update(np.ascontiguousarray(part.inputs).astype("<u8").tobytes())
            digest.update(part.targets.astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def visible(self) -> tuple[int, ...] | None:
        """Per cluster the number of inputs that it may observe, or ``None`` for all.

        Under ``chained_bits`` a cluster sees the context and the target's bits before its own.
        """
        if self.head != "chained_bits":
            return None
        of_outputs = range(self.n_inputs - self.n_head_outputs + 1, self.n_inputs + 1)
        return tuple(n for n in of_outputs for _ in range(self.clusters_per_output))


def chained(task: Task) -> Task:
    """Return a task of the ``bits`` head as one of ``chained_bits``.

    The target's bits but the last, most significant first, are appended to the inputs. In this
    order the bits before one tell whether both of its values lead to codes below ``n_outputs``.
    """
    n_bits = task.n_head_outputs

    def appended(examples: Examples) -> Examples:
        words = -(-(task.n_inputs + n_bits - 1) // 64)
        inputs = np.zeros((len(examples), words), np.uint64)
        inputs[:, : examples.inputs.shape[1]] = examples.inputs
        add_codes(inputs, task.n_inputs, examples.targets >> 1, n_bits - 1)
        return Examples(inputs, examples.targets)

    train, validation, test = map(appended, (task.train, task.validation, task.test))
    return replace(
        task,
        head="chained_bits",
        n_inputs=task.n_inputs + n_bits - 1,
        train=train,
        validation=validation,
        test=test,
    )
