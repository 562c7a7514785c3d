"""Genomes as compact text: counts, references to the parents' neurons, and gaps; compressed."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
import zstandard

from optuna_wnn.genome import Genome
from optuna_wnn.genome import segment_indices


MOST_CONNECTIONS: Final = 1 << 24  # of a genome that is stored
_MOST_RAW: Final = 1 << 26  # bytes of one before compression


def to_bytes(genome: Genome, parents: Sequence[Genome]) -> bytes:
    """Return the genome as bytes: its counts, which neurons are a parent's, and the others.

    A neuron that a parent has as well is a reference into the parents' neurons, one after the
    other, written as the distance from the reference before; inherited runs are then runs of
    ones. Any other neuron is its first input and the gaps after it.
    """
    references = np.full(genome.n_neurons, -1, np.int64)
    if parents:
        pool = np.concatenate([parent.neuron_hashes for parent in parents])
        order = np.argsort(pool, kind="stable")
        at = np.searchsorted(pool[order], genome.neuron_hashes).clip(max=len(pool) - 1)
        found = pool[order[at]] == genome.neuron_hashes
        references = np.where(found, order[at], -1)
    distances = np.diff(references, prepend=-1).astype("<i4").view("u1").reshape(-1, 4)
    gaps = np.diff(genome.connections, prepend=np.int32(0))
    gaps[genome.offsets[:-1]] = genome.connections[genome.offsets[:-1]]
    gaps = gaps[np.repeat(references < 0, genome.neuron_bits)]
    width = np.min_scalar_type(int(genome.connections.max())).itemsize
    head = struct.pack("<BIB", 1, genome.n_clusters, width)
    counts = genome.neurons.astype("<u4").tobytes() + genome.bits.astype("u1").tobytes()
    return head + counts + distances.T.tobytes() + gaps.astype(f"<u{width}").tobytes()


def from_bytes(raw: bytes, parents: Sequence[Genome]) -> Genome:
    """Return the inverse of :func:`to_bytes`.

    Raises:
        ValueError: If the bytes are no genome.
    """
    try:
        version, n_clusters, width = struct.unpack_from("<BIB", raw)
        if version != 1 or width not in (1, 2, 4):
            raise ValueError("unknown format")
        at = struct.calcsize("<BIB")
        neurons = np.frombuffer(raw, "<u4", n_clusters, at).astype(np.int64)
        bits = np.frombuffer(raw, "u1", n_clusters, at + 4 * n_clusters).astype(np.int64)
        at, n_neurons = at + 5 * n_clusters, int(neurons.sum())
        if at + 4 * n_neurons > len(raw):
            raise ValueError("it is cut short")
        if int(neurons @ bits) > MOST_CONNECTIONS:
            raise ValueError("it claims too many connections")
        planes = np.frombuffer(raw, "u1", 4 * n_neurons, at).reshape(4, n_neurons)
        references = np.cumsum(np.ascontiguousarray(planes.T).view("<i4").ravel()) - 1
        gaps = np.frombuffer(raw, f"<u{width}", -1, at + 4 * n_neurons).astype(np.int64)
        lengths = np.repeat(bits, neurons)
        literal = references < 0
        ends = np.cumsum(lengths[literal])
        if (ends[-1] if len(ends) else 0) != len(gaps):
            raise ValueError("lengths do not fit")
        connections = np.empty(int(lengths.sum()), np.int64)
        starts = np.cumsum(lengths) - lengths
        sums = np.cumsum(gaps)
        before = (sums - gaps)[ends - lengths[literal]]
        connections[segment_indices(starts[literal], lengths[literal])] = sums - np.repeat(
            before, lengths[literal]
        )
        if not literal.all():
            pool = np.concatenate([parent.connections for parent in parents])
            pool_lengths = np.concatenate([parent.neuron_bits for parent in parents])
            pool_starts = np.cumsum(pool_lengths) - pool_lengths
            inherited = references[~literal]
            connections[segment_indices(starts[~literal], lengths[~literal])] = pool[
                segment_indices(pool_starts[inherited], lengths[~literal])
            ]
        return Genome(*(a.astype(np.int32) for a in (neurons, bits, connections)))
    except (struct.error, ValueError, IndexError) as error:
        raise ValueError(f"stored genome: {error}") from error


def pack(genome: Genome, parents: Sequence[Genome]) -> str:
    """Return the genome as base64 text, as a difference from ``parents`` if there are any."""
    raw = to_bytes(genome, parents)
    packer = zstandard.ZstdCompressor(level=9 if len(raw) < 1 << 20 else 3)
    return base64.b64encode(packer.compress(raw)).decode()


def unpack(text: str, parents: Sequence[Genome]) -> Genome:
    """Return the inverse of :func:`pack`.

    Raises:
        ValueError: If the text is no genome, or claims to be a giant one.
    """
    try:
        packed = base64.b64decode(text, validate=True)
        if not 0 <= zstandard.frame_content_size(packed) <= _MOST_RAW:
            raise ValueError(f"stored genome: it claims more than {_MOST_RAW >> 20} MiB")
        return from_bytes(zstandard.ZstdDecompressor().decompress(packed), parents)
    except (binascii.Error, zstandard.ZstdError) as error:
        raise ValueError(f"stored genome: {error}") from error
