"""Planted faults are found: by a sanitizer, or because a result depends on the order."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field
from typing import Any

import numpy as np
import pytest


mx = pytest.importorskip("mlx.core", exc_type=ImportError)

import metal  # noqa: E402
from metal import launch  # noqa: E402


pytestmark = pytest.mark.skipif(metal.missing() is not None, reason=str(metal.missing()))


@dataclass(frozen=True)
class Planted:
    """A fault in a kernel: what is right, and one piece of its text exchanged for another."""

    found_by: str | None
    says: str
    right: str
    piece: str
    instead: str
    call: dict[str, Any] = field(default_factory=dict)


REVERSE = """
threadgroup uint all[64];
const uint i = thread_index_in_threadgroup;
all[i] = given[thread_position_in_grid.x];
threadgroup_barrier(mem_flags::mem_threadgroup);
out[thread_position_in_grid.x] = all[63 - i];
"""
LOOP = """
threadgroup uint place[64];
const uint i = thread_index_in_threadgroup;
uint sum = 0;
for (uint round = 0; round < 3; round++) {
  place[i] = i + round;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum += place[(i + 1) % 64];
  threadgroup_barrier(mem_flags::mem_threadgroup);  // before the next round
}
out[thread_position_in_grid.x] = sum;
"""
COUNT = """
const uint value = given[thread_position_in_grid.x];
atomic_fetch_add_explicit((device atomic_uint*)&out[value % 8], 1u, memory_order_relaxed);
"""
COPY = """
const uint i = thread_position_in_grid.x;
if (i < SIZE) out[i] = given[i];
"""
SHIFT = """
const uint i = thread_position_in_grid.x;
out[i] = 1u << (i % 32);
"""
SUM = """
const int total = simd_sum(int(given[thread_position_in_grid.x]));
if (thread_index_in_simdgroup == 0) out[thread_position_in_grid.x / 32] = total;
"""
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
ROUND = {"init_value": 0}
FAULTS = {
    "a barrier is missing": Planted("thread", "data race", REVERSE, BARRIER, ""),
    "a barrier orders no memory": Planted(
        "thread", "data race", REVERSE, "mem_threadgroup)", "mem_none)"
    ),
    "the second barrier of a loop is missing": Planted(
        "thread", "data race", LOOP, BARRIER + "  // before the next round", ""
    ),
    "a barrier of the SIMD-group for one of the threadgroup": Planted(
        "thread", "data race", REVERSE, "threadgroup_barrier", "simdgroup_barrier"
    ),
    "a plain update of a shared word": Planted(
        "thread",
        "data race",
        COUNT,
        "atomic_fetch_add_explicit((device atomic_uint*)&out[value % 8], 1u, "
        "memory_order_relaxed);",
        "out[value % 8] += 1u;",
        ROUND,
    ),
    "every lane stores what one should": Planted(
        "thread", "data race", SUM, "if (thread_index_in_simdgroup == 0) ", ""
    ),
    "threadgroups write the same place": Planted(
        "thread", "data race", COPY, "out[i]", "out[i % 64]", {"threadgroup": (1, 1, 1)}
    ),
    "one past the end of an output": Planted(
        "address", "heap-buffer-overflow", COPY, "out[i]", "out[i + 1]"
    ),
    "one past the end of an input": Planted(
        "address", "heap-buffer-overflow", COPY, "given[i]", "given[i + 1]"
    ),
    "one before an output": Planted(
        "address", "heap-buffer-overflow", COPY, "out[i]", "out[int(i) - 1]"
    ),
    "a bound that is one too far": Planted(
        "address", "heap-buffer-overflow", COPY, "i < SIZE", "i <= SIZE", {"grid": (129, 1, 1)}
    ),
    "one past the end of a threadgroup variable": Planted(
        "address", "out of bounds|heap-buffer-overflow", REVERSE, "63 - i", "64 - i"
    ),
    "a shift by all bits of a word": Planted(
        "address", "shift exponent 32", SHIFT, "i % 32", "i % 33"
    ),
    "an integer that overflows": Planted(
        "address", "signed integer overflow", SHIFT, "1u << (i % 32)", "(int(i) << 20) * 4096"
    ),
    "an atomic word that is not aligned": Planted(
        "address", "misaligned", COUNT, "&out[value % 8]", "((device uchar*)out + 1)", ROUND
    ),
    "a barrier that some threads never reach": Planted(
        None, "divergent", REVERSE, BARRIER, f"if (i < 40) {BARRIER}"
    ),
    "an early return in front of a barrier": Planted(
        None, "divergent", REVERSE, BARRIER, f"if (i == 5) return; {BARRIER}"
    ),
    "threads at different barriers": Planted(
        None, "different barriers", REVERSE, BARRIER, f"if (i % 2)\n{BARRIER}\nelse\n{BARRIER}"
    ),
    "a SIMD-group function that some lanes skip": Planted(
        None,
        "divergent",
        SUM,
        "simd_sum(int(given[thread_position_in_grid.x]))",
        "thread_index_in_simdgroup < 9 ? simd_sum(1) : 0",
    ),
    "a result that depends on who comes first": Planted(
        None,
        "differs between schedules",
        COUNT,
        "&out[value % 8], 1u, memory_order_relaxed);",
        "&out[0], 1u, memory_order_relaxed);\n"
        "out[1 + thread_position_in_grid.x] = atomic_load_explicit("
        "(device atomic_uint*)&out[0], memory_order_relaxed);",
        ROUND,
    ),
    "a result of memory that nobody wrote": Planted(
        None, "differs between schedules", REVERSE, "all[i] = ", "if (i != 7) all[i] = "
    ),
    "a result of an output that was not set before": Planted(
        None, "differs between schedules", COUNT, "", ""
    ),
    "an input that is written to": Planted(
        None, "input was written", COPY, "out[i] = given[i]", "((device uint*)given)[i] = i"
    ),
    "too much threadgroup memory": Planted(
        None, "32 KiB", REVERSE, "uint all[64]", "uint all[8193]"
    ),
}
VALUES = np.random.default_rng(1).integers(0, 2**20, 128).astype(np.uint32)


def run(planted: Planted, source: str) -> None:
    call = {"grid": (128, 1, 1), "threadgroup": (64, 1, 1)} | planted.call
    size = 129 if "1 + thread_position_in_grid" in source else 128
    launch(
        source,
        {"given": VALUES},
        [("out", (size,), mx.uint32)],
        template=[("SIZE", 128)],
        **call,
    )


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = FAULTS[name]
    if metal.missing(planted.found_by):
        pytest.skip(str(metal.missing(planted.found_by)))
    metal.install(monkeypatch, sanitizer=planted.found_by, checked=False)
    assert planted.piece in planted.right
    source = planted.right.replace(planted.piece, planted.instead, 1)
    with pytest.raises(metal.Fault, match=planted.says):
        run(planted, source)


@pytest.mark.parametrize("sanitizer", [None, "address", "thread"])
def test_no_fault_is_found_where_none_is_planted(
    sanitizer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if metal.missing(sanitizer):
        pytest.skip(str(metal.missing(sanitizer)))
    metal.install(monkeypatch, sanitizer=sanitizer)
    for source in (REVERSE, LOOP, COUNT, COPY, SHIFT, SUM):
        run(Planted(sanitizer, "", source, "", "", ROUND), source)


def test_a_launch_that_never_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    metal.install(monkeypatch)
    monkeypatch.setattr("metal.run.TIMEOUT", 1.0)
    with pytest.raises(metal.Fault, match="did not end"):
        launch(
            "while (atomic_load_explicit((device atomic_uint*)out, memory_order_relaxed) == 0) {}"
            "(void)thread_position_in_grid;",
            {},
            [("out", (1,), mx.uint32)],
            grid=(1, 1, 1),
            init_value=0,
        )


HELPER = "static inline uint first(const device uint* p) { return p[0]; }\n"


@pytest.mark.parametrize("size", [9, 8, 7, 1])
def test_an_input_that_shrinks_below_8_elements_is_refused_where_it_counts_as_device(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLX then puts it in the constant address space, and the same source stops compiling."""
    metal.install(monkeypatch)
    if metal.language.missing():
        pytest.skip(str(metal.language.missing()))

    def call() -> None:
        launch(
            "out[thread_position_in_grid.x] = first(given);",
            {"given": VALUES[:size]},
            [("out", (8,), mx.uint32)],
            grid=(8, 1, 1),
            header=HELPER,
        )

    if size >= 8:
        call()
    else:
        with pytest.raises(metal.Refused, match="no matching function"):
            call()
