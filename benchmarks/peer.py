"""``wisardpkg`` beside the ``cpu`` backend: a WiSARD of 14 bits per neuron over 784 bits."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
from workloads import Row
from workloads import images_like
from workloads import network
from workloads import take_turns
from workloads import votes_of

from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import unpack_bits


_WISARD = """
import sys, time
import numpy as np
import wisardpkg
data = np.load(sys.argv[1])
bits = int(sys.argv[2])
started = time.process_time()
train, read = data["train"].tolist(), data["read"].tolist()
targets = [str(t) for t in data["targets"]]
converted = time.process_time()
try:
    train, read = wisardpkg.DataSet(train, targets), wisardpkg.DataSet(read)
except TypeError:
    pass
network = wisardpkg.Wisard(bits)
if isinstance(train, wisardpkg.DataSet):
    network.train(train)
else:
    network.train(train, targets)
trained = time.process_time()
network.classify(read)
print(converted - started, trained - converted, time.process_time() - trained)
"""


def wisard_row(python: str, repeats: int) -> Row:
    """Return the peer's CPU seconds, and ours over the processors, for one WiSARD.

    Args:
        python: An interpreter that has ``wisardpkg``.
        repeats: How often ours is measured.
    """
    bits, neurons = 14, 56
    task = images_like()
    evaluator = create_evaluator(
        task, MemorySettings(mode="wisard", vote="mean"), backend="cpu", cache_bytes=0
    )
    genome = network(task, neurons, bits)
    empty = Examples(task.validation.inputs[:0], task.validation.targets[:0])
    reading = Reading("nothing", len(task.train), empty)
    evaluator.evaluate(genome)
    ours = take_turns(
        {
            "whole": lambda: evaluator.evaluate(genome),
            "train": votes_of(evaluator, genome, reading),
        },
        repeats,
    )
    train_cpu = ours["train"].cpu
    row: Row = {
        "bits": bits,
        "neurons": neurons * 10,
        "train_seconds": train_cpu,
        "predict_seconds": max(ours["whole"].cpu - train_cpu, 0),
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        np.savez(
            file,
            train=unpack_bits(task.train.inputs, 784),
            read=unpack_bits(task.validation.inputs, 784),
            targets=task.train.targets,
        )
        done = subprocess.run(
            [python, "-c", _WISARD, str(file), str(bits)], capture_output=True, text=True
        )
    if done.returncode:
        return row | {"peer": f"skipped: {done.stderr.strip().splitlines()[-1]}"}
    convert, train, predict = (float(word) for word in done.stdout.split())
    return row | {
        "peer": {"convert": convert, "train": train, "predict": predict},
        "train_ratio": train / row["train_seconds"],
        "predict_ratio": predict / row["predict_seconds"],
    }
