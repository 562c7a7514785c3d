"""How a genome is written as text: base64 in pieces, or as a difference from its parents."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn import packing
from optuna_wnn.errors import InputError
from optuna_wnn.genome import HANDLE_BITS
from optuna_wnn.genome import Genome


_GENOME: Final = "wnn:genome"
_VERSION: Final = "1"
_HEX: Final = re.compile("[0-9a-f]{32}")
_LOSSES: Final = "|"  # between a genome's text and its clusters' losses
_PIECE: Final = 59_900  # bytes of one attribute, less what JSON and the count of pieces add
_ALONE: Final = 6_000  # bytes of base64 up to which a genome is stored without its parents
MOST_DEPTH: Final = 16  # a genome this far from one stored alone is stored alone as well
_SURELY_LARGE: Final = 16_000  # connections from which on no genome fits into _ALONE


@dataclass(frozen=True)
class Header:
    """What stands before a stored genome's bytes.

    Attributes:
        pieces: How many attributes the genome takes.
        depth: How many trials lie between it and one that is stored alone.
        parents: Numbers of the trials that it is stored as a difference from.
        digest: The genome's digest.
        checksum: The genome's checksum.
        text: The first piece of the bytes.
    """

    pieces: int
    depth: int
    parents: tuple[int, ...]
    digest: str
    checksum: str
    text: str


def encoded(genome: Genome, parents: Sequence[tuple[int, int, Genome]]) -> str:
    """Return the text of a genome; ``parents`` are (number, depth, genome) of each."""
    if genome.n_connections > packing.MOST_CONNECTIONS:
        raise InputError(
            f"genome: {genome.n_connections} connections are too many to store; the most are "
            f"{packing.MOST_CONNECTIONS}"
        )
    text, names, depth = "", "", 0
    deepest = max((depth for _, depth, _ in parents), default=0)
    related = bool(parents) and deepest < MOST_DEPTH
    if not related or genome.n_connections < _SURELY_LARGE:
        text = packing.pack(genome, ())
    if related and not 0 < len(text) <= _ALONE:
        text = packing.pack(genome, [parent for _, _, parent in parents])
        names, depth = ",".join(str(number) for number, _, _ in parents), deepest + 1
    return ":".join((_VERSION, str(depth), names, genome.digest, genome.checksum, text))


def read_header(attributes: Mapping[str, Any], where: str) -> Header | None:
    first = attributes.get(_GENOME)
    if first is None:
        return None
    try:
        count, first = first.split("|", 1)
        version, depth, names, digest, checksum, text = first.split(":")
        if version != _VERSION:
            raise ValueError(f"version {version}")
        if not (_HEX.fullmatch(digest) and _HEX.fullmatch(checksum)):
            raise ValueError("no digest")
        parents = tuple(int(name) for name in names.split(",") if name)
        if not 0 <= int(depth) <= MOST_DEPTH or bool(parents) != (int(depth) > 0):
            raise ValueError(f"depth {depth}")
        return Header(int(count), int(depth), parents, digest, checksum, text)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{where}: the stored genome is damaged, or of another version ({error}); use the "
            "optuna-wnn that wrote it"
        ) from error


def decoded(
    header: Header, attributes: Mapping[str, Any], parents: Sequence[Genome], where: str
) -> Genome:
    """Return the genome that a trial's attributes hold."""
    try:
        text, _, _ = _joined(header, attributes).partition(_LOSSES)
        genome = packing.unpack(text, parents)
    except KeyError as error:
        raise InputError(f"{where}: a piece of the stored genome is missing") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}; the storage is damaged") from error
    for name in ("digest", "checksum"):
        if getattr(genome, name) != getattr(header, name):
            raise InputError(f"{where}: the stored genome does not fit its {name}")
    return genome


def _joined(header: Header, attributes: Mapping[str, Any]) -> str:
    pieces = (attributes[f"{_GENOME}:{i}"] for i in range(1, header.pieces))
    return "".join([header.text, *pieces])


def pieces_of(text: str, losses: NDArray[np.float64] | None = None) -> dict[str, str]:
    """Return the attributes that hold a genome's text, and the loss of each of its clusters.

    The first tells how many there are.
    """
    if losses is not None:
        text += _LOSSES + base64.b64encode(losses.astype("<f8").tobytes()).decode()
    pieces = [text[i : i + _PIECE] for i in range(0, len(text), _PIECE)]
    head = {_GENOME: f"{len(pieces)}|{pieces[0]}"}
    return head | {f"{_GENOME}:{i}": pieces[i] for i in range(1, len(pieces))}


def read_cluster_losses(attributes: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Return the loss of each cluster in a trial's system attributes, or ``None``.

    Raises:
        InputError: If what is stored there is no genome.
    """
    header = read_header(attributes, "a trial")
    if header is None:
        return None
    try:
        _, mark, text = _joined(header, attributes).partition(_LOSSES)
        return np.frombuffer(base64.b64decode(text), "<f8") if mark else None
    except (KeyError, ValueError) as error:
        raise InputError(f"a trial's stored losses are damaged ({error})") from error


def handle_of(header: Header) -> int:
    return int(header.digest, 16) >> (128 - HANDLE_BITS)
