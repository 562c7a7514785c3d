"""Text tasks: tokenizers, token codes, parts, the cache, and the baselines beside every result."""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from optuna_wnn.config import parse_config
from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.sources import load_config
from optuna_wnn.space import GenomeSpace
from optuna_wnn.tasks import Task
from optuna_wnn.tasks import load_task
from optuna_wnn.tasks.base import PARTS
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import add_codes
from optuna_wnn.tasks.base import pack_bits
from optuna_wnn.tasks.base import unpack_bits
from optuna_wnn.tasks.cache import Cache
from optuna_wnn.tasks.codes import code_tables
from optuna_wnn.tasks.kneser_ney import kneser_ney
from optuna_wnn.tasks.text import windows
from optuna_wnn.tasks.tokenizers import GPT2
from optuna_wnn.tasks.tokenizers import Words


ROOT = Path(__file__).parent.parent


def all_parts(task: Task) -> list[Examples]:
    return [task.train, task.validation, task.test]


def written(path: Path, text: str) -> str:
    path.write_bytes(text.encode())
    return str(path)


# -- Kneser-Ney -----------------------------------------------------------------------------------


def by_hand(train: Sequence[int], history: tuple[int, ...], order: int, v: int) -> list[float]:
    """Return the probability of every token after a history, by the formula, with dictionaries."""
    counts = Counter(tuple(train[i : i + order]) for i in range(len(train) - order + 1))
    levels = [counts]
    while len(levels) < order:
        levels.append(Counter(gram[1:] for gram in levels[-1]))

    def probability(word: int, before: tuple[int, ...]) -> float:
        level = levels[order - 1 - len(before)]
        lower = probability(word, before[1:]) if before else 1 / v
        after = {gram: n for gram, n in level.items() if gram[:-1] == before}
        if not after:
            return lower
        ones, twos = (sum(n == times for n in level.values()) for times in (1, 2))
        discount = ones / (ones + 2 * twos) if ones else 0.5
        kept = max(after.get((*before, word), 0) - discount, 0)
        return (kept + discount * len(after) * lower) / sum(after.values())

    return [probability(word, history) for word in range(v)]


texts = st.lists(st.integers(0, 4), min_size=1, max_size=40)


@given(texts, st.lists(st.integers(0, 5), min_size=1, max_size=8), st.integers(1, 3))
@settings(deadline=None)
def test_kneser_ney_is_what_its_formula_says(
    train: list[int], test: list[int], order: int
) -> None:
    found = kneser_ney(np.array(train, np.uint8), np.array(test, np.uint8), order, 6)
    for i, word in enumerate(test):
        before = tuple(test[max(0, i - order + 1) : i])
        assert found[i] == pytest.approx(by_hand(train, before, order, 6)[word])


@given(texts, st.lists(st.integers(0, 6), max_size=2), st.integers(1, 3))
@settings(deadline=None)
def test_every_token_has_a_probability_and_they_sum_to_one(
    train: list[int], before: list[int], order: int
) -> None:
    """Also those that the training text does not have, after histories that it does not have."""
    after = [
        kneser_ney(np.array(train), np.array([*before, word]), order, 7)[-1] for word in range(7)
    ]
    assert min(after) > 0
    assert sum(after) == pytest.approx(1)


def test_a_vocabulary_too_large_for_n_grams_is_refused() -> None:
    with pytest.raises(ValueError, match="too many for n-grams of 3"):
        kneser_ney(np.zeros(2, int), np.zeros(2, int), 3, 1 << 21)


def test_the_baselines_are_measured_where_windows_end(tmp_path: Path) -> None:
    text = "the cat sat on the mat and the rat sat on the hat " * 4
    task = load_task("text", path=written(tmp_path / "a.txt", text), context=5)
    codes = np.frombuffer(text.encode(), np.uint8)
    train, test = codes[: len(task.train) + 5], codes[-len(task.test) - 5 :]
    assert task.baselines["uniform"] == pytest.approx(math.log(256))
    for order, name in ((2, "Kneser-Ney bigram"), (3, "Kneser-Ney trigram")):
        losses = -np.log(kneser_ney(train, test, order, 256))[5:]
        assert task.baselines[name] == pytest.approx(losses.mean())


@pytest.mark.parametrize("head", ["bits", "chained_bits", "tokens"])
@pytest.mark.parametrize("code", ["id", "gray", "frequency"])
def test_baselines_do_not_depend_on_code_and_head(tmp_path: Path, head: str, code: str) -> None:
    path = written(tmp_path / "a.txt", "a rose is a rose is a rose , is it not ? " * 5)
    plain = load_task("text", path=path, tokenizer="words", context=2)
    other = load_task("text", path=path, tokenizer="words", context=2, head=head, code=code)
    assert other.baselines == plain.baselines


# -- codes and windows ----------------------------------------------------------------------------


@given(st.integers(0, 130), st.integers(0, 64), st.data())
def test_codes_are_written_most_significant_bit_first(
    start: int, n_bits: int, data: st.DataObject
) -> None:
    codes = data.draw(st.lists(st.integers(0, 2**n_bits - 1), min_size=1, max_size=4))
    inputs = np.zeros((len(codes), 4), np.uint64)
    add_codes(inputs, start, np.array(codes, np.uint64), n_bits)
    bits = np.zeros((len(codes), 256), bool)
    for row, number in enumerate(codes):
        for b in range(n_bits):
            bits[row, start + b] = number >> (n_bits - 1 - b) & 1
    assert np.array_equal(inputs, pack_bits(bits))


def test_gray_codes_of_neighbours_differ_in_one_bit() -> None:
    seen, predicted = code_tables("gray", np.zeros(0, int), 11)
    assert [int(a ^ b).bit_count() for a, b in itertools.pairwise(seen)] == [1] * 10
    assert len(set(seen.tolist())) == 11
    assert seen.max() < 16
    assert predicted.tolist() == list(range(11))


def test_frequency_codes_are_ranks_and_equals_keep_the_order_of_their_ids() -> None:
    seen, predicted = code_tables("frequency", np.array([4, 4, 4, 2, 2, 0, 3]), 6)
    assert predicted.tolist() == [2, 4, 1, 3, 0, 5]
    assert seen.tolist() == predicted.tolist()


def test_inputs_show_the_codes_of_the_tokens_before(tmp_path: Path) -> None:
    ids = np.array([3, 1, 0, 2], np.uint8)
    codes = np.array([5, 6, 7, 4])
    examples = windows(ids, 2, 3, codes, np.array([0, 1, 2, 3]))
    assert unpack_bits(examples.inputs, 6).tolist() == [[1, 0, 0, 1, 1, 0], [1, 1, 0, 1, 0, 1]]
    assert examples.targets.tolist() == [0, 2]


def test_frequencies_are_those_of_the_training_part_alone(tmp_path: Path) -> None:
    paths = {
        "train": written(tmp_path / "a.txt", "b b b a c a " * 3),
        "validation": written(tmp_path / "b.txt", "c c c c " * 9),
        "test": written(tmp_path / "c.txt", "c a d d d d"),
    }
    task = load_task(
        "text", path=paths, tokenizer="words", code="frequency", context=1, head="tokens"
    )
    # <unk> is never seen in training: the last of b, a, c, <unk>.
    assert task.test.targets.tolist() == [1, 3, 3, 3, 3]
    assert set(task.validation.targets.tolist()) == {2}


@pytest.mark.parametrize(
    ("head", "n_clusters", "n_inputs"), [("bits", 3, 9), ("chained_bits", 3, 11), ("tokens", 6, 9)]
)
def test_heads_of_a_vocabulary_of_words(
    tmp_path: Path, head: str, n_clusters: int, n_inputs: int
) -> None:
    path = written(tmp_path / "a.txt", "a b c d e " * 10)
    task = load_task("text", path=path, tokenizer="words", context=3, head=head)
    assert (task.head, task.n_outputs, task.n_clusters) == (head, 6, n_clusters)  # and <unk>
    assert (task.n_inputs, task.input_groups) == (n_inputs, (3, 3))


# -- words ----------------------------------------------------------------------------------------


def test_words_are_numbered_in_the_order_of_their_characters() -> None:
    words = Words()
    ids: NDArray[Any] = words.encode("to be or not\n to be")
    parts, n_tokens = words.close({"train": ids, "validation": ids[:1], "test": ids[4:5]})
    names = ["\n", "<unk>", "be", "not", "or", "to"]
    assert n_tokens == len(names)
    assert [names[i] for i in parts["train"]] == ["to", "be", "or", "not", "\n", "to", "be"]
    assert parts["test"].tolist() == [0]


def test_words_that_training_does_not_have_are_one_unknown_word() -> None:
    words = Words()
    ids = words.encode("a b <unk> c x y")
    parts, n_tokens = words.close({"train": ids[:4], "validation": ids[2:3], "test": ids[4:]})
    assert n_tokens == 4
    assert parts["test"].tolist() == [*parts["validation"].tolist()] * 2


# -- GPT-2's byte pairs ---------------------------------------------------------------------------


def vocabulary(folder: Path, merges: Sequence[str] = ("t h", "Ġ th", "th e", "Ġth e")) -> Path:
    """Write a byte-pair vocabulary as GPT-2's files are: all bytes, and a few merges."""
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    spelt = list(map(chr, printable)) + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [*spelt, *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
    folder.mkdir(exist_ok=True)
    written(folder / "encoder.json", json.dumps({token: i for i, token in enumerate(tokens)}))
    written(folder / "vocab.bpe", "\n".join(["#version: 0.2", *merges, ""]))
    return folder


def test_byte_pairs_are_merged_in_the_order_of_the_file(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    reader = GPT2(vocabulary(tmp_path / "v"), Cache(None))
    ids = reader.encode("the they é<|endoftext|>")
    names = {
        i: token for token, i in json.loads((tmp_path / "v/encoder.json").read_text()).items()
    }
    spelt = "".join(names[i] + "|" for i in ids.tolist())
    assert spelt.startswith("the|Ġthe|y|Ġ|Ã|©|<|")
    assert reader.n_tokens == 261
    assert ids.max() < 260  # the end of a text is no token of it


def test_a_task_of_byte_pairs(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    path = written(tmp_path / "a.txt", "the other of the others " * 20)
    task = load_task(
        "text", path=path, tokenizer="gpt2", vocabulary=vocabulary(tmp_path / "v"), context=2
    )
    assert (task.n_outputs, task.n_clusters, task.n_inputs) == (261, 9, 18)


def test_without_tiktoken_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    options = {"tokenizer": "gpt2", "vocabulary": vocabulary(tmp_path / "v")}
    with pytest.raises(InputError, match=r"pip install 'optuna-wnn\[tokenizers\]'"):
        load_task("text", path=written(tmp_path / "a.txt", "the " * 50), **options)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (("encoder.json", None), r"encoder.json: cannot be read .*correct task.vocabulary"),
        (("vocab.bpe", None), r"vocab.bpe: cannot be read"),
        (("encoder.json", "[1, 2"), r"are not the two files of one vocabulary"),
        (("encoder.json", "[1, 2]"), r"are not the two files of one vocabulary"),
        (("encoder.json", '{"a": 0}'), r"are not the two files of one vocabulary"),
        (("vocab.bpe", "#version\n\N{SNOWMAN} a\n"), r"are not the two files of one vocabulary"),
        (("vocab.bpe", "#version\nt h\n"), r"are not the two files of one vocabulary"),
    ],
)
def test_a_wrong_vocabulary(tmp_path: Path, damage: tuple[str, str | None], message: str) -> None:
    name, content = damage
    folder = vocabulary(tmp_path / "v")
    if content is None:
        (folder / name).unlink()
    else:
        written(folder / name, content)
    with pytest.raises(InputError, match=message):
        GPT2(folder, Cache(None))


# -- parts ----------------------------------------------------------------------------------------


def digits(examples: Examples) -> str:
    return bytes(examples.targets.astype(np.uint8)).decode()


def test_files_of_a_list_follow_each_other(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{i}.txt", str(i) * 10) for i in range(10)]
    task = load_task("text", path=paths, context=1)
    assert [digits(part)[::9] for part in all_parts(task)][1:] == ["8", "9"]
    assert task.name == "0"


def test_each_part_may_have_files_of_its_own(tmp_path: Path) -> None:
    a, b, c = (written(tmp_path / f"{name}.txt", name * 9) for name in "abc")
    task = load_task(
        "text", path={"train": [a, b], "validation": c, "test": b}, context=2, first={"train": 12}
    )
    assert [digits(part) for part in all_parts(task)] == ["a" * 7 + "bbb", "c" * 7, "b" * 7]
    assert task.name == "a"


def test_a_split_in_tokens_leaves_the_rest_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "0123456789abcdefghij")
    task = load_task("text", path=path, context=1, split=[5, 3, 2])
    assert [digits(part) for part in all_parts(task)] == ["1234", "67", "9"]


def test_the_first_tokens_of_each_part(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "0123456789abcdefghij")
    task = load_task("text", path=path, context=1, split=[0.5, 0.25, 0.25], first=3)
    assert [digits(part) for part in all_parts(task)] == ["12", "bc", "gh"]


def test_joined_lines_are_those_that_are_not_blank(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "\n".join(["", " a ", " ", "b"] * 20))
    task = load_task("text", path=path, context=1, lines="joined", split=[10, 10, 10])
    assert digits(task.train) == "a  b  a  "


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "letters"}, r"task.tokenizer: 'letters' is not one of bytes, words, gpt2"),
        ({"tokenizer": ["words"]}, r"task.tokenizer: \['words'\] is not one of"),
        ({"tokenizer": "gpt2"}, r"task.vocabulary: gpt2 needs the folder .*nothing is downloaded"),
        ({"tokenizer": "gpt2", "vocabulary": 3}, r"task.vocabulary: 3 is not the path"),
        ({"vocabulary": "here"}, r"task.vocabulary: bytes have none in files; leave it out"),
        ({"code": "huffman"}, r"task.code: 'huffman' is not one of id, gray, frequency"),
        ({"lines": "cut"}, r"task.lines: 'cut' is not one of kept, joined"),
        ({"first": 0}, r"task.first: 0 is not a whole number of at least 1"),
        (
            {"first": [200, 50]},
            r"task.first: \[200, 50\] is neither a whole number nor one for",
        ),
        ({"first": {"train": "all"}}, r"task.first.train: 'all' is not a whole number"),
        ({"first": {"dev": 3}}, r"task.first: 'dev' is not one of train, validation, test"),
        ({"first": {"test": 4}}, r"the test part has 4 of .* bytes, too few"),
        ({"split": [90, 90, 90]}, r"task.split wants 270 of 200 bytes; lower its numbers"),
        ({"cache": 3}, r"task.cache: 3 is not true, false or the path of a folder"),
        ({"cache": "a\0b"}, r"task.cache: .* is not true, false or the path"),
        ({"path": []}, r"task.path: \[\] is not the path of a file"),
        ({"path": {"train": "a"}}, r"task.path: train is named; name files of train, valid"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "a.txt", "ab" * 100)
    with pytest.raises(InputError, match=message) as caught:
        load_task("text", **{"path": path, **options})
    assert "\n" not in str(caught.value)


def test_files_of_the_parts_and_a_split_exclude_each_other(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "ab" * 100)
    files = dict.fromkeys(PARTS, path)
    assert load_task("text", path=files, split=[0.8, 0.1, 0.1]).name == "a"  # what init writes
    with pytest.raises(InputError, match=r"task.split: task.path names the files of each part"):
        load_task("text", path=files, split=[0.6, 0.2, 0.2])


def test_where_files_lie_is_not_part_of_what_a_run_is() -> None:
    task = {"kind": "text", "path": {"train": "a"}, "vocabulary": "v", "cache": "c", "code": "id"}
    identity = parse_config({"name": "x", "task": task}).identity()
    assert identity["task"] == {"kind": "text", "code": "id"}


# -- the cache ------------------------------------------------------------------------------------


def squares() -> NDArray[Any]:
    return np.arange(5, dtype=np.uint16) ** 2


def never() -> NDArray[Any]:
    raise AssertionError("it is in the cache")


def test_what_is_in_the_cache_is_not_computed_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "deep" / "folder")
    sources = (b"text", np.arange(3), 7)
    first = cache.get("squares", sources, squares)
    again = cache.get("squares", (b"text", np.arange(3), 7), never)
    assert again.dtype == first.dtype == np.uint16
    assert again.tolist() == first.tolist()


@pytest.mark.parametrize(
    "other", [(b"tex", np.arange(3), 7), (b"text", np.arange(3, dtype=np.uint8), 7), (b"text",)]
)
def test_other_sources_are_another_file(tmp_path: Path, other: tuple[Any, ...]) -> None:
    cache = Cache(tmp_path)
    cache.get("squares", (b"text", np.arange(3), 7), squares)
    assert cache.get("squares", other, lambda: np.zeros(1)).tolist() == [0]


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.get("squares", (), squares)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        assert cache.get("squares", (), squares).tolist() == [0, 1, 4, 9, 16]
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]  # nothing unfinished is left


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    cache = Cache(Path(written(tmp_path / "file", "")))
    assert cache.get("squares", (), squares).tolist() == [0, 1, 4, 9, 16]


def test_long_texts_are_tokenised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tiktoken")
    options = {
        "path": written(tmp_path / "a.txt", "the cat sat on the mat , the end .\n" * 33_000),
        "tokenizer": "gpt2",
        "vocabulary": vocabulary(tmp_path / "v"),
        "cache": tmp_path / "cache",
    }
    task = load_task("text", **options)
    kinds = sorted(path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir())
    assert kinds == ["baselines", "gpt2"]
    monkeypatch.setitem(sys.modules, "tiktoken", None)  # not needed any more
    again = load_task("text", **options)
    assert again.digest == task.digest
    assert again.baselines == task.baselines
    with pytest.raises(InputError, match="tiktoken"):
        load_task("text", **{**options, "cache": False})


def test_short_texts_leave_the_users_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_task("text", path=written(tmp_path / "a.txt", "ab" * 100))
    assert not (tmp_path / "cache").exists()


# -- examples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wikitext2-bits", "wikitext2-tokens"])
def test_the_examples_of_published_models_are_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each is checked whole, on a small text in the place of WikiText-2."""
    pytest.importorskip("tiktoken")
    config = load_config(ROOT / "examples" / f"{name}.yaml")
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "wikitext-2.txt", "the other of the others\n" * 40)
    vocabulary(tmp_path / "gpt2")
    task = load_task(config.task.kind, **{**config.task.options, "split": [300, 100, 100]})
    assert config.task.options["split"] == [200_000, 50_000, 50_000]
    assert task.head == name.partition("-")[2]
    space = GenomeSpace.for_task(task, neurons=config.space.start_neurons or 1, bits=8)
    result = create_evaluator(task, config.memory, backend="reference").evaluate(
        space.sample(np.random.default_rng(0))
    )
    assert 0 < result.cross_entropy < 2 * math.log(task.n_outputs)
    assert len(config.phases) == 6


@pytest.mark.parametrize(
    ("name", "split", "smaller"),
    [
        ("wikitext2-chained", [200_000, 0, 50_000], [600, 0, 150]),
        ("wikitext2-unchained", [190_000, 10_000, 50_000], [600, 100, 150]),
    ],
)
def test_the_examples_of_language_models_run_and_end_below_the_unigram(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    split: list[int],
    smaller: list[int],
) -> None:
    """Each is run whole, on a small text and vocabulary, with few trials."""
    pytest.importorskip("tiktoken")
    document = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "wikitext-2.txt", "the other of the others then there he is\n" * 90)
    vocabulary(tmp_path / "gpt2")
    assert document["task"]["split"] == split
    document["task"]["split"] = smaller
    width = (load_task(**document["task"]).n_outputs - 1).bit_length()
    document["space"]["bits"] = [1, 4 * width]
    starts = document["space"]["start_contexts"]  # tokens have fewer bits here
    document["space"]["start_contexts"] = [
        [t if isinstance(t, int) else [t[0], min(t[1], width)] for t in tokens]
        for tokens in starts
    ]
    for phase in document["phases"]:
        phase["trials"] = 4
    storage = optuna.storages.InMemoryStorage()
    summary = PhasedSearch(parse_config(document), storage).run()
    assert len(summary.phases) == 6
    last = summary.phases[-1].test
    assert last is not None
    assert last[0] < summary.baselines["unigram"]
