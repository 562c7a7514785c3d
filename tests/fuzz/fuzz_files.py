"""Fuzzing, guided by coverage, of what reads files and stored genomes.

Needs atheris (``pip install atheris``), which no test does::

    python tests/fuzz/fuzz_files.py genome -max_total_time=60
    python tests/fuzz/fuzz_files.py yaml -max_total_time=60
    python tests/fuzz/fuzz_files.py model -max_total_time=60
    python tests/fuzz/fuzz_files.py stored -max_total_time=60

Whatever is read is taken, or refused by the documented error in one line; anything else ends the
fuzzing with the input that showed it.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np


with atheris.instrument_imports(include=["optuna_wnn"]):
    from optuna_wnn import Genome
    from optuna_wnn import RAMNetwork
    from optuna_wnn import packing
    from optuna_wnn import sources
    from optuna_wnn.container import HEADER
    from optuna_wnn.container import _digest as digest
    from optuna_wnn.errors import InputError


EXAMPLES = ([1, 2], [2, 1], [0, 3, 1, 2]), ([1, 2], [2, 1], [0, 2, 1, 2])
MOST_CHARACTERS = 1000  # of a line that refuses
FOLDER = Path(tempfile.mkdtemp())


def read(load: Callable[[], object], refusal: type[ValueError] = InputError) -> None:
    """Have something read, which may be refused."""
    try:
        load()
    except refusal as error:
        text = str(error)
        assert 0 < len(text) < MOST_CHARACTERS, text


def genome(data: bytes) -> None:
    """A genome file: any bytes, or any text compressed."""
    path = FOLDER / "genome.json.gz"
    path.write_bytes(data[1:] if data[:1] == b"\0" else gzip.compress(data, 1))
    read(lambda: Genome.load(path))


def yaml(data: bytes) -> None:
    """A configuration."""
    path = FOLDER / "run.yaml"
    path.write_bytes(data)
    read(lambda: sources.load_config(path))


def model(data: bytes) -> None:
    """A trained network: its members are any bytes, and the digest fits them."""
    members = {}
    parts = data.split(b"\xff\xfe")
    for i, name in enumerate((*ARRAYS, HEADER)):
        members[name] = parts[i] if i < len(parts) and parts[i] else VALID[name]
    try:
        header = json.loads(members.pop(HEADER))
        header.pop("digest", None)
        members[HEADER] = json.dumps({**header, "digest": digest(header, members)}).encode()
    except (ValueError, AttributeError, RecursionError):
        members[HEADER] = VALID[HEADER]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    path = FOLDER / "model.npz"
    path.write_bytes(buffer.getvalue())
    read(lambda: RAMNetwork.load(path))


def stored(data: bytes) -> None:
    """A genome as a trial stores it: packed text, or what is in it."""
    parent = Genome(*map(np.array, EXAMPLES[0]))
    if data[:1] == b"\0":
        read(lambda: packing.unpack(data[1:].decode("latin-1"), [parent]), ValueError)
    else:
        read(lambda: packing.from_bytes(data, [parent]), ValueError)


def example_model() -> dict[str, bytes]:
    """Return the members of the file of a small network."""
    genome = Genome(*map(np.array, ([1, 1], [2, 2], [0, 1, 2, 3])))
    network = RAMNetwork(genome, "classes", n_inputs=4, n_outputs=2, compiled=False)
    network.fit(np.array([[0, 1, 0, 1], [1, 1, 0, 0]], bool), np.array([0, 1]))
    path = FOLDER / "valid.npz"
    network.save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


GENOME = (
    b'{"format":"optuna-wnn genome","version":1,"neurons":[1,2],"bits":[2,1],'
    b'"connections":[0,3,1,2]}'
)
CONFIG = b"name: a\ntask: {kind: python-docs}\nspace: {bits: [2, 3]}\nsearch: {trials: 3}\n"


def seeds(name: str) -> list[bytes]:
    """Return something valid to begin with."""
    if name == "model":
        return [b"\xff\xfe".join(VALID[member] for member in (*ARRAYS, HEADER))]
    parent, child = (Genome(*map(np.array, a)) for a in EXAMPLES)
    packed = packing.to_bytes(child, [parent])
    stored = [packed, packing.to_bytes(child, []), b"\0" + packing.pack(child, [parent]).encode()]
    return {"genome": [GENOME], "yaml": [CONFIG], "stored": stored}[name]


TARGETS = {f.__name__: f for f in (genome, yaml, model, stored)}

if __name__ == "__main__":
    name = sys.argv.pop(1)
    VALID = example_model() if name == "model" else {}
    ARRAYS = sorted(VALID.keys() - {HEADER})
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for i, seed in enumerate(seeds(name)):
        (corpus / str(i)).write_bytes(seed)
    atheris.Setup([*sys.argv, str(corpus)], TARGETS[name])
    atheris.Fuzz()
