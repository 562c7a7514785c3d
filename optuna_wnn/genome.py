"""The genome: how many RAM neurons each cluster has, how many bits, and which inputs they see."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from typing import Final
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError


Dimension = Literal["neurons", "bits", "connections"]
DIMENSIONS: Final[tuple[Dimension, ...]] = ("neurons", "bits", "connections")
MAX_BITS: Final = 128
HANDLE_BITS: Final = 44  # with 52, TPE divides by zero: a step of 1 drowns in the range

_FORMAT: Final = "optuna-wnn genome"
_VERSION: Final = 1
_MAX_FILE_BYTES: Final = 256 << 20  # of JSON text: about 30 million connections


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's finaliser of every value: a bijection that spreads all 64 bits.

    Reference: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA
    2014. Every backend repeats it in its own language, so it must never change.
    """
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def segment_indices(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``starts[0], starts[0]+1, …, starts[1], …``: the elements of many runs, in order."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    indices: NDArray[np.int64] = np.arange(total, dtype=np.int64)
    indices += np.repeat(starts - (ends - lengths), lengths)
    return indices


def _starts(lengths: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the offsets of consecutive runs, and their end: ``len(lengths) + 1`` numbers."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _frozen(values: Any, name: str) -> NDArray[np.int32]:
    try:
        array = np.asarray(values)
    except (OverflowError, ValueError):  # lists of unequal length
        array = np.zeros(())
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise InputError(f"genome.{name}: a flat array of integers is needed")
    if array.size and (array.min() < 0 or array.max() >= 2**31):
        raise InputError(f"genome.{name}: every value must be in [0, 2**31)")
    array = np.array(array, dtype=np.int32)
    array.setflags(write=False)
    return array


@dataclass(frozen=True)
class Bounds:
    """What a genome may look like.

    Attributes:
        n_clusters: ``K``, the number of clusters.
        n_inputs: ``B``, the number of input bits.
        neurons: Fewest and most neurons per cluster, inclusive.
        bits: Fewest and most bits per neuron, inclusive; at most 128.
        visible: Per cluster, how many of the inputs it may observe (cluster ``k`` sees inputs
            below ``visible[k]``); ``None`` lets every cluster see all of them.
        fields: How many fields the inputs begin with, and how many bits each has, the most
            significant first. Where it is given, variation knows them: neurons give up and take
            bits at the end of what they observe of a field. ``None`` treats all inputs alike.
    """

    n_clusters: int
    n_inputs: int
    neurons: tuple[int, int]
    bits: tuple[int, int]
    visible: tuple[int, ...] | None = None
    fields: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.n_clusters < 1 or self.n_inputs < 1:
            raise InputError("space: at least one cluster and one input bit are needed")
        for name, (low, high) in (("neurons", self.neurons), ("bits", self.bits)):
            if not 1 <= low <= high:
                raise InputError(
                    f"space.{name}: ({low}, {high}) is no range; give 1 <= lowest <= highest"
                )
        if self.bits[1] > MAX_BITS:
            raise InputError(
                f"space.bits: upper bound {self.bits[1]} is above {MAX_BITS}; lower it"
            )
        if self.visible is not None and len(self.visible) != self.n_clusters:
            raise InputError(
                f"space.visible: {len(self.visible)} numbers for {self.n_clusters} clusters"
            )
        if int(self.visible_inputs.max()) > self.n_inputs:
            raise InputError(
                f"space.visible: a cluster sees {int(self.visible_inputs.max())} inputs of "
                f"{self.n_inputs}"
            )
        fewest = int(self.visible_inputs.min())
        if self.fields is not None and not 0 < self.fields[0] * self.fields[1] <= fewest:
            raise InputError(
                f"space.fields: {self.fields[0]} of {self.fields[1]} bits are not among the "
                f"{fewest} inputs that every cluster sees"
            )
        if self.bits[1] > fewest:
            raise InputError(
                f"space.bits: upper bound {self.bits[1]} is above the {fewest} input bits that "
                f"a cluster can observe; lower it to {fewest}"
            )

    @cached_property
    def visible_inputs(self) -> NDArray[np.int32]:
        """How many inputs each cluster may observe, ``int32[K]``."""
        if self.visible is None:
            return np.full(self.n_clusters, self.n_inputs, np.int32)
        return np.asarray(self.visible, np.int32)


@dataclass(frozen=True, eq=False)
class Genome:
    """The wiring of a RAM network; immutable.

    The neurons of a cluster all have the same number of bits. Their order changes no result;
    after an evaluation it is best first, so the last neuron of a cluster is its worst.

    Attributes:
        neurons: Neurons per cluster, ``int32[K]``, each at least 1.
        bits: Bits per neuron of each cluster, ``int32[K]``, each in ``[1, 128]``.
        connections: The observed inputs, neuron after neuron, ``int32[C]`` with
            ``C = sum(neurons * bits)``; distinct and ascending within a neuron.

    Raises:
        InputError: If the arrays do not fit together.
    """

    neurons: NDArray[np.int32]
    bits: NDArray[np.int32]
    connections: NDArray[np.int32]

    def __post_init__(self) -> None:
        for name in DIMENSIONS:
            object.__setattr__(self, name, _frozen(getattr(self, name), name))
        if len(self.neurons) < 1 or len(self.neurons) != len(self.bits):
            raise InputError(
                f"genome: {len(self.neurons)} neuron counts and {len(self.bits)} bit counts; "
                "both need one number per cluster"
            )
        if self.neurons.min() < 1 or self.bits.min() < 1 or self.bits.max() > MAX_BITS:
            raise InputError(
                f"genome: every cluster needs at least 1 neuron and 1 to {MAX_BITS} bits"
            )
        expected = int(self.neurons.astype(np.int64) @ self.bits.astype(np.int64))
        if len(self.connections) != expected:
            raise InputError(
                f"genome.connections: {len(self.connections)} values where the neuron and bit "
                f"counts need {expected}"
            )
        gaps = np.diff(self.connections)
        gaps[self.offsets[1:-1] - 1] = 1  # from one neuron to the next anything goes
        if gaps.size and gaps.min() < 1:
            neuron = int(np.searchsorted(self.offsets, int(np.argmax(gaps < 1)), "right")) - 1
            raise InputError(
                f"genome.connections: those of neuron {neuron} are not distinct and ascending"
            )

    @classmethod
    def _trusted(
        cls,
        neurons: NDArray[np.int32],
        bits: NDArray[np.int32],
        connections: NDArray[np.int32],
    ) -> Genome:
        """Return a genome of arrays that are known to fit, without copying or checking them."""
        genome = cls.__new__(cls)
        for name, array in zip(DIMENSIONS, (neurons, bits, connections), strict=True):
            array.setflags(write=False)
            object.__setattr__(genome, name, array)
        return genome

    @classmethod
    def of_clusters(cls, clusters: Iterable[NDArray[np.integer[Any]]]) -> Genome:
        """Return the genome whose cluster ``k`` has the connections ``clusters[k]``.

        Args:
            clusters: Per cluster an array ``[neurons, bits]`` of inputs, in any order.
        """
        rows = [np.sort(np.asarray(c), axis=1) for c in clusters]
        return cls(
            np.array([r.shape[0] for r in rows], np.int32),
            np.array([r.shape[1] for r in rows], np.int32),
            np.concatenate([r.ravel() for r in rows]).astype(np.int32),
        )

    def __eq__(self, other: object) -> bool:
        """Return whether both are the same byte for byte, the order of neurons included."""
        return isinstance(other, Genome) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in DIMENSIONS
        )

    def __hash__(self) -> int:
        return self.handle

    def __repr__(self) -> str:
        return (
            f"Genome({self.n_clusters} clusters, {self.n_neurons} neurons, "
            f"{self.n_connections} connections, {self.digest[:12]})"
        )

    @property
    def n_clusters(self) -> int:
        """``K``, the number of clusters."""
        return len(self.neurons)

    @cached_property
    def n_neurons(self) -> int:
        """``N``, the number of neurons in all clusters together."""
        return int(self.neurons.sum(dtype=np.int64))

    @property
    def n_connections(self) -> int:
        """``C``, the number of connections of all neurons together."""
        return len(self.connections)

    @cached_property
    def n_cells(self) -> int:
        """The number of cells that all lookup tables have together."""
        counts = zip(self.neurons.tolist(), self.bits.tolist(), strict=True)
        return sum(neurons << bits for neurons, bits in counts)

    @cached_property
    def cluster_starts(self) -> NDArray[np.int64]:
        """First neuron of every cluster, and the end, ``int64[K + 1]``."""
        return _starts(self.neurons)

    @cached_property
    def neuron_cluster(self) -> NDArray[np.int32]:
        """The cluster of every neuron, ``int32[N]``."""
        return np.repeat(np.arange(self.n_clusters, dtype=np.int32), self.neurons)

    @cached_property
    def neuron_bits(self) -> NDArray[np.int32]:
        """The number of bits of every neuron, ``int32[N]``."""
        return np.repeat(self.bits, self.neurons)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """First connection of every neuron, and the end, ``int64[N + 1]``."""
        return _starts(self.neuron_bits)

    def cluster(self, k: int) -> NDArray[np.int32]:
        """Return the connections of cluster ``k``, ``int32[neurons[k], bits[k]]``, as a view."""
        first, last = self.cluster_starts[k], self.cluster_starts[k + 1]
        rows = self.connections[self.offsets[first] : self.offsets[last]]
        return rows.reshape(int(self.neurons[k]), int(self.bits[k]))

    @cached_property
    def neuron_hashes(self) -> NDArray[np.uint64]:
        """A hash of what every neuron observes, ``uint64[N]``."""
        mixed = mix64(self.connections.astype(np.uint64))
        return mix64(
            np.add.reduceat(mixed, self.offsets[:-1]) + self.neuron_bits.astype(np.uint64)
        )

    @cached_property
    def cluster_hashes(self) -> NDArray[np.uint64]:
        """A hash of what every cluster computes, ``uint64[K]``; blind to the neurons' order."""
        mixed = mix64(self.neuron_hashes)
        sums = np.add.reduceat(mixed, self.cluster_starts[:-1])
        return mix64(sums + self.neurons.astype(np.uint64))

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that name what the genome computes; blind to neuron order."""
        digest = hashlib.blake2b(self.cluster_hashes.astype("<u8").tobytes(), digest_size=16)
        return digest.hexdigest()

    @cached_property
    def handle(self) -> int:
        """The leading 44 bits of the digest, as shown by a trial's parameter ``genome``."""
        return int(self.digest[: HANDLE_BITS // 4], 16)

    @cached_property
    def checksum(self) -> str:
        """32 hexadecimal digits that name the genome byte for byte, neuron order included."""
        digest = hashlib.blake2b(digest_size=16)
        for name in DIMENSIONS:
            digest.update(getattr(self, name).astype("<i4").tobytes())
        return digest.hexdigest()

    def reordered(self, order: NDArray[np.integer[Any]]) -> Genome:
        """Return the same genome with its neurons in another order.

        Args:
            order: For every place the neuron that moves there, ``int[N]``; neurons stay in
                their cluster.

        Raises:
            ValueError: If a neuron is missing, or would leave its cluster.
        """
        placed = np.zeros(self.n_neurons, bool)
        placed[order] = True
        if not placed.all() or (self.neuron_cluster[order] != self.neuron_cluster).any():
            raise ValueError(
                "order: every neuron must be there once; neurons stay in their cluster"
            )
        picked = segment_indices(self.offsets[order], self.neuron_bits[order].astype(np.int64))
        return Genome._trusted(self.neurons, self.bits, self.connections[picked])

    def check(self, bounds: Bounds) -> None:
        """Check that the genome lies within ``bounds``.

        Raises:
            InputError: If it does not; the message names the first cluster that is outside.
        """
        if self.n_clusters != bounds.n_clusters:
            raise InputError(
                f"genome: it has {self.n_clusters} clusters where the task needs "
                f"{bounds.n_clusters}"
            )
        ranges = (("neurons", self.neurons, bounds.neurons), ("bits", self.bits, bounds.bits))
        for name, counts, (low, high) in ranges:
            outside = (counts < low) | (counts > high)
            if outside.any():
                k = int(np.argmax(outside))
                raise InputError(
                    f"genome.{name}: cluster {k} has {int(counts[k])}, outside [{low}, {high}]"
                )
        last = self.connections[self.offsets[1:] - 1]
        unseen = last >= bounds.visible_inputs[self.neuron_cluster]
        if unseen.any():
            n = int(np.argmax(unseen))
            raise InputError(
                f"genome.connections: neuron {n} observes input {int(last[n])}, but its cluster "
                f"sees only {int(bounds.visible_inputs[self.neuron_cluster[n]])}"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the genome to ``path`` as gzipped JSON, whole or not at all.

        Raises:
            InputError: If the file cannot be written there.
        """
        document: dict[str, Any] = {
            "format": _FORMAT,
            "version": _VERSION,
            "digest": self.digest,
            "checksum": self.checksum,
            **{name: getattr(self, name).tolist() for name in DIMENSIONS},
        }
        text = json.dumps(document, separators=(",", ":")).encode()
        write_atomically(Path(path), gzip.compress(text, mtime=0))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Genome:
        """Return the genome that :meth:`save` wrote to ``path``.

        Raises:
            InputError: If the file is missing, truncated, edited, or no genome at all.
        """
        remedy = "export the genome again"
        try:
            with gzip.open(path) as file:
                text = file.read(_MAX_FILE_BYTES + 1)
        except gzip.BadGzipFile as error:
            raise InputError(f"{path}: the file is no gzip file, or damaged; {remedy}") from error
        except (EOFError, zlib.error) as error:
            raise InputError(f"{path}: the file is truncated or damaged; {remedy}") from error
        except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{path}: no genome can be read there ({reason})") from error
        if len(text) > _MAX_FILE_BYTES:
            raise InputError(f"{path}: the file unpacks to over {_MAX_FILE_BYTES >> 20} MiB")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: the file is not JSON; {remedy}") from error
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise InputError(f"{path}: the file is not an optuna-wnn genome")
        if document.get("version") != _VERSION:
            raise InputError(
                f"{path}: format version {document.get('version')!r} is not {_VERSION}; "
                "use the optuna-wnn that wrote it"
            )
        try:
            arrays: list[Any] = [document.get(name) for name in DIMENSIONS]
            genome = cls(*arrays)
        except InputError as error:
            raise InputError(f"{path}: {error}; {remedy}") from error
        for name in ("checksum", "digest"):
            if document.get(name) != getattr(genome, name):
                raise InputError(f"{path}: the {name} does not fit the content; {remedy}")
        return genome


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either there whole or not there.

    A link is followed, and a device or a pipe is written to: neither is replaced by a file.

    Raises:
        InputError: If the file cannot be written there.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(content)
            return
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be written ({reason})") from error
