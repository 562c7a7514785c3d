"""One launch of a compiled kernel, in a process of its own, under several schedules."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Collection
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


TIMEOUT = 120.0  # seconds after which a launch counts as endless
# The first finding ends the process; what is left behind at its end is no leak of a kernel.
_ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:history_size=0:report_signal_unsafe=0",
}

Array = npt.NDArray[Any]


class Fault(Exception):
    """A kernel that ran wrong: what a sanitizer found, or a result that depends on the order."""


@dataclass(frozen=True)
class Grid:
    """How many threads run, in which threadgroups; ``full``: also past the grid's edge."""

    threads: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    full: bool = False


def run(
    program: Path,
    grid: Grid,
    inputs: Sequence[Array],
    outputs: Sequence[Array],
    init_value: float | None,
    schedules: Sequence[int],
    any_order: Collection[int] = (),
) -> list[Array]:
    """Return what a kernel writes.

    Every schedule (0: threads in order; others: shuffled by that number) starts with other garbage
    in outputs that have no ``init_value``, and in threadgroup memory. Bytes that no schedule
    writes are garbage in the result too, as they are on a device. The result is the last one's.

    Args:
        program: What ``build`` made.
        grid: Threads and threadgroups.
        inputs: The buffers that are read, row-contiguous.
        outputs: Arrays of the shapes and types of what is written; their contents are not used.
        init_value: What the outputs hold before.
        schedules: Their numbers; at least one.
        any_order: Numbers of outputs that may differ between schedules.

    Raises:
        Fault: If the process was ended by a sanitizer or by the shim, does not end, or if two
            schedules give different results.
    """
    before = [[_initial(output, init_value, number) for output in outputs] for number in schedules]
    head = np.array(
        [
            *(len(inputs), len(outputs), len(schedules), grid.full),
            *grid.threads,
            *grid.threadgroup,
            *(array.nbytes for array in (*inputs, *outputs)),
        ],
        dtype=np.uint64,
    )
    message = [head.tobytes(), *(array.tobytes() for array in inputs)]
    for number, arrays in zip(schedules, before, strict=True):
        message.append(np.uint64(number).tobytes())
        message.extend(array.tobytes() for array in arrays)
    printed = _process(program, b"".join(message))
    results = []
    place = 0
    for _ in schedules:
        result = []
        for output in outputs:
            flat = np.frombuffer(printed, np.uint8, output.nbytes, place)
            place += output.nbytes
            result.append(flat.copy())
        results.append(result)
    last = results[-1]
    for number, result, start in zip(schedules[:-1], results, before, strict=False):
        for k in set(range(len(outputs))) - set(any_order):
            untouched = (result[k] == _bytes(start[k])) & (last[k] == _bytes(before[-1][k]))
            wrong = np.flatnonzero((result[k] != last[k]) & ~untouched)
            if len(wrong):
                raise Fault(
                    f"output {k} differs between schedules {number} and {schedules[-1]} in "
                    f"{len(wrong)} of {len(last[k])} bytes, first at byte {wrong[0]}"
                )
    return [
        flat.view(output.dtype).reshape(output.shape)
        for flat, output in zip(last, outputs, strict=True)
    ]


def _initial(output: Array, init_value: float | None, schedule: int) -> Array:
    """Return what an output holds before a launch."""
    if init_value is not None:
        return np.full(output.shape, init_value).astype(output.dtype)
    garbage = np.random.default_rng([schedule, output.nbytes]).bytes(output.nbytes)
    return np.frombuffer(garbage, np.uint8)


def _bytes(array: Array) -> Array:
    return np.frombuffer(array.tobytes(), np.uint8)


def _process(program: Path, message: bytes) -> bytes:
    try:
        ran = subprocess.run(
            [*_without_random_addresses(), str(program)],
            input=message,
            capture_output=True,
            timeout=TIMEOUT,
            env={**os.environ, **_ENVIRONMENT},
        )
    except subprocess.TimeoutExpired:
        raise Fault(f"the launch did not end within {TIMEOUT:.0f} seconds") from None
    if ran.returncode:
        lines = ran.stderr.decode(errors="replace").splitlines()
        report = "\n".join(line for line in lines if "doesn't fully support" not in line)
        raise Fault(f"exit status {ran.returncode}\n{report}")
    return ran.stdout


@functools.cache
def _without_random_addresses() -> tuple[str, ...]:
    """Return the command in front of a program: sanitizers cannot map every random layout."""
    setarch = shutil.which("setarch")
    true = shutil.which("true")
    if setarch is None or true is None:
        return ()
    allowed = subprocess.run([setarch, "-R", true], capture_output=True).returncode == 0
    return (setarch, "-R") if allowed else ()
