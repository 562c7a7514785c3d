"""The genome: what is valid, what its names tell apart, and its files."""

from __future__ import annotations

import gzip
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import genomes
from strategies import seeds

from optuna_wnn.errors import InputError
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Genome
from optuna_wnn.genome import mix64
from optuna_wnn.genome import segment_indices
from optuna_wnn.genome import write_atomically
from optuna_wnn.variation import random_genome


def small() -> Genome:
    """Return two clusters: 2 neurons of 2 bits, 1 neuron of 3."""
    return Genome.of_clusters([np.array([[4, 1], [0, 3]]), np.array([[2, 9, 5]])])


def shuffled(genome: Genome, seed: int) -> Genome:
    """Return the genome with the neurons of every cluster in random order."""
    rng = np.random.default_rng(seed)
    return genome.reordered(np.lexsort((rng.random(genome.n_neurons), genome.neuron_cluster)))


# -- shape ----------------------------------------------------------------------------------------


def test_its_arrays_and_views_agree() -> None:
    genome = small()
    assert genome.connections.tolist() == [1, 4, 0, 3, 2, 5, 9]
    assert (genome.n_clusters, genome.n_neurons, genome.n_connections) == (2, 3, 7)
    assert genome.n_cells == 2 * 4 + 8
    assert genome.cluster_starts.tolist() == [0, 2, 3]
    assert genome.neuron_cluster.tolist() == [0, 0, 1]
    assert genome.neuron_bits.tolist() == [2, 2, 3]
    assert genome.offsets.tolist() == [0, 2, 4, 7]
    assert genome.cluster(0).tolist() == [[1, 4], [0, 3]]
    assert genome.cluster(1).tolist() == [[2, 5, 9]]


def test_it_is_immutable() -> None:
    with pytest.raises(ValueError, match="read-only"):
        small().connections[0] = 7
    with pytest.raises(ValueError, match="read-only"):
        small().cluster(0)[0, 0] = 7


def test_it_copies_what_it_is_given() -> None:
    connections = np.array([1, 4, 0, 3, 2, 5, 9])
    genome = Genome(np.array([2, 1]), np.array([2, 3]), connections)
    connections[0] = 0
    assert genome == small()


@pytest.mark.parametrize(
    ("neurons", "bits", "connections", "message"),
    [
        ([], [], [], "0 neuron counts"),
        ([1, 1], [1], [0, 1], "2 neuron counts and 1 bit counts"),
        ([0], [1], [], "at least 1 neuron"),
        ([1], [0], [], "1 to 128 bits"),
        ([1], [129], list(range(129)), "1 to 128 bits"),
        ([1], [2], [0], "1 values where the neuron and bit counts need 2"),
        ([2], [2], [0, 1, 3, 3], "neuron 1 are not distinct and ascending"),
        ([1, 2], [1, 2], [9, 0, 1, 5, 4], "neuron 2 are not distinct and ascending"),
        ([1], [1], [-1], r"connections: every value must be in \[0, 2\*\*31\)"),
        ([1], [1], [2**31], r"connections: every value must be in \[0, 2\*\*31\)"),
        ([1], [1], [2**70], "connections: a flat array of integers"),
        ([1], [1], [0.0], "connections: a flat array of integers"),
        ([1], [1], [[0]], "connections: a flat array of integers"),
        ([1], [1], [[0], [0, 1]], "connections: a flat array of integers"),
        (None, [1], [0], "neurons: a flat array of integers"),
    ],
)
def test_what_does_not_fit_is_named(
    neurons: Any, bits: Any, connections: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        Genome(neurons, bits, connections)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, (1, 2), (1, 2)), "at least one cluster"),
        ((1, 0, (1, 2), (1, 2)), "one input bit"),
        ((1, 8, (0, 2), (1, 2)), r"space.neurons: \(0, 2\) is no range"),
        ((1, 8, (1, 2), (3, 2)), r"space.bits: \(3, 2\) is no range"),
        ((1, 999, (1, 2), (1, 129)), "129 is above 128"),
        ((1, 8, (1, 2), (1, 9)), "above the 8 input bits"),
        ((2, 8, (1, 2), (1, 4), (8, 3)), "above the 3 input bits"),
        ((2, 8, (1, 2), (1, 4), (8,)), "1 numbers for 2 clusters"),
        ((2, 8, (1, 2), (1, 4), (8, 9)), "sees 9 inputs"),
    ],
)
def test_impossible_bounds_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Bounds(*arguments)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (Bounds(3, 10, (1, 2), (2, 3)), "has 2 clusters where the task needs 3"),
        (Bounds(2, 10, (2, 3), (2, 3)), r"neurons: cluster 1 has 1, outside \[2, 3\]"),
        (Bounds(2, 10, (1, 2), (1, 2)), r"bits: cluster 1 has 3, outside \[1, 2\]"),
        (Bounds(2, 9, (1, 2), (2, 3)), "neuron 2 observes input 9, but its cluster sees only 9"),
        (Bounds(2, 10, (1, 2), (2, 3), (4, 10)), "neuron 0 observes input 4"),
    ],
)
def test_a_genome_outside_bounds_is_named(bounds: Bounds, message: str) -> None:
    with pytest.raises(InputError, match=message):
        small().check(bounds)


def test_a_genome_within_bounds_passes() -> None:
    small().check(Bounds(2, 10, (1, 2), (2, 3), (5, 10)))


# -- helpers --------------------------------------------------------------------------------------


def test_mix64_is_split_mix_64() -> None:
    """The first outputs of SplitMix64 seeded with 0 are its published test vector."""
    states = np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert [hex(v) for v in mix64(states).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


def test_segment_indices_lists_the_elements_of_runs() -> None:
    starts, lengths = np.array([5, 0, 7]), np.array([2, 0, 3])
    assert segment_indices(starts, lengths).tolist() == [5, 6, 7, 8, 9]
    assert segment_indices(starts[:0], lengths[:0]).tolist() == []


# -- names ----------------------------------------------------------------------------------------


@given(genomes(), seeds)
def test_neuron_order_changes_the_checksum_but_no_digest(genome: Genome, seed: int) -> None:
    other = shuffled(genome, seed)
    assert other.digest == genome.digest
    assert other.handle == genome.handle == hash(genome)
    assert np.array_equal(other.cluster_hashes, genome.cluster_hashes)
    assert (other.checksum == genome.checksum) == (other == genome)


@given(genomes(), st.data())
def test_one_other_connection_changes_one_neuron_and_one_cluster(
    genome: Genome, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, genome.n_connections - 1))
    neuron = int(np.searchsorted(genome.offsets, at, "right")) - 1
    cluster = genome.neuron_cluster[neuron]
    connections = genome.connections.copy()
    connections[genome.offsets[neuron + 1] - 1] += 1 + data.draw(st.integers(0, 1000))
    other = Genome(genome.neurons, genome.bits, connections)
    assert other.digest != genome.digest
    assert np.flatnonzero(other.neuron_hashes != genome.neuron_hashes).tolist() == [neuron]
    assert np.flatnonzero(other.cluster_hashes != genome.cluster_hashes).tolist() == [cluster]


def test_names_tell_apart_what_is_easily_confused() -> None:
    row = np.array([[0, 1]])
    clusters = [
        [row],
        [row, row],
        [np.array([[0, 1], [0, 1]])],  # a neuron twice is not once, nor two clusters
        [np.array([[0], [1]])],
        [np.array([[0]]), np.array([[1]])],
        [np.array([[1]]), np.array([[0]])],
        [np.array([[1]])],
        [np.array([[0, 2]])],
        [np.array([[0, 1, 2]])],
    ]
    assert len({Genome.of_clusters(c).digest for c in clusters}) == len(clusters)


def test_the_handle_is_the_digests_first_44_bits() -> None:
    genome = small()
    assert genome.handle == int(genome.digest, 16) >> (128 - 44)


def test_the_digest_never_changes() -> None:
    """Stored studies name their genomes by it."""
    assert small().digest == "8762aebb4a0fd703b9df0b679b00b3f5"


def test_equality_is_byte_for_byte() -> None:
    genome = small()
    swapped = genome.reordered(np.array([1, 0, 2]))
    assert genome == small()
    assert genome != swapped
    assert genome != "genome"
    assert swapped.cluster(0).tolist() == [[0, 3], [1, 4]]


@given(genomes(), seeds)
def test_reordered_keeps_every_neuron_whole(genome: Genome, seed: int) -> None:
    other = shuffled(genome, seed)
    Genome(other.neurons, other.bits, other.connections)  # is valid
    for k in range(genome.n_clusters):
        assert sorted(other.cluster(k).tolist()) == sorted(genome.cluster(k).tolist())


def test_reordered_refuses_an_order_that_moves_neurons_between_clusters() -> None:
    with pytest.raises(ValueError, match="stay in their cluster"):
        small().reordered(np.array([0, 2, 1]))
    with pytest.raises(ValueError, match="stay in their cluster"):
        small().reordered(np.array([0, 0, 2]))


# -- files ----------------------------------------------------------------------------------------


@given(genomes(), seeds)
def test_a_file_gives_back_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, genome: Genome, seed: int
) -> None:
    path = tmp_path_factory.mktemp("genome") / "g.json.gz"
    genome = shuffled(genome, seed)
    genome.save(path)
    assert Genome.load(path) == genome


def test_a_file_is_plain_json_under_gzip(tmp_path: Path) -> None:
    small().save(tmp_path / "g.json.gz")
    document = json.loads(gzip.decompress((tmp_path / "g.json.gz").read_bytes()))
    assert document["neurons"] == [2, 1]
    assert document["digest"] == small().digest
    assert set(document) == {
        "format",
        "version",
        "digest",
        "checksum",
        "neurons",
        "bits",
        "connections",
    }


def test_saving_twice_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        small().save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g.json.gz"
    small().save(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"cannot be written .No space left on device"):
        write_atomically(path, b"other")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for content in (b"new", b"again"):
        write_atomically(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_bytes() == content


@pytest.mark.skipif(sys.platform == "win32", reason="it needs named pipes")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(path.read_bytes)
        write_atomically(path, b"content")
        assert read.result(timeout=30) == b"content"
    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing/g\.json\.gz: cannot be written"):
        small().save(tmp_path / "missing" / "g.json.gz")


def edited(path: Path, **fields: Any) -> Path:
    """Change fields of a saved genome; ``None`` deletes one."""
    document = json.loads(gzip.decompress(path.read_bytes()))
    document.update(fields)
    kept = {name: value for name, value in document.items() if value is not None}
    path.write_bytes(gzip.compress(json.dumps(kept).encode()))
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "other"}, "not an optuna-wnn genome"),
        ({"format": None}, "not an optuna-wnn genome"),
        ({"version": 2}, "format version 2 is not 1"),
        ({"version": None}, "format version None is not 1"),
        ({"digest": "0" * 32}, "digest does not fit"),
        ({"digest": None}, "digest does not fit"),
        ({"checksum": "0" * 32}, "checksum does not fit"),
        ({"checksum": None}, "checksum does not fit"),
        ({"neurons": [1, 2]}, "values where the neuron and bit counts need"),
        ({"neurons": [2**31 - 1, 1]}, "values where the neuron and bit counts need"),
        ({"neurons": None}, "neurons: a flat array"),
        ({"bits": "2, 3"}, "bits: a flat array"),
        ({"bits": [128, 128]}, "values where the neuron and bit counts need"),
        ({"connections": [1, 4, 0, 3, 2, 5, 8]}, "checksum does not fit"),
        ({"connections": [0, 3, 1, 4, 2, 5, 9]}, "checksum does not fit"),  # neuron order alone
        ({"connections": [1, 4, 0, 3, 2, 5, 5]}, "not distinct and ascending"),
        ({"connections": [[1], [4, 0]]}, "connections: a flat array"),
        ({"connections": {"a": 1}}, "connections: a flat array"),
        ({"connections": [1, 4, 0, 3, 2, 5, 1e99]}, "connections: a flat array"),
        ({"connections": [1, 4, 0, 3, 2, 5, 10**30]}, "connections: a flat array"),
    ],
)
def test_an_edited_file_is_one_clear_line(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    path = tmp_path / "g.json.gz"
    small().save(path)
    with pytest.raises(InputError, match=message) as raised:
        Genome.load(edited(path, **fields))
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"plain text", "no gzip file"),
        (gzip.compress(b"no json", mtime=0), "not JSON"),
        (gzip.compress(b"\xff\xfe\x00", mtime=0), "not JSON"),
        (gzip.compress(b"[" * 100_000, mtime=0), "not JSON"),
        (gzip.compress(b"[1, 2]", mtime=0), "not an optuna-wnn genome"),
        (gzip.compress(b"{}", mtime=0) + b"tail", "no gzip file, or damaged"),
    ],
)
def test_a_foreign_file_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "g.json.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        Genome.load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.json\.gz: no genome .*No such file"):
        Genome.load(tmp_path / "no.json.gz")
    with pytest.raises(InputError, match="no genome can be read there"):
        Genome.load(tmp_path)
    with pytest.raises(InputError, match="no genome can be read there"):
        Genome.load("a\0b")


def test_a_file_that_unpacks_to_a_giant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g.json.gz"
    path.write_bytes(gzip.compress(b" " * 2000))
    monkeypatch.setattr(sys.modules[Genome.__module__], "_MAX_FILE_BYTES", 1000)
    with pytest.raises(InputError, match="unpacks to over"):
        Genome.load(path)


@given(st.data())
def test_every_damage_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut short anywhere, or with one bit flipped, a file loads the same genome or not at all."""
    bounds = Bounds(3, 50, (1, 4), (1, 8))
    genome = random_genome(bounds, np.random.default_rng(data.draw(seeds)))
    path = tmp_path_factory.mktemp("damage") / "g.json.gz"
    genome.save(path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        loaded = Genome.load(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
    else:
        assert loaded == genome
