"""Text that a network writes: drawn by its probabilities, and the same for the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import make_genome
from networks import make_task
from numpy.typing import NDArray

from optuna_wnn import InputError
from optuna_wnn import MemorySettings
from optuna_wnn import RAMNetwork
from optuna_wnn import load_task
from optuna_wnn.evaluators import predictions
from optuna_wnn.tasks.text import text_code
from optuna_wnn.tasks.text import windows


HEADS = ["bits", "chained_bits", "tokens"]
POEM = "a rose is a rose is a rose , is it not ?\n" * 12
WORDS = {"tokenizer": "words", "context": 2}


@pytest.fixture
def poem(tmp_path: Path) -> Path:
    path = tmp_path / "poem.txt"
    path.write_text(POEM)
    return path


def reader_of(path: Path, head: str, code: str = "id") -> RAMNetwork:
    task = load_task("text", path=path, **WORDS, head=head, code=code)
    memory = MemorySettings(temperature=0.2 if head == "tokens" else 1.0)
    network = RAMNetwork.for_task(task, make_genome(task, 8, [6]), memory)
    return network.fit(task.train.inputs, task.train.targets)


def shares(draws: list[int], n: int) -> NDArray[np.float64]:
    return np.bincount(draws, minlength=n) / len(draws)


@pytest.mark.parametrize("n_outputs", [5, 8, 9, 13, 16])
def test_codes_are_drawn_by_their_probabilities(n_outputs: int) -> None:
    rng = np.random.default_rng(n_outputs)
    odds = rng.normal(size=(n_outputs - 1).bit_length()) * 2
    expected = np.exp(predictions.bit_log_probabilities(odds[:, None], n_outputs)[0])
    draws = [predictions.drawn_code(odds, n_outputs, rng) for _ in range(8000)]
    assert shares(draws, n_outputs) == pytest.approx(expected, abs=0.025)
    others = [predictions.drawn(np.log(expected), rng) for _ in range(8000)]
    assert shares(others, n_outputs) == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize("n_outputs", [5, 8, 13])
def test_chains_are_drawn_by_their_probabilities(n_outputs: int) -> None:
    rng = np.random.default_rng(n_outputs)
    n_bits = (n_outputs - 1).bit_length()
    odds = rng.normal(size=(n_bits, 1 << n_bits)) * 2
    log_p = predictions.chained_log_probabilities(
        lambda k, n: odds[k, :n][None].copy(), 1, n_bits, n_outputs
    )
    draws = [
        predictions.drawn_chain(lambda k, p: odds[k, p], n_bits, n_outputs, 1.0, rng)
        for _ in range(8000)
    ]
    assert shares(draws, n_outputs) == pytest.approx(np.exp(log_p[0]), abs=0.025)


@pytest.mark.parametrize("head", HEADS)
def test_a_network_writes_by_its_own_probabilities(poem: Path, head: str) -> None:
    network = reader_of(poem, head)
    prompt = text_code("text", {"path": poem, **WORDS}).targets("is a")
    inputs = windows(np.append(prompt, 0), 2, 4).inputs
    (expected,) = network.predict_proba(inputs)
    draws = [int(network.generate(prompt, 1, seed=seed)[0]) for seed in range(1500)]
    assert shares(draws, network.n_outputs) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("head", HEADS)
def test_the_same_seed_writes_the_same(poem: Path, head: str) -> None:
    network = reader_of(poem, head)
    first, second, other = (
        network.generate(np.array([3, 4, 5]), 60, temperature=2.0, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert first.min() >= 0
    assert first.max() < network.n_outputs


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("code", ["id", "gray", "frequency"])
def test_without_temperature_a_learnt_text_goes_on(poem: Path, head: str, code: str) -> None:
    network = reader_of(poem, head, code)
    known = text_code("text", {"path": poem, **WORDS, "code": code})
    first = known.targets("a rose is a rose is")
    added = network.generate(first[:2], 2, temperature=0.0, seen=known.seen)
    assert known.text(added) == "is a"


def test_a_longer_prompt_is_seen_by_its_end(poem: Path) -> None:
    network = reader_of(poem, "bits")
    prompt = np.array([1, 5, 2, 7, 3])
    assert np.array_equal(
        network.generate(prompt, 9, seed=4), network.generate(prompt[-2:], 9, seed=4)
    )
    assert len(network.generate(prompt, 0)) == 0


@pytest.mark.parametrize("code", ["id", "gray", "frequency"])
def test_text_becomes_targets_and_text_again(poem: Path, code: str) -> None:
    words = text_code("text", {"path": poem, **WORDS, "code": code})
    task = load_task("text", path=poem, **WORDS, code=code)
    targets = words.targets(POEM)
    assert np.array_equal(targets[2 : 2 + len(task.train)], task.train.targets)
    assert words.text(targets) == POEM.rstrip("\n") + " \n"
    assert words.text(words.targets("a thorn is")) == "a <unk> is"
    octets = text_code("python-docs", {})
    assert octets.text(octets.targets("Grüße")) == "Grüße"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": [1]}, "has 1 targets, and 2 are seen"),
        ({"prompt": [1, 99]}, r"not all in"),
        ({"prompt": [0.5, 1.0]}, "the prompt has 2 targets"),
        ({"n": -1}, "n is -1"),
        ({"temperature": float("nan")}, "temperature nan"),
    ],
)
def test_what_cannot_be_written_on_is_said(
    poem: Path, arguments: dict[str, Any], message: str
) -> None:
    given = {"prompt": [1, 2], "n": 3, **arguments}
    network = reader_of(poem, "bits")
    with pytest.raises(InputError, match=message):
        network.generate(np.array(given.pop("prompt")), **given)


def test_only_networks_of_text_write() -> None:
    task = make_task("classes")
    network = RAMNetwork.for_task(task, make_genome(task, 2, [3]))
    with pytest.raises(InputError, match="needs the network of a text"):
        network.generate(np.array([1]), 1)
