"""What a study remembers: genomes on every storage, damage found, and how storages open."""

from __future__ import annotations

import base64
import contextlib
import sqlite3
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from strategies import bounds as some_bounds
from strategies import genomes
from strategies import seeds

from optuna_wnn import packing
from optuna_wnn import storages
from optuna_wnn.errors import InputError
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Genome
from optuna_wnn.storages import open_storage
from optuna_wnn.store.genomes import read_genome
from optuna_wnn.store.genomes import write_genome
from optuna_wnn.store.places import Child
from optuna_wnn.store.places import child_attributes
from optuna_wnn.store.places import read_child
from optuna_wnn.store.reader import GenomeReader
from optuna_wnn.store.reader import genome_attributes
from optuna_wnn.store.reader import genome_reader
from optuna_wnn.store.settings import read_setting
from optuna_wnn.store.settings import write_setting
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import constraint_attributes
from optuna_wnn.store.trials import is_stale
from optuna_wnn.store.trials import mark_stale
from optuna_wnn.store.trials import trial_by_number
from optuna_wnn.store.trials import write_constraint
from optuna_wnn.variation import crossover
from optuna_wnn.variation import mutate
from optuna_wnn.variation import random_genome


SMALL = Bounds(4, 100, (1, 5), (1, 8))
LARGE = Bounds(64, 60_000, (100, 100), (32, 32))  # 204,800 connections

KEY = "wnn:genome"


def made(bounds: Bounds, seed: int = 0) -> Genome:
    return random_genome(bounds, np.random.default_rng(seed))


def mutant(genome: Genome, bounds: Bounds, seed: int = 0) -> Genome:
    return mutate(genome, bounds, ["connections"], 0.1, np.random.default_rng(seed))


@pytest.fixture(params=["memory", "sqlite", "journal"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], BaseStorage]:
    """Return what opens one storage, each time as another process would."""
    memory = open_storage("memory:")
    return {
        "memory": lambda: memory,
        "sqlite": lambda: open_storage(f"sqlite:///{tmp_path}/study.db"),
        "journal": lambda: open_storage(f"journal:///{tmp_path}/study.log"),
    }[request.param]


def study_in(storage: BaseStorage, name: str = "s") -> optuna.Study:
    return optuna.create_study(
        storage=storage,
        study_name=name,
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(),
    )


def add(study: optuna.Study, genome: Genome, parents: tuple[int, ...] = ()) -> int:
    """Store a genome with a new trial and return the trial's number."""
    trial = study.ask()
    write_genome(study, trial, genome, parents)
    study.tell(trial, 0.0)
    return trial.number


def stored(study: optuna.Study, number: int) -> dict[str, str]:
    attributes = study.get_trials(deepcopy=False)[number].system_attrs
    return {key: value for key, value in attributes.items() if key.startswith(KEY)}


# -- round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [SMALL, LARGE])
def test_a_genome_comes_back_from_every_storage(
    reopen: Callable[[], BaseStorage], bounds: Bounds
) -> None:
    genome = made(bounds)
    number = add(study_in(reopen()), genome)
    study = study_in(reopen())
    assert genome_reader(study).read(number) == genome
    assert read_genome(study.trials[number]) == genome
    assert read_genome(study.trials[number], study) == genome
    attributes = study.trials[number].system_attrs
    assert genome_reader(study).settle(number, attributes) == genome.handle


def test_a_running_trial_tells_its_genome(reopen: Callable[[], BaseStorage]) -> None:
    study = study_in(reopen())
    trial = study.ask()
    assert read_genome(trial) is None
    for seed in (0, 1):  # a genome that is there already is replaced
        write_genome(study, trial, made(SMALL, seed))
        assert read_genome(trial) == made(SMALL, seed)


def test_a_replaced_genome_is_not_mistaken_for_the_first(
    reopen: Callable[[], BaseStorage],
) -> None:
    """Another worker reads a running trial's genome before and after it is refined."""
    study, other = study_in(reopen()), study_in(reopen())
    trial = study.ask()
    for genome in (
        made(LARGE, 0),
        made(SMALL, 1),
        made(SMALL, 1).reordered(order(made(SMALL, 1))),
    ):
        write_genome(study, trial, genome)
        assert genome_reader(other).read(trial.number) == genome


def order(genome: Genome) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the order that turns every cluster around."""
    return np.lexsort((-np.arange(genome.n_neurons), genome.neuron_cluster))


def test_a_large_genome_lies_in_pieces_below_60_000_bytes(
    reopen: Callable[[], BaseStorage],
) -> None:
    study = study_in(reopen())
    number = add(study, made(LARGE))
    pieces = stored(study, number)
    assert len(pieces) > 5
    assert all(len(piece.encode()) + 2 < 60_000 for piece in pieces.values())


def test_a_child_of_a_megabyte_genome_costs_kilobytes(reopen: Callable[[], BaseStorage]) -> None:
    bounds = Bounds(256, 60_000, (50, 50), (40, 40))  # 512,000 connections, 1 MB
    study = study_in(reopen())
    parents = [made(bounds, 0), made(bounds, 1)]
    numbers = tuple(add(study, parent) for parent in parents)
    child = crossover(parents[0], parents[1], np.random.default_rng(0).random(256) < 0.5)
    child = mutant(child, bounds)
    number = add(study, child, numbers)
    size = sum(map(len, stored(study, number).values()))
    assert size < 12_000 < 900_000 < sum(map(len, stored(study, 0).values()))
    again = study_in(reopen())
    assert genome_reader(again).read(number) == child


def test_a_child_of_a_megabyte_genome_cannot_be_read_without_its_study() -> None:
    study = study_in(open_storage("memory:"))
    parent = made(LARGE)
    number = add(study, mutant(parent, LARGE), (add(study, parent),))
    with pytest.raises(InputError, match=r"trial 1: .*pass the study too"):
        read_genome(study.trials[number])
    assert read_genome(study.trials[number], study) == mutant(parent, LARGE)


def test_a_small_genome_is_stored_alone() -> None:
    study = study_in(open_storage("memory:"))
    first = add(study, made(SMALL))
    second = add(study, mutant(made(SMALL), SMALL), (first, first))
    assert read_genome(study.trials[second]) == mutant(made(SMALL), SMALL)


def test_a_long_line_of_descent_stays_readable() -> None:
    """Every so often a descendant is stored alone, so no chain of differences gets long."""
    storage = open_storage("memory:")
    study, genome, numbers = study_in(storage), made(LARGE), [0]
    add(study, genome)
    for seed in range(40):
        genome = mutant(genome, LARGE, seed)
        numbers.append(add(study, genome, (numbers[-1],)))
    sizes = [sum(map(len, stored(study, number).values())) for number in numbers]
    assert 2 <= sum(size > 300_000 for size in sizes) <= 4
    assert genome_reader(study_in(storage)).read(numbers[-1]) == genome


@given(some_bounds(), seeds, st.integers(0, 2))
def test_every_genome_survives_packing(bounds: Bounds, seed: int, n_parents: int) -> None:
    parents = [made(bounds, seed + i) for i in range(n_parents)]
    rng = np.random.default_rng(seed)
    child = made(bounds, seed + 9)
    for parent in parents:
        child = crossover(child, parent, rng.random(bounds.n_clusters) < 0.6)
    assert packing.from_bytes(packing.to_bytes(child, parents), parents) == child


@pytest.mark.parametrize("width", [2**8 - 1, 2**8, 2**16 - 1, 2**16, 2**31 - 1])
def test_inputs_of_any_width_survive_packing(width: int) -> None:
    genome = Genome.of_clusters([np.array([[0, 1, width]]), np.array([[width]])])
    assert packing.from_bytes(packing.to_bytes(genome, []), []) == genome


def test_copy_study_keeps_genomes_readable(reopen: Callable[[], BaseStorage]) -> None:
    storage = reopen()
    add(study_in(storage, "other"), made(SMALL))  # so that ids and numbers differ
    study = study_in(storage)
    parent = made(LARGE)
    number = add(study, mutant(parent, LARGE), (add(study, parent),))
    optuna.copy_study(
        from_study_name="s", from_storage=storage, to_storage=storage, to_study_name="copy"
    )
    copied = study_in(reopen(), "copy")
    assert genome_reader(copied).read(number) == mutant(parent, LARGE)


def test_create_trial_takes_a_genome(reopen: Callable[[], BaseStorage]) -> None:
    study = study_in(reopen())
    child = Child(0, 3, handle=made(LARGE).handle, is_seed=True)
    study.add_trial(
        optuna.create_trial(
            value=1.0,
            system_attrs={
                **genome_attributes(made(LARGE)),
                **child_attributes(child),
                **constraint_attributes([0.5]),
            },
        )
    )
    trial = study.trials[0]
    assert read_genome(trial) == made(LARGE)
    assert read_child(trial.system_attrs) == child
    assert list(trial.constraints.values()) == [0.5]


# -- damage ---------------------------------------------------------------------------------------


def damaged(pieces: dict[str, Any]) -> None:
    """Check that a trial with these attributes is an InputError of one line."""
    study = study_in(open_storage("memory:"))
    study.add_trial(optuna.create_trial(value=0.0, system_attrs=pieces))
    with pytest.raises(InputError, match=r"^trial 0: ") as raised:
        genome_reader(study).read(0)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=r"^trial 0: "):
        read_genome(study.trials[0])


@pytest.mark.parametrize(
    "place",
    ["count", "version", "depth", "parents", "digest", "checksum", "first", "last", "gone"],
)
def test_a_damaged_attribute_is_one_clear_line(place: str) -> None:
    pieces = genome_attributes(made(LARGE))
    count, first = pieces[KEY].split("|")
    version, depth, parents, digest, checksum, text = first.split(":")
    fields = {
        "count": "9999999999",
        "version": "2",
        "depth": "3",
        "parents": "0",
        "digest": "0" * 32,
        "checksum": "0" * 32,
        "first": "A" + text[1:],
    }
    parts = {
        "count": count, "version": version, "depth": depth, "parents": parents, "digest": digest,
        "checksum": checksum, "first": text,
    }  # fmt: skip
    if place in fields:
        parts[place] = fields[place]
    count, *rest = parts.values()
    pieces[KEY] = f"{count}|{':'.join(rest)}"
    last = list(pieces)[-1]
    if place == "last":
        pieces[last] = pieces[last][:-8] + "AAAA" + pieces[last][-4:]
    if place == "gone":
        del pieces[last]
    damaged(pieces)


@pytest.mark.parametrize("value", [None, 5, ["a"], "", "1|", "1|1:0::::", "x|y", "1|é"])
def test_foreign_attributes_are_one_clear_line(value: Any) -> None:
    if value is None:
        study = study_in(open_storage("memory:"))
        study.add_trial(optuna.create_trial(value=0.0))
        with pytest.raises(InputError, match="trial 0: no genome is stored"):
            genome_reader(study).read(0)
        with pytest.raises(InputError, match="trial 7: the study has no such trial"):
            genome_reader(study).read(7)
    else:
        damaged({KEY: value})


def test_parents_in_a_circle_are_one_clear_line() -> None:
    pieces = genome_attributes(made(SMALL))
    pieces[KEY] = pieces[KEY].replace("1|1:0::", "1|1:3:0:")
    damaged({**pieces})


def test_a_damaged_place_is_one_clear_line() -> None:
    for text in ("", "[]", "{}", '{"generation": 1}', '{"generation":0,"index":0,"x":1}', 7):
        with pytest.raises(InputError, match="stored place is damaged"):
            read_child({"wnn:child": text})


@given(genomes(SMALL), st.data())
def test_a_flipped_bit_is_found(genome: Genome, data: st.DataObject) -> None:
    """Whatever bit of the packed genome flips, it is the same genome still or an error."""
    first = genome_attributes(genome)[KEY]
    head, text = first.rsplit(":", 1)
    packed = bytearray(base64.b64decode(text))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    attributes = {KEY: f"{head}:{base64.b64encode(packed).decode()}"}
    reader = GenomeReader(lambda number: attributes)
    with contextlib.suppress(InputError):
        assert reader.read(0) == genome


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_no_genome_and_no_crash(raw: bytes, packed: bool) -> None:
    if packed:
        raw = zstandard.ZstdCompressor().compress(b"\x01" + raw)
    try:
        packing.unpack(base64.b64encode(raw).decode(), [made(SMALL)])
    except ValueError as error:
        assert str(error).startswith("stored genome: ")  # noqa: PT017


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 2**32 - 1), max_size=4),
    st.lists(st.integers(0, 255), max_size=4),
    st.binary(max_size=64),
)
def test_claims_of_any_size_are_refused_cheaply(
    n_clusters: int, neurons: list[int], bits: list[int], rest: bytes
) -> None:
    raw = struct.pack("<BIB", 1, n_clusters if n_clusters > 4 else len(neurons), 2)
    raw += np.array(neurons, "<u4").tobytes() + bytes(bits) + rest
    started = time.process_time()
    with contextlib.suppress(ValueError):
        packing.from_bytes(raw, [made(SMALL)])
    assert time.process_time() - started < 1


def test_a_tiny_payload_that_unpacks_to_gigabytes_is_refused() -> None:
    """A megabyte of zeros packs into 50 bytes; its header is what is believed and checked."""
    chunk = zstandard.ZstdCompressor().compressobj(size=1 << 40)
    packed = chunk.compress(bytes(1 << 20)) + chunk.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    with pytest.raises(ValueError, match="stored genome: it claims more than"):
        packing.unpack(base64.b64encode(packed).decode(), [])


def test_references_that_multiply_connections_are_refused() -> None:
    """Four bytes can stand for a parent's neuron of 128 bits; 200,000 of them for a gigabyte."""
    parent = Genome.of_clusters([np.arange(128)[None, :]])
    n_neurons = 200_000
    raw = struct.pack("<BIB", 1, 1, 1) + struct.pack("<IB", n_neurons, 128)
    distances = np.zeros(n_neurons, "<i4")
    distances[0] = 1
    raw += distances.view("u1").reshape(-1, 4).T.tobytes()
    with pytest.raises(ValueError, match="too many connections"):
        packing.from_bytes(raw, [parent])


def test_a_genome_too_large_to_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MOST_CONNECTIONS", 10)
    with pytest.raises(InputError, match="too many to store"):
        genome_attributes(made(LARGE))


# -- places, settings, constraints ----------------------------------------------------------------


@given(
    st.builds(
        Child,
        st.integers(0, 99),
        st.integers(0, 2**41),
        parents=st.lists(st.integers(0, 99)).map(tuple),
        handle=st.integers(-1, 2**44),
        source=st.integers(0, 9),
        attribute=st.none() | st.just(("rewire", 3, 1, 2)),
        reverse=st.none() | st.just(("set", "x", 0.5)),
        is_seed=st.booleans(),
    )
)
def test_a_place_survives_as_json(child: Child) -> None:
    assert read_child(child_attributes(child)) == child
    assert read_child({}) is None


def test_a_stale_trial_is_closed_and_marked(reopen: Callable[[], BaseStorage]) -> None:
    study = study_in(reopen())
    study.ask()
    mark_stale(study, study.trials[0])
    trial = study_in(reopen()).trials[0]
    assert trial.state == TrialState.FAIL
    assert is_stale(trial.system_attrs)
    assert not is_stale({})


def test_a_constraint_is_read_by_optuna(reopen: Callable[[], BaseStorage]) -> None:
    study = study_in(reopen())
    for value, violation in ((0.0, 0.1), (1.0, -0.1)):
        trial = study.ask()
        write_constraint(study, trial, violation)
        study.tell(trial, value)
    assert study.best_trial.number == 1
    assert list(study.trials[0].constraints.values()) == [0.1]


def test_a_setting_is_kept_with_the_study(reopen: Callable[[], BaseStorage]) -> None:
    study = study_in(reopen())
    assert read_setting(study, "x") is None
    write_setting(study, "x", {"a": [1, 2]})
    assert read_setting(study_in(reopen()), "x") == {"a": [1, 2]}
    assert study.user_attrs == {}


def test_trials_go_by_number(reopen: Callable[[], BaseStorage]) -> None:
    study_in(reopen(), "other").ask()
    study = study_in(reopen())
    study.ask()
    found = trial_by_number(study, 0)
    assert found is not None
    assert found.number == 0
    assert trial_by_number(study, 1) is None
    assert [trial.number for trial in all_trials(study)] == [0]


# -- opening --------------------------------------------------------------------------------------


def test_sqlite_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/study.db")
    engine = storage._backend.engine  # type: ignore[attr-defined]
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL
    study_in(storage)
    with sqlite3.connect(tmp_path / "study.db") as file:
        assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_journal_makes_its_folder(tmp_path: Path) -> None:
    study_in(open_storage(f"journal:///{tmp_path}/new/folder/study.log")).ask()
    again = open_storage(f"journal:///{tmp_path}/new/folder/study.log")
    assert len(study_in(again).trials) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite:///{tmp}/missing/study.db",
        "sqlite:///{tmp}/text.db",
        "journal:///{tmp}/text.db/study.log",
        "oracle://user:secret@host/db",
        "postgresql+nodriver://user:secret@host/db",
        "mysql+pymysql://user:se/cr@secret@127.0.0.1:1/db",
        "postgresql://user:secret@127.0.0.1:port/db",
        "grpc://host:port",
        "grpc://127.0.0.1:1",
        "sqlite://",
        "sqlite:///:memory:",
        "redis://:secret@127.0.0.1:1/0",
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line_without_its_password(
    url: str, tmp_path: Path
) -> None:
    (tmp_path / "text.db").write_text("this is no database, " * 99)
    with pytest.raises(InputError, match=r"^storage .*cannot be opened") as raised:
        open_storage(url.format(tmp=tmp_path))
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("postgresql://me:pw@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:p@w/x:y@host/db", "postgresql://me:***@host/db"),
        ("redis://:pw@host:1/0", "redis://:***@host:1/0"),
        ("postgresql://host/db?user=me&password=pw&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("see postgresql://me:pw@host/db now", "see postgresql://me:***@host/db now"),
        ("postgresql://me@host:5432/db", "postgresql://me@host:5432/db"),
    ],
)  # fmt: skip
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert storages.masked(url) == shown
