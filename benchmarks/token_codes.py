"""What a token's code does to a search on text: left-out loss against that of the next text.

The search is guided by the training part, blocks of it left out. Ranks by frequency are counted
on the same part, so inside it no token is new: where the left-out loss falls and the validation
loss does not follow, the search has learnt just that. Each code gets the same random wirings and
the same number of moves.
"""

from __future__ import annotations

import argparse
import platform
import time

import numpy as np

from optuna_wnn import GenomeSpace
from optuna_wnn import MemorySettings
from optuna_wnn import load_task
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.tasks.codes import CODES


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
    parser.add_argument("--moves", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, {options}\n")
    print("| code | seed | left-out, random | refined | validation, random | refined | CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for code in CODES:
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
        evaluator = create_evaluator(task, MemorySettings(fitness_on="leave_block_out"))
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
                for part in ("fitness", "validation")
                for wiring in (genome, refined)
            ]
            shown = " | ".join(f"{loss:.3f}" for loss in losses)
            print(f"| `{code}` | {seed} | {shown} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()
