"""Where the published language models start, and what explains the difference to their report.

First the starting genomes of `examples/wikitext2-bits.yaml` and `examples/wikitext2-tokens.yaml`,
measured on the 50,000 tokens after those that train: all of the 200,000, or a third, as the
published program trained at a time. Then the second once more, in plain NumPy on some of these
examples, as that program computed it on its GPU: it read 15 of every 31 cells of a table from
another place.

    python benchmarks/published_models.py wikitext-2/train.txt gpt2-bpe
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn import load_task
from optuna_wnn.chain import spaces_of
from optuna_wnn.config import RunConfig
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.sources import load_config
from optuna_wnn.tasks import Task
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import unpack_bits


EXAMPLES: Final = Path(__file__).parent.parent / "examples"
WORD: Final = 31  # cells in a word of the published program's tables
MISREAD: Final = 16  # from which on they were read as if counted from 0 again


def measure(config: RunConfig, task: Task) -> tuple[float, float]:
    """Return cross-entropy and accuracy of the starting genome on the validation part."""
    genome = spaces_of(config, task)[0].seeded(1)
    result = create_evaluator(task, config.memory).evaluate(genome, "validation")
    return result.cross_entropy, result.accuracy


def membership_loss(
    task: Task, misread: bool, neurons: int = 5, bits: int = 8, n_read: int = 1500
) -> float:
    """Return the cross-entropy of tables that know which addresses came with their token.

    Args:
        task: With the `tokens` head.
        misread: Whether cells are read as the published program did on its GPU.
        neurons: Of each token.
        bits: Of each neuron; they may observe an input twice, as there.
        n_read: How many validation examples are read.
    """
    rng, n_train = np.random.default_rng(0), len(task.train)
    tokens, of_example = np.unique(task.train.targets, return_inverse=True)
    all_observed = rng.integers(0, task.n_inputs, (task.n_outputs, neurons, bits))
    observed = all_observed[tokens]  # the others have seen nothing
    weights = 1 << np.arange(bits)[::-1]
    train = unpack_bits(task.train.inputs, task.n_inputs)
    table = np.zeros((len(tokens), neurons, 1 << bits), bool)
    neuron = np.arange(neurons)[None]
    for first in range(0, n_train, 20_000):
        rows = np.arange(first, min(first + 20_000, n_train))
        seen = train[rows[:, None, None], observed[of_example[rows]]].astype(np.int64)
        table[of_example[rows][:, None], neuron, seen @ weights] = True
    if misread:
        word, cell = np.divmod(np.arange(1 << bits), WORD)
        table = table[:, :, word * WORD + np.where(cell >= MISREAD, cell - MISREAD, cell)]
    place = np.full(task.n_outputs, -1)
    place[tokens] = np.arange(len(tokens))
    chosen = np.sort(rng.permutation(len(task.validation))[:n_read])
    inputs = unpack_bits(task.validation.inputs[chosen], task.n_inputs)
    losses = []
    for row, target in zip(inputs, place[task.validation.targets[chosen]], strict=True):
        addresses: NDArray[np.int64] = row.astype(np.int64)[observed] @ weights
        scores = table[np.arange(len(tokens))[:, None], neuron, addresses].mean(axis=1)
        mass = np.exp(scores).sum() + task.n_outputs - len(tokens)
        losses.append(np.log(mass) - (scores[target] if target >= 0 else 0.0))
    return float(np.mean(losses))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", help="WikiText-2's training part")
    parser.add_argument("vocabulary", help="the folder of encoder.json and vocab.bpe")
    chosen = parser.parse_args()
    places = [f"task.path={chosen.text}", f"task.vocabulary={chosen.vocabulary}"]

    rows: Sequence[tuple[str, str, list[str], int]] = (
        ("bits, 200 neurons of 20 bits", "bits", [], 1),
        ("the same", "bits", [], 3),
        ("bits, 200 neurons of 16 bits", "bits", ["space.start_bits=16"], 1),
        ("the same", "bits", ["space.start_bits=16"], 3),
        ("bits, 200 neurons of 20 bits", "bits", ["task.split=[2350000, 50000, 10000]"], 1),
        ("tokens, 5 neurons of 8 bits", "tokens", [], 1),
        ("the same", "tokens", [], 3),
    )
    print("| model | trained on | CE | accuracy | CPU s |\n| --- | --- | --- | --- | --- |")
    for name, example, changes, part in rows:
        config = load_config(EXAMPLES / f"wikitext2-{example}.yaml", [*places, *changes])
        task = load_task(config.task.kind, **config.task.options)
        kept = len(task.train) // part
        task = replace(task, train=Examples(task.train.inputs[:kept], task.train.targets[:kept]))
        started = time.process_time()
        loss, accuracy = measure(config, task)
        seconds = time.process_time() - started
        print(f"| {name} | {kept:,} | {loss:.3f} | {accuracy:.3f} | {seconds:.0f} |", flush=True)
    for misread in (False, True):
        how = "misread" if misread else "read rightly"
        loss = membership_loss(task, misread)
        print(f"| its tables in NumPy, {how} | {kept:,} | {loss:.3f} | | |", flush=True)


if __name__ == "__main__":
    main()
