"""Tasks: what the inputs mean, how the parts are cut, and what is refused."""

from __future__ import annotations

import io
import math
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.tasks import Task
from optuna_wnn.tasks import load_task
from optuna_wnn.tasks.base import pack_bits
from optuna_wnn.tasks.base import unpack_bits
from optuna_wnn.tasks.baselines import unigram
from optuna_wnn.tasks.checks import cut_points
from optuna_wnn.tasks.encoding import Thermometer
from optuna_wnn.tasks.encoding import learn_encoding
from optuna_wnn.tasks.encoding import packed
from optuna_wnn.tasks.text import windows


def parts(task: Task) -> list[Any]:
    return [task.train, task.validation, task.test]


# Packing


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=150)))
def test_packed_bits_unpack_to_themselves(bits: NDArray[np.bool_]) -> None:
    packed = pack_bits(bits)
    assert packed.dtype == np.uint64
    assert packed.shape == (len(bits), math.ceil(bits.shape[1] / 64))
    assert np.array_equal(unpack_bits(packed, bits.shape[1]), bits)


def test_input_i_is_bit_i_mod_64_of_word_i_div_64() -> None:
    bits = np.zeros((1, 70), bool)
    bits[0, [0, 3, 63, 64, 69]] = True
    assert pack_bits(bits).tolist() == [[1 + 2**3 + 2**63, 1 + 2**5]]


# Text


def test_a_window_shows_the_oldest_byte_and_the_most_significant_bit_first() -> None:
    examples = windows(np.frombuffer(b"\x80\x01A", np.uint8), 2, 8)
    assert examples.targets.tolist() == [ord("A")]
    assert unpack_bits(examples.inputs, 16).tolist() == [[1, *[0] * 7, *[0] * 7, 1]]


@given(st.binary(min_size=1, max_size=60), st.integers(1, 20))
def test_windows_hold_the_bytes_before_each_target(text: bytes, context: int) -> None:
    text += bytes(range(context))  # long enough for one window
    examples = windows(np.frombuffer(text, np.uint8), context, 8)
    assert len(examples) == len(text) - context
    seen = np.packbits(unpack_bits(examples.inputs, 8 * context), axis=1)
    for i, target in enumerate(examples.targets.tolist()):
        assert seen[i].tobytes() == text[i : i + context]
        assert target == text[i + context]


def test_the_parts_of_a_text_share_no_byte(tmp_path: Path) -> None:
    text = bytes(range(100))
    (tmp_path / "all.txt").write_bytes(text)
    task = load_task("text", path=tmp_path / "all.txt", context=3)
    assert (task.name, task.head, task.n_inputs, task.n_outputs) == ("all", "bits", 24, 256)
    assert (task.n_clusters, task.input_groups) == (8, (3, 8))
    seen = [np.packbits(unpack_bits(p.inputs, 24), axis=1).min() for p in parts(task)]
    last = [p.targets.max() for p in parts(task)]
    assert seen == [0, 80, 90]
    assert last == [79, 89, 99]


def test_a_character_may_be_several_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("äöü€" * 20, encoding="utf-8")
    task = load_task("text", path=str(tmp_path / "a.txt"), context=1, split=[0.5, 0.25, 0.25])
    assert sum(map(len, parts(task))) == 9 * 20 - 3


def test_python_docs_is_english_and_its_baselines_are_those_we_know() -> None:
    pytest.importorskip("pydoc_data.topics")
    task = load_task("python-docs")
    assert len(task.train) > 300_000
    letters = np.isin(task.train.targets, list(b"abcdefghijklmnopqrstuvwxyz "))
    assert letters.mean() > 0.7
    assert task.baselines["uniform"] == pytest.approx(math.log(256))
    assert task.baselines["unigram"] == pytest.approx(3.25, abs=0.2)
    assert task.baselines["Kneser-Ney bigram"] == pytest.approx(2.32, abs=0.2)
    if sys.version_info[:2] == (3, 11):
        assert task.baselines["unigram"] == pytest.approx(3.250, abs=0.005)
        assert task.baselines["Kneser-Ney bigram"] == pytest.approx(2.325, abs=0.005)
        assert task.baselines["Kneser-Ney trigram"] == pytest.approx(1.736, abs=0.005)


def test_python_docs_are_missed_politely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(InputError, match="installed without its documentation topics"):
        load_task("python-docs")


# Baselines


def test_unigram_by_hand() -> None:
    loss = unigram(np.array([0, 0, 1]), np.array([0, 2]), 3)
    assert loss == pytest.approx(-(math.log(2.1 / 3.3) + math.log(0.1 / 3.3)) / 2)


# Tables


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def two_classes(n: int = 40) -> dict[str, Any]:
    return {"x": np.arange(2 * n).reshape(n, 2), "y": np.arange(n) % 2}


def test_a_thermometer_counts_the_thresholds_below_a_value() -> None:
    code = Thermometer(np.array([[1.0, 2.0], [5.0, 7.0]]))
    inputs = packed(code, np.array([[1.0, 9.0], [2.5, 5.0]]))
    assert unpack_bits(inputs, 4).tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]


def test_a_binary_code_numbers_equal_parts_of_the_training_range() -> None:
    code = learn_encoding("binary", np.array([[0.0, 7.0], [8.0, 7.0]]), 2)
    values = np.array([[0.0, 7.0], [3.9, 7.0], [4.0, 6.0], [8.0, 9.0], [-5.0, 7.0], [99.0, 7.0]])
    numbers = code.bits(values)[:, :2] @ [2, 1]
    assert numbers.tolist() == [0, 1, 2, 3, 0, 3]
    assert code.bits(values[:3])[:, 2:].tolist() == [[False, False]] * 3  # it never varied


def test_a_long_table_is_coded_as_its_rows_are() -> None:
    features = np.random.default_rng(0).random((5000, 3))
    code = Thermometer(np.array([[0.2, 0.8]] * 3))
    inputs = packed(code, features)
    assert np.array_equal(inputs[4990:], packed(code, features[4990:]))


@given(
    hnp.arrays(np.float64, (5, 2), elements=st.floats(allow_nan=False, allow_infinity=False)),
    st.integers(1, 32),
)
def test_a_larger_value_never_has_a_smaller_binary_code(x: NDArray[Any], n_bits: int) -> None:
    code = learn_encoding("binary", x, n_bits)
    numbers = code.bits(np.sort(x, axis=0))[:, :n_bits] @ 2.0 ** np.arange(n_bits)[::-1]
    assert (np.diff(numbers) >= 0).all()
    assert numbers[0] == 0


def test_a_table_may_be_coded_in_binary(tmp_path: Path) -> None:
    path = save(tmp_path / "t.npz", x=np.arange(64)[:, None] % 4, y=np.arange(64) % 4)
    task = load_task("tabular", path=path, thresholds=2, encoding="binary")
    assert np.array_equal(unpack_bits(task.train.inputs, 2) @ [2, 1], task.train.targets)
    with pytest.raises(InputError, match=r"task\.thresholds: 33 bits"):
        load_task("tabular", path=path, thresholds=33, encoding="binary")


def test_a_table_of_pictures_knows_their_shape(tmp_path: Path) -> None:
    x, y = np.arange(480).reshape(20, 4, 6) * 7 % 11, np.arange(20) % 2
    pictures = load_task("tabular", path=save(tmp_path / "p.npz", x=x, y=y), thresholds=2)
    assert (pictures.picture, pictures.input_groups) == ((4, 6), (24, 2))
    flat = load_task("tabular", path=save(tmp_path / "f.npz", x=x.reshape(20, -1), y=y))
    assert flat.picture is None


def test_uniform_thresholds_divide_the_range(tmp_path: Path) -> None:
    x = np.array([[0], [4], [0], [4], [1], [3]] * 10)
    path = save(tmp_path / "t.npz", x=x, y=x[:, 0] > 2)
    task = load_task("tabular", path=path, thresholds=3, encoding="uniform")
    above = {unpack_bits(p.inputs, 3).sum(1)[i] for p in parts(task) for i in range(len(p))}
    assert above == {0, 2, 3}  # thresholds 1, 2, 3: nothing of 1 is above them


def test_quantile_thresholds_cut_the_training_rows_into_equal_shares(tmp_path: Path) -> None:
    x = np.exp(np.random.default_rng(1).normal(size=(1000, 2)) * 3)
    task = load_task(
        "tabular", path=save(tmp_path / "t.npz", x=x, y=np.arange(1000) % 5), thresholds=4
    )
    shares = unpack_bits(task.train.inputs, 8).mean(0)
    assert shares == pytest.approx([0.8, 0.6, 0.4, 0.2] * 2, abs=0.01)
    assert (task.head, task.n_outputs, task.n_clusters) == ("classes", 5, 5)
    assert (task.n_inputs, task.input_groups) == (8, (2, 4))


def test_bytes_are_cut_as_numbers(tmp_path: Path) -> None:
    """Picture bytes must not wrap around where thresholds are interpolated."""
    x = np.array([[0], [255]] * 30, np.uint8)
    both = [
        load_task("tabular", path=save(tmp_path / "t.npz", x=x.astype(kind), y=x[:, 0] > 9))
        for kind in (np.uint8, np.float64)
    ]
    assert np.array_equal(both[0].train.inputs, both[1].train.inputs)


def test_every_row_is_in_one_part(tmp_path: Path) -> None:
    n = 50
    path = save(tmp_path / "t.npz", x=np.arange(n)[:, None], y=np.arange(n))
    task = load_task("tabular", path=path, split=(0.6, 0.2, 0.2))
    assert [len(p) for p in parts(task)] == [30, 10, 10]
    assert sorted(np.concatenate([p.targets for p in parts(task)])) == list(range(n))


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    path = save(tmp_path / "t.npz", **two_classes())
    first, again, other = (load_task("tabular", path=path, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.train.inputs, again.train.inputs)
    assert not np.array_equal(first.train.inputs, other.train.inputs)


def test_a_test_part_of_its_own_is_kept(tmp_path: Path) -> None:
    table = two_classes()
    path = save(
        tmp_path / "t.npz",
        x_train=table["x"],
        y_train=table["y"],
        x_test=np.array([[0, 0], [99, 99]]),
        y_test=np.array([1, 0]),
    )
    task = load_task("tabular", path=path, thresholds=1, split=(0.6, 0.2, 0.2))
    assert [len(p) for p in parts(task)] == [30, 10, 2]
    assert task.test.targets.tolist() == [1, 0]
    assert unpack_bits(task.test.inputs, 2).tolist() == [[0, 0], [1, 1]]


def test_pictures_are_rows_of_pixels(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 255, (30, 4, 5), np.uint8)
    task = load_task(
        "tabular", path=save(tmp_path / "t.npz", x=x, y=np.arange(30) % 3), thresholds=2
    )
    assert task.input_groups == (20, 2)


ROWS = "\n".join(f"{i},{i % 3},{'cat' if i % 2 else 'dog'}" for i in range(20))


def test_a_csv_needs_no_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(ROWS)
    (tmp_path / "b.csv").write_text("\ufefflength,width,animal\n" + ROWS, encoding="utf-8")
    plain, headed = (load_task("tabular", path=tmp_path / f"{name}.csv") for name in "ab")
    assert plain.n_outputs == headed.n_outputs == 2
    assert sum(map(len, parts(headed))) == 20
    assert np.array_equal(plain.train.inputs, headed.train.inputs)


def test_a_column_named_target_is_the_label(tmp_path: Path) -> None:
    rows = [f"{i % 2},{i}" for i in range(20)]
    (tmp_path / "a.csv").write_text("\n".join(["target,7", *rows]))
    task = load_task("tabular", path=tmp_path / "a.csv")
    assert (task.n_outputs, task.input_groups) == (2, (1, 8))


def test_numbered_classes_are_ordered_by_number(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("2,2\n10,10\n" * 10)
    task = load_task("tabular", path=tmp_path / "a.csv", thresholds=1, encoding="uniform")
    assert np.array_equal(task.train.targets, unpack_bits(task.train.inputs, 1)[:, 0])


# What is refused


def test_shares_add_up_in_spite_of_rounding() -> None:
    assert cut_points(10, 0.7, 0.2) == [7, 9]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("pictures", {}, r"task.kind: 'pictures' is not one of python-docs, text, tabular"),
        (["text"], {}, r"task.kind: \['text'\] is not one of"),
        ("text", {}, r"task.path: text needs the path of a file"),
        ("text", {"path": 7}, r"task.path: 7 is not the path"),
        ("text", {"path": "no\0file"}, r"cannot be read \(embedded null byte\)"),
        ("python-docs", {"seed": 1}, r"task.seed: python-docs has no such option; it has context"),
        ("python-docs", {"context": 0}, r"task.context: 0 is not a whole number of at least 1"),
        ("python-docs", {"context": 2.5}, r"task.context: 2.5 is not a whole number"),
        ("python-docs", {"context": True}, r"task.context: True is not a whole number"),
        ("python-docs", {"context": 10**6}, r"python-docs: the train part has .* too few"),
        ("python-docs", {"split": [0.9, 0.1]}, r"task.split: \[0.9, 0.1\] are not three shares"),
        ("python-docs", {"split": [0.9, 0.2, 0.1]}, r"task.split: .* sum to 1"),
        ("python-docs", {"split": [0.9, 0.1, 0.0]}, r"task.split: .* above 0"),
        ("python-docs", {"split": 3}, r"task.split: 3 are not three shares"),
        ("tabular", {"path": "a.csv", "thresholds": 0}, r"task.thresholds: 0 is not a whole"),
        ("tabular", {"path": "a.csv", "seed": -1}, r"task.seed: -1 is not a whole number"),
        ("tabular", {"path": "a.csv", "encoding": "gray"}, r"task.encoding: 'gray' is not one"),
    ],
)
def test_wrong_options(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_task(kind, **options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, r"gone.txt: cannot be read \(No such file or directory\)"),
        ("empty.txt", b"", r"empty.txt: the file is empty"),
        ("short.txt", b"too short", r"short.txt: the train part has 7 of 9 bytes, too few"),
        ("latin1.txt", b"a" * 90 + "ä".encode("latin-1"), r"byte 90 is not UTF-8; convert"),
        ("gone.csv", None, r"gone.csv: cannot be read"),
        ("empty.csv", b"", r"empty.csv: the file is empty"),
        ("blank.csv", b"\n\n\n", r"blank.csv: there are no rows"),
        ("header.csv", b"a,b,target\n", r"header.csv: x has shape \(0, 2\)"),
        ("latin1.csv", b"1,2,\xe4\n", r"byte 4 is not UTF-8"),
        ("one.csv", b"1;2;a\n3;4;b\n", r"line 1 has one column; separate"),
        ("ragged.csv", b"1,2,a\n3,b\n", r"line 2 has 2 columns where the first has 3"),
        ("word.csv", b"x,y,z\n1,2,a\n\n3,four,b\n", r"line 4 has 'four' among its features"),
        ("first.csv", b"1,two,a\n3,4,b\n", r"line 1 has 'two' among its features"),
        ("hole.csv", b"1,2,a\n3,,b\n", r"line 2 has '' among its features"),
        ("nan.csv", b"1,2,a\n3,nan,b\n", r"row 2, feature 2 is nan; fill it in"),
        ("infinite.csv", b"1,-inf,a\n3,4,b\n", r"row 1, feature 2 is -inf"),
        ("label.csv", b"1,2,a\n3,4,\n", r"line 2 has no label"),
        ("price.csv", b"1,2,1.0\n3,4,2.5\n", r"row 2 has the label 2.5; a class is needed"),
        ("quote.csv", b'1,2,"a\n3,4,b\n', r"quote.csv: line 2 is not CSV"),
        ("same.csv", b"1,2,a\n" * 20, r"training rows have the same label"),
        ("few.csv", b"1,2,a\n1,2,b\n", r"2 rows leave a part of task.split empty"),
        ("table.xlsx", b"PK", r"table.xlsx: a table ends in .csv or .npz"),
        ("junk.npz", b"no archive at all", r"junk.npz: this is no npz file"),
    ],
)
def test_wrong_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_task("text" if name.endswith(".txt") else "tabular", path=path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        load_task("text", path=tmp_path)


X, Y = np.ones((4, 2)), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": X}, r"the arrays are none; x and y are needed"),
        ({"x": X}, r"the arrays are x; x and y are needed"),
        ({"x": Y, "y": Y}, r"x has shape \(4,\); rows of features are needed"),
        ({"x": X, "y": Y[:3]}, r"y has shape \(3,\); one label is needed for each of the 4 rows"),
        ({"x": X, "y": np.eye(4)}, r"y has shape \(4, 4\); one label"),
        ({"x": X.astype(str), "y": Y}, r"x has dtype <U32; numbers are needed"),
        ({"x": X, "y": Y * 1j}, r"y has dtype complex128; whole numbers or names are needed"),
        ({"x": X, "y": Y + 0.5}, r"row 1 has the label 0.5; a class is needed"),
        ({"x": X, "y": Y * np.nan}, r"row 1 has the label nan"),
        ({"x": X * np.nan, "y": Y}, r"row 1, feature 1 is nan"),
        ({"x": X[:, :0], "y": Y}, r"x has shape \(4, 0\)"),
        (
            {"x_train": X, "y_train": Y, "x_test": X[:, :1], "y_test": Y},
            r"x_train has 2 features per row and x_test 1",
        ),
    ],
)
def test_wrong_arrays(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_task("tabular", path=save(tmp_path / "t.npz", **arrays))


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    path = save(tmp_path / "t.npz", x=X, y=np.array([object()] * 4))
    with pytest.raises(InputError, match="arrays of Python objects are not loaded"):
        load_task("tabular", path=path)


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "t.npz", **two_classes(500))
    content = bytearray(path.read_bytes())
    content[300:400] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read \(damaged\)"):
        load_task("tabular", path=path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", "hello")
        archive.writestr("y.npy", "hello")
    (tmp_path / "t.npz").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match=r"t\.npz: "):
        load_task("tabular", path=tmp_path / "t.npz")
