"""A trained network: it predicts what an evaluation scored, in memory and from a file."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from networks import MEMORIES
from networks import genomes
from networks import make_genome
from networks import make_task
from networks import memory_settings
from networks import tasks
from numpy.typing import NDArray

from optuna_wnn import InputError
from optuna_wnn import MemorySettings
from optuna_wnn import RAMNetwork
from optuna_wnn.container import write_container
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators import predictions
from optuna_wnn.evaluators.table_kernels import TableReader
from optuna_wnn.tasks.base import Head
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.base import unpack_bits
from optuna_wnn.tasks.given import n_context


HEADS: list[Head] = ["bits", "chained_bits", "classes", "tokens"]
TIE = 1e-8  # evaluations take log-probabilities as integers, in units of 2**-32


def trained(
    task: Task,
    memory: MemorySettings,
    neurons: int = 5,
    bits: tuple[int, ...] = (3, 8),
    **how: Any,
) -> RAMNetwork:
    genome = make_genome(task, neurons, list(bits))
    network = RAMNetwork.for_task(task, genome, memory, **how)
    return network.fit(task.train.inputs, task.train.targets)


def scores(log_p: NDArray[np.float64], targets: NDArray[np.int64]) -> tuple[float, float]:
    """Return cross-entropy and accuracy by their definitions."""
    of_target = log_p[np.arange(len(targets)), targets]
    tied = log_p >= log_p.max(axis=1, keepdims=True) - TIE
    hits = tied[np.arange(len(targets)), targets] / tied.sum(axis=1)
    return float(-of_target.mean()), float(hits.mean())


def agree(network: RAMNetwork, task: Task) -> None:
    """Check that a network gives the probabilities that an evaluation scores."""
    log_p = network.predict_log_proba(task.test.inputs)
    expected = create_evaluator(task, network.memory, backend="cpu").evaluate(
        network.genome, "test"
    )
    cross_entropy, accuracy = scores(log_p, task.test.targets)
    assert cross_entropy == pytest.approx(expected.cross_entropy, rel=1e-12, abs=1e-12)
    assert accuracy == pytest.approx(expected.accuracy, abs=1e-12)
    assert np.exp(log_p).sum(axis=1) == pytest.approx(1, abs=1e-9)
    chosen = network.predict(task.test.inputs)
    best = log_p.max(axis=1)
    assert (log_p[np.arange(len(chosen)), chosen] >= best - TIE).all()


@pytest.mark.parametrize("kind", MEMORIES, ids=lambda kind: f"{kind['mode']}-{kind['vote']}")
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("bits", [(3, 8), (17, 100)], ids=["tables", "lists"])
def test_probabilities_are_those_that_an_evaluation_scores(
    kind: dict[str, Any], head: Head, bits: tuple[int, ...]
) -> None:
    task = make_task(head, n_inputs=110 if max(bits) > 64 else 30)
    memory = MemorySettings(**kind, temperature=0.5 if head == "tokens" else "fit")
    for compiled in (True, False):
        agree(trained(task, memory, bits=bits, compiled=compiled), task)


@settings(max_examples=60)
@given(st.data())
def test_any_network_predicts_what_its_evaluation_scores(data: st.DataObject) -> None:
    task, memory = data.draw(tasks()), data.draw(memory_settings())
    genome = data.draw(genomes(task))
    network = RAMNetwork.for_task(task, genome, memory, threads=data.draw(st.integers(1, 3)))
    network.fit(task.train.inputs, task.train.targets)
    agree(network, task)


@settings(max_examples=40)
@given(data=st.data())
def test_compiled_and_plain_networks_are_the_same_file(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    task, memory = data.draw(tasks()), data.draw(memory_settings())
    genome = data.draw(genomes(task))
    folder = tmp_path_factory.mktemp("models")
    for compiled in (True, False):
        network = RAMNetwork.for_task(task, genome, memory, compiled=compiled)
        network.fit(task.train.inputs, task.train.targets).save(folder / f"{compiled}.npz")
    assert (folder / "True.npz").read_bytes() == (folder / "False.npz").read_bytes()


@pytest.mark.parametrize("bits", [(3, 8), (17, 100)], ids=["tables", "lists"])
def test_processors_without_pext_read_the_same(bits: tuple[int, ...]) -> None:
    task = make_task("classes", n_inputs=110)
    network = trained(task, MemorySettings(), bits=bits)
    assert network._tables is not None
    clusters = range(task.n_clusters)
    looked_up = TableReader(network._tables, network.genome, use_pext=False)
    assert np.array_equal(
        looked_up.sums(clusters, task.test.inputs), network._sums(clusters, task.test.inputs)
    )


@pytest.mark.parametrize("head", HEADS)
def test_a_network_survives_a_file(head: Head, tmp_path: Path) -> None:
    task = make_task(head, n_inputs=40)
    memory = MemorySettings(temperature=0.3 if head == "tokens" else "fit")
    network = trained(task, memory, bits=(6, 20))
    network.save(tmp_path / "model.npz")
    loaded = RAMNetwork.load(tmp_path / "model.npz")
    inputs = task.test.inputs
    assert np.array_equal(loaded.predict_proba(inputs), network.predict_proba(inputs))
    assert np.array_equal(loaded.predict(inputs), network.predict(inputs))
    assert loaded.genome == network.genome
    assert (loaded.head, loaded.memory) == (head, memory)
    assert (loaded.temperature, loaded.n_trained) == (network.temperature, len(task.train))
    assert loaded.size_kib == network.size_kib


@pytest.mark.parametrize("compiled", [True, False])
def test_a_network_that_has_predicted_survives_a_pickle(compiled: bool) -> None:
    task = make_task("classes")
    network = trained(task, MemorySettings(), compiled=compiled)
    expected = network.predict_proba(task.test.inputs)
    copy = pickle.loads(pickle.dumps(network))
    assert np.array_equal(copy.predict_proba(task.test.inputs), expected)


def test_a_fitted_temperature_travels_with_the_model(tmp_path: Path) -> None:
    network = trained(make_task("classes"), MemorySettings(temperature="fit"))
    network.save(tmp_path / "model.npz")
    assert network.temperature != 1
    assert RAMNetwork.load(tmp_path / "model.npz").temperature == network.temperature


def test_a_file_is_the_same_every_time_and_opens_in_numpy(tmp_path: Path) -> None:
    network = trained(make_task(), MemorySettings(), bits=(4,))
    for name in ("a.npz", "b.npz"):
        network.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as opened:
        assert len(opened["codes"]) == 3 * 5 * 16
        assert json.loads(opened["header.json"])["head"] == "bits"


def test_wide_neurons_list_the_addresses_they_saw() -> None:
    task = make_task("classes", n_inputs=110)
    network = trained(task, MemorySettings(), neurons=2, bits=(100,))
    assert network.size_kib * 1024 < 20 * task.n_clusters * 2 * (len(task.train) + 1) + 4096


def test_size_is_that_of_cells_and_votes() -> None:
    network = trained(make_task(), MemorySettings(mode="wisard", vote="mean"), bits=(4,))
    cells = 3 * 5 * 16
    assert network.size_kib == (cells + 8 * 2) / 1024  # a byte per cell, two votes


@pytest.mark.parametrize("head", HEADS)
def test_inputs_are_bits_or_packed(head: Head) -> None:
    task = make_task(head, n_inputs=70)
    network = trained(task, MemorySettings())
    bits = unpack_bits(task.test.inputs, task.n_inputs)
    expected = network.predict_proba(task.test.inputs)
    assert np.array_equal(network.predict_proba(bits), expected)
    assert np.array_equal(network.predict_proba(bits.astype(bool)), expected)
    context = bits[:, : n_context(task)].astype(np.int64)
    assert np.array_equal(network.predict_proba(context), expected)


def test_the_targets_own_bits_are_not_read() -> None:
    task = make_task("chained_bits", n_inputs=20)
    network = trained(task, MemorySettings())
    inputs = task.test.inputs.copy()
    inputs ^= np.uint64(3 << n_context(task))
    assert np.array_equal(network.predict_proba(inputs), network.predict_proba(task.test.inputs))


@settings(max_examples=60)
@given(st.integers(1, 6), st.data())
def test_the_best_code_is_found_without_a_list(n_bits: int, data: st.DataObject) -> None:
    n_outputs = data.draw(st.integers((1 << n_bits >> 1) + 1, 1 << n_bits))
    odds = st.sampled_from([-9.0, -0.5, 0.0, 0.5, 1.0, 2.0])
    log_odds = np.array(data.draw(st.lists(odds, min_size=4 * n_bits, max_size=4 * n_bits)))
    log_odds = log_odds.reshape(n_bits, 4)
    log_p = predictions.bit_log_probabilities(log_odds, n_outputs)
    best = log_p >= log_p.max(axis=1, keepdims=True) - TIE
    found = predictions.most_probable_codes(log_odds, n_outputs)
    assert found.tolist() == best.argmax(axis=1).tolist()


def test_large_vocabularies_of_bits_are_predicted_but_not_listed() -> None:
    task = make_task(n_outputs=50_257, sizes=(200, 10, 10))
    network = trained(task, MemorySettings())
    assert network.predict(task.test.inputs).max() < 50_257
    bits = network.predict_bits(task.test.inputs)
    assert bits.shape == (10, 16)
    assert ((bits > 0) & (bits < 1)).all()
    with pytest.raises(InputError, match=r"50257 outcomes .* take predict or predict_bits"):
        network.predict_proba(task.test.inputs)


def test_bits_multiply_to_the_probabilities_of_a_whole_vocabulary() -> None:
    task = make_task(n_outputs=8)
    network = trained(task, MemorySettings())
    bits = network.predict_bits(task.test.inputs)
    code = (np.arange(8)[:, None] >> np.arange(2, -1, -1)) & 1
    product = np.where(code, bits[:, None], 1 - bits[:, None]).prod(axis=2)
    assert product == pytest.approx(network.predict_proba(task.test.inputs), abs=1e-12)


def test_fitting_again_forgets() -> None:
    task, other = make_task(), make_task(seed=1)
    network = trained(task, MemorySettings())
    before = network.predict_proba(task.test.inputs)
    network.fit(other.train.inputs, other.train.targets)
    assert not np.array_equal(network.predict_proba(task.test.inputs), before)
    network.fit(task.train.inputs, task.train.targets)
    assert np.array_equal(network.predict_proba(task.test.inputs), before)


def test_no_examples_give_no_predictions() -> None:
    task = make_task()
    network = trained(task, MemorySettings())
    assert network.predict(task.test.inputs[:0]).shape == (0,)
    assert network.predict_proba(task.test.inputs[:0]).shape == (0, 6)


def test_plain_networks_load_no_numba(tmp_path: Path) -> None:
    network = trained(make_task(), MemorySettings())
    network.save(tmp_path / "model.npz")
    program = (
        "import sys, numpy as np; from optuna_wnn import RAMNetwork;"
        f"n = RAMNetwork.load({str(tmp_path / 'model.npz')!r}, compiled=False);"
        "n.predict(np.zeros((3, 20), bool)); print('numba' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "False"


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((3, 19), bool), "shape"),
        (np.zeros(20, bool), "shape"),
        (np.zeros((3, 2), np.uint64), "shape"),
        (np.full((3, 20), 2), "0 and 1"),
        (np.zeros((3, 20)), "bool, 0 and 1"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: NDArray[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trained(make_task(), MemorySettings()).predict(inputs)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.array([0, 1, 6]), r"in \[0, 6\)"),
        (np.array([0, -1, 1]), r"in \[0, 6\)"),
        (np.array([0, 1]), "each of 3 examples"),
        (np.array([0.0, 1.0, 2.0]), "float64"),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets: NDArray[Any], message: str) -> None:
    task = make_task()
    network = RAMNetwork.for_task(task, make_genome(task, 2, [3]))
    with pytest.raises(InputError, match=message):
        network.fit(np.zeros((3, 20), bool), targets)


def test_an_untrained_network_predicts_and_saves_nothing(tmp_path: Path) -> None:
    task = make_task()
    network = RAMNetwork.for_task(task, make_genome(task, 2, [3]))
    with pytest.raises(InputError, match="not trained yet"):
        network.predict(task.test.inputs)
    with pytest.raises(InputError, match="not trained yet"):
        network.save(tmp_path / "model.npz")
    assert not list(tmp_path.iterdir())


def test_only_the_bits_head_has_bits_of_their_own() -> None:
    task = make_task("classes")
    with pytest.raises(InputError, match="only the bits head"):
        trained(task, MemorySettings()).predict_bits(task.test.inputs)


def test_a_genome_of_something_else_is_refused() -> None:
    genome = make_genome(make_task(), 2, [3])
    with pytest.raises(InputError, match="clusters"):
        RAMNetwork(genome, "classes", 20, 6)
    with pytest.raises(InputError, match=r"input .* is observed"):
        RAMNetwork(genome, "bits", 5, 6)
    with pytest.raises(InputError, match="is not one of"):
        RAMNetwork(genome, "tails", 20, 6)  # type: ignore[arg-type]


Parts = tuple[dict[str, Any], dict[str, NDArray[Any]]]


def parts_of(path: Path) -> Parts:
    with np.load(path, allow_pickle=False) as opened:
        header = json.loads(opened["header.json"])
        return header, {name: opened[name] for name in opened.files if name != "header.json"}


def _set(key: str, value: Any) -> Callable[[Parts], None]:
    return lambda parts: parts[0].__setitem__(key, value)


def _array(key: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Parts], None]:
    return lambda parts: parts[1].__setitem__(key, change(parts[1][key]))


HOSTILE: dict[str, Callable[[Parts], None]] = {
    "other format": _set("format", "optuna-wnn genome"),
    "future": _set("version", 2),
    "unknown head": _set("head", ["bits"]),
    "other head": _set("head", "classes"),
    "no inputs": _set("n_inputs", 0),
    "fewer inputs": _set("n_inputs", 5),
    "endless inputs": _set("n_inputs", 10**400),
    "fractional": _set("n_outputs", 6.0),
    "endless temperature": _set("temperature", float("inf")),
    "no temperature": _set("temperature", None),
    "no memory": _set("memory", None),
    "unknown memory": _set("memory", {"mode": "flash"}),
    "unknown setting": _set("memory", {"colour": 1}),
    "nested": _set("memory", {"mode": {"mode": []}}),
    "a neuron missing": _array("neurons", lambda a: a - np.eye(1, len(a), dtype=a.dtype)[0]),
    "neurons galore": _array("neurons", lambda a: a * 10**8),
    "unsorted": _array("connections", lambda a: a[::-1].copy()),
    "unseen": _array("connections", lambda a: a + 50),
    "cells cut off": _array("codes", lambda a: a[:-1]),
    "cells as rows": _array("codes", lambda a: a.reshape(-1, 1)),
    "codes without votes": _array("codes", lambda a: a | a.dtype.type(255)),
    "no votes": _array("votes", lambda a: a[:0]),
    "votes as text": _array("votes", lambda a: a.astype("U8")),
    "sizes below 0": _array("sizes", lambda a: a - 2 * a),
    "sizes beyond": _array("sizes", lambda a: a * 2**50),
    "other addresses": _array("keys", lambda a: a[::-1].copy()),
    "more addresses": _array("keys", lambda a: np.concatenate([a, a])),
    "addresses cut": _array("keys", lambda a: a[:, :1].copy()),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a network whose neurons keep tables, or list addresses."""
    path = tmp_path_factory.mktemp("model") / "model.npz"
    trained(make_task(n_inputs=40), MemorySettings(), bits=(3, 30)).save(path)
    return path


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_someone_made_up_is_refused(
    change: Callable[[Parts], None], written: Path, tmp_path: Path
) -> None:
    parts = parts_of(written)
    parts[0].pop("digest")
    change(parts)
    path = tmp_path / "hostile.npz"
    write_container(path, *parts)  # with a digest that fits
    with pytest.raises(InputError, match=r"hostile\.npz: .+") as caught:
        RAMNetwork.load(path)
    assert len(str(caught.value).splitlines()) == 1


def test_any_flipped_byte_is_noticed_or_changes_nothing(written: Path, tmp_path: Path) -> None:
    content = written.read_bytes()
    expected = RAMNetwork.load(written)
    inputs = make_task(n_inputs=40).test.inputs
    path = tmp_path / "flipped.npz"
    rng = np.random.default_rng(0)
    for place in rng.choice(len(content), 150, replace=False):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        try:
            loaded = RAMNetwork.load(path)
        except InputError:
            continue
        assert np.array_equal(loaded.predict_proba(inputs), expected.predict_proba(inputs))


def test_a_truncated_file_is_refused(written: Path, tmp_path: Path) -> None:
    content = written.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1):
        path = tmp_path / "cut.npz"
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match=r"cut\.npz"):
            RAMNetwork.load(path)


def zipped(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_nothing_compressed_is_unpacked(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    path.write_bytes(zipped(members_of(written), zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="is compressed"):
        RAMNetwork.load(path)


@pytest.mark.parametrize("claim", ["(99999999999,)", "(-1,)", "(2**70,)", "[3]", "((((", "{}"])
def test_arrays_are_no_larger_than_their_file(claim: str, written: Path, tmp_path: Path) -> None:
    members = members_of(written)
    npy = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {claim}}}".encode()
    members["codes.npy"] = b"\x93NUMPY\x01\x00" + len(npy).to_bytes(2, "little") + npy
    header = json.loads(members["header.json"])
    header.pop("digest")
    from optuna_wnn.container import _digest

    arrays = {name: content for name, content in members.items() if name != "header.json"}
    members["header.json"] = json.dumps({**header, "digest": _digest(header, arrays)}).encode()
    path = tmp_path / "liar.npz"
    path.write_bytes(zipped(members))
    with pytest.raises(InputError, match=r"liar\.npz"):
        RAMNetwork.load(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", zipped({"x.npy": b""})])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"other\.npz"):
        RAMNetwork.load(path)
    with pytest.raises(InputError, match="gone"):
        RAMNetwork.load(tmp_path / "gone.npz")
    with pytest.raises(InputError):
        RAMNetwork.load(tmp_path)
