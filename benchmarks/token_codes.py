"""What a token's code does to a search on text: the loss that guides it, and that of other text.

Ranks by frequency are counted on the training part, so inside it no token is new. A search that is
guided by that part, blocks of it left out, can learn just this: then what guides it falls, and
the loss on the test part does not follow. Each code gets the same random wirings and the same
number of moves.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
from typing import Final

import numpy as np

from optuna_wnn import GenomeSpace
from optuna_wnn import MemorySettings
from optuna_wnn import load_task
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators.base import EvaluationPart
from optuna_wnn.memory import FitnessOn
from optuna_wnn.tasks.codes import CODES


GUIDES: Final[tuple[FitnessOn, ...]] = ("leave_block_out", "validation")
PARTS: Final[tuple[EvaluationPart, ...]] = ("fitness", "test")


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", help="a file of UTF-8 text")
    parser.add_argument("vocabulary", help="the folder of GPT-2's encoder.json and vocab.bpe")
    parser.add_argument("--train", type=int, default=200_000, help="tokens; then come the others")
    parser.add_argument("--validation", type=int, default=50_000)
    parser.add_argument("--head", default="chained_bits")
    parser.add_argument("--neurons", type=int, default=6)
    parser.add_argument("--bits", type=int, default=20)
    parser.add_argument("--codes", nargs="+", default=CODES, choices=CODES)
    parser.add_argument("--moves", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, {options}\n")
    print("| guided by | code | seed | guide, random | refined | test, random | refined | CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for code, guide in itertools.product(options.codes, GUIDES):
        task = load_task(
            "text",
            path=options.text,
            tokenizer="gpt2",
            vocabulary=options.vocabulary,
            lines="joined",
            code=code,
            context=4,
            split=[options.train, options.validation, options.validation],
            head=options.head,
        )
        evaluator = create_evaluator(task, MemorySettings(fitness_on=guide), backend="cpu")
        space = GenomeSpace.for_task(
            task, neurons=options.neurons, bits=options.bits, free=["connections"]
        )
        for seed in range(options.seeds):
            genome = space.sample(np.random.default_rng(seed))
            before = time.process_time()
            refined, _ = evaluator.refine(genome, space.bounds, space.free, options.moves, seed)
            spent = time.process_time() - before
            losses = [
                evaluator.evaluate(wiring, part).cross_entropy
                for part in PARTS
                for wiring in (genome, refined)
            ]
            shown = " | ".join(f"{loss:.3f}" for loss in losses)
            print(f"| `{guide}` | `{code}` | {seed} | {shown} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()
