"""What makes a language model of RAM neurons pass the n-grams: an ablation.

Networks whose wiring is given, not searched: under each bit of the next token's code the clusters
observe whole tokens before it. What changes from row to row is how votes are weighed, whether
neurons of different width stand side by side, and which head there is. The cross-entropy is that
of the tokens after those that train; no row sees them.

    python benchmarks/language_model.py wikitext-2/train.txt gpt2-bpe
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from dataclasses import replace
from typing import Any
from typing import Final

import numpy as np

from optuna_wnn import Genome
from optuna_wnn import GenomeSpace
from optuna_wnn import MemorySettings
from optuna_wnn import load_task
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.memory import Vote
from optuna_wnn.tasks import Task


EIGHT: Final[tuple[list[int], ...]] = ([], [1], [1, 2], [1, 2, 3], [2], [3], [1, 3], [2, 3])
CONTEXT: Final = 4


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
        name: What it is.
        contexts: Which tokens the clusters of an output observe, 1 the last.
        vote: How votes are weighed.
        head: The head.
        code: Of tokens.
        is_random: Whether the inputs are drawn at random, as many of them.
    """

    name: str
    contexts: tuple[list[int], ...] = EIGHT
    vote: Vote = "calibrated"
    head: str = "chained_bits"
    code: str = "id"
    is_random: bool = False


ROWS: Final = (
    Row("eight clusters per bit, calibrated"),
    Row("gains of 1 everywhere (mean of log-odds)", vote="log_odds"),
    Row("weighed by confidence", vote="confidence"),
    Row("one cluster per bit: the last token", ([1],)),
    Row("two: none, the last token", ([], [1])),
    Row("three: none, the last, the last two", ([], [1], [1, 2])),
    Row("eight, as many inputs but random ones", is_random=True),
    Row("bits predicted by themselves, calibrated", head="bits"),
    Row(
        "bits predicted by themselves, by confidence, code: frequency",
        vote="confidence",
        head="bits",
        code="frequency",
    ),
)


def genome_of(row: Row, task: Task) -> Genome:
    """Return the network's wiring."""
    space = GenomeSpace.for_task(
        task, neurons=1, bits=(1, 16 * CONTEXT), start_contexts=row.contexts
    )
    genome = space.starting_genome()
    assert genome is not None
    if not row.is_random:
        return genome
    rng = np.random.default_rng(0)
    return Genome.of_clusters(
        rng.permutation(int(seen))[: genome.cluster(k).shape[1]][None].astype(np.int32)
        for k, seen in enumerate(space.bounds.visible_inputs)
    )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", help="a file of text, such as WikiText-2's training part")
    parser.add_argument("vocabulary", help="the folder of encoder.json and vocab.bpe")
    parser.add_argument("--train", type=int, default=200_000, help="tokens that train")
    parser.add_argument("--test", type=int, default=50_000, help="tokens after them")
    chosen = parser.parse_args()
    options: dict[str, Any] = {
        "path": chosen.text,
        "tokenizer": "gpt2",
        "vocabulary": chosen.vocabulary,
        "lines": "joined",
        "context": CONTEXT,
        "split": [chosen.train, 0, chosen.test],
    }
    kinds = {(row.head, row.code) for row in ROWS}
    tasks = {
        (head, code): load_task("text", head=head, code=code, **options) for head, code in kinds
    }
    print("| network | test CE | test accuracy | fit, CPU s | test, CPU s |")
    print("| --- | --- | --- | --- | --- |")
    for row in ROWS:
        task = replace(tasks[row.head, row.code], clusters_per_output=len(row.contexts))
        memory = MemorySettings(vote=row.vote, fitness_on="leave_block_out")
        evaluator, genome = create_evaluator(task, memory), genome_of(row, task)
        started = time.process_time()
        if row.vote == "calibrated":
            evaluator = evaluator.calibrated(genome)
        fitted = time.process_time()
        result = evaluator.evaluate(genome, "test")
        print(
            f"| {row.name} | {result.cross_entropy:.3f} | {result.accuracy:.3f} "
            f"| {fitted - started:.1f} | {time.process_time() - fitted:.1f} |",
            flush=True,
        )
    for name, value in task.baselines.items():
        print(f"| {name} | {value:.3f} | | | |")


if __name__ == "__main__":
    main()
