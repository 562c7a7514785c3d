"""The shim runs the text that MLX makes for Metal as a Metal device does."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest


mx = pytest.importorskip("mlx.core", exc_type=ImportError)

import metal  # noqa: E402
from metal import launch  # noqa: E402


pytestmark = pytest.mark.skipif(bool(metal.missing()), reason=str(metal.missing()))


@pytest.fixture
def shim(monkeypatch: pytest.MonkeyPatch) -> metal.Shim:
    return metal.install(monkeypatch)


def test_every_thread_of_the_grid_runs_once_and_no_other(shim: metal.Shim) -> None:
    (count,) = launch(
        """
        const uint3 at = thread_position_in_grid;
        const uint i = at.x + 7 * (at.y + 5 * at.z);
        atomic_fetch_add_explicit((device atomic_uint*)&count[i], 1, memory_order_relaxed);
        """,
        {},
        [("count", (105,), mx.uint32)],
        grid=(7, 5, 3),
        threadgroup=(4, 2, 2),
        init_value=0,
    )
    assert (count == 1).all()


def test_threadgroups_are_smaller_at_the_edge(shim: metal.Shim) -> None:
    (sizes,) = launch(
        "sizes[thread_position_in_grid.x] = threads_per_threadgroup.x;",
        {},
        [("sizes", (70,), mx.uint32)],
        grid=(70, 1, 1),
    )
    assert sizes.tolist() == [32] * 64 + [6] * 6


def test_a_threadgroup_is_no_larger_than_the_grid(shim: metal.Shim) -> None:
    launch(
        "out[0] = threads_per_threadgroup.x;",
        {},
        [("out", (1,), mx.uint32)],
        grid=(1, 1, 1),
        threadgroup=(256, 1, 1),
    )
    assert shim.launches[0].threadgroup == (1, 1, 1)


def test_positions_agree_with_each_other(shim: metal.Shim) -> None:
    (wrong,) = launch(
        """
        const uint3 in = thread_position_in_threadgroup, group = threadgroup_position_in_grid;
        const uint3 size = dispatch_threads_per_threadgroup, at = thread_position_in_grid;
        const uint3 here = threads_per_threadgroup;
        bool ok = at.x == group.x * size.x + in.x && at.y == group.y * size.y + in.y;
        ok = ok && thread_index_in_threadgroup == in.x + here.x * in.y;
        ok = ok && thread_index_in_simdgroup == thread_index_in_threadgroup % 32u;
        ok = ok && simdgroup_index_in_threadgroup == thread_index_in_threadgroup / 32u;
        ok = ok && threads_per_grid.x == 50u && threadgroups_per_grid.x == 3u;
        wrong[at.x + 50u * at.y] = ok ? 0 : 1;
        """,
        {},
        [("wrong", (200,), mx.uint8)],
        grid=(50, 4, 1),
        threadgroup=(20, 3, 1),
    )
    assert not wrong.any()


@pytest.mark.parametrize(
    "name", ["bool_", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
)
def test_arrays_of_every_integer_type_go_in_and_out(shim: metal.Shim, name: str) -> None:
    dtype = getattr(mx, name)
    values = mx.array(np.random.default_rng(1).integers(0, 2**62, 12)).astype(dtype)
    (copy,) = launch(
        "out[thread_position_in_grid.x] = given[thread_position_in_grid.x];",
        {"given": values},
        [("out", (12,), dtype)],
        grid=(12, 1, 1),
    )
    assert np.array_equal(copy, np.array(values))


def test_scalars_small_arrays_and_templates_reach_the_kernel(shim: metal.Shim) -> None:
    (out,) = launch(
        """
        const uint i = thread_position_in_grid.x;
        out[i] = T(large[i] + small[i % 3] + scalar + NUMBER + (FLAG ? 1000 : 0));
        """,
        {"large": np.arange(9, dtype=np.int32), "small": np.array([10, 20, 30]), "scalar": 5},
        [("out", (9,), mx.int64)],
        grid=(9, 1, 1),
        template=[("NUMBER", 100), ("FLAG", True), ("T", mx.int64)],
    )
    assert out.tolist() == [1105 + i + 10 * (1 + i % 3) for i in range(9)]
    (text,) = {it.text.source for it in shim.launches}
    assert "const device int32_t* large" in text
    assert "const constant int64_t* small" in text
    assert "const constant int32_t& scalar" in text


def test_shapes_and_strides_reach_the_kernel(shim: metal.Shim) -> None:
    (out,) = launch(
        """
        if (thread_position_in_grid.x == 0) {
          out[0] = given_shape[0];
          out[1] = given_shape[1];
          out[2] = int(given_strides[0]);
          out[3] = int(given_strides[1]);
          out[4] = given_ndim;
        }
        """,
        {"given": np.zeros((3, 4), np.float32).T},
        [("out", (5,), mx.int32)],
        grid=(1, 1, 1),
    )
    assert out.tolist() == [4, 3, 3, 1, 2]


def test_outputs_start_with_the_value_that_is_asked_for(shim: metal.Shim) -> None:
    (out,) = launch(
        "if (thread_position_in_grid.x == 1) out[1] = 3;",
        {},
        [("out", (4,), mx.uint32)],
        grid=(4, 1, 1),
        init_value=7,
    )
    assert out.tolist() == [7, 3, 7, 7]


def test_a_threadgroup_shares_its_variables_and_waits_at_barriers(shim: metal.Shim) -> None:
    values = np.random.default_rng(2).integers(0, 1000, 256).astype(np.uint32)
    (sums,) = launch(
        """
        threadgroup uint part[SIZE];
        threadgroup uint total;
        const uint i = thread_index_in_threadgroup;
        part[i] = given[thread_position_in_grid.x];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (i == 0) {
          total = 0;
          for (uint j = 0; j < SIZE; j++) total += part[j];
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        sums[thread_position_in_grid.x] = total;
        """,
        {"given": values},
        [("sums", (256,), mx.uint32)],
        grid=(256, 1, 1),
        threadgroup=(64, 1, 1),
        template=[("SIZE", 64)],
    )
    assert np.array_equal(sums, np.repeat(values.reshape(4, 64).sum(axis=1), 64))


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("add", lambda v: v.sum()),
        ("or", np.bitwise_or.reduce),
        ("and", np.bitwise_and.reduce),
        ("xor", np.bitwise_xor.reduce),
        ("min", np.min),
        ("max", np.max),
    ],
)
def test_atomic_updates_lose_nothing(shim: metal.Shim, operation: str, expected: Any) -> None:
    values = np.random.default_rng(3).integers(1, 2**20, 100).astype(np.uint32)
    start = np.uint32(2**20 - 1 if operation in ("and", "min") else 0)
    (out,) = launch(
        f"""
        if (thread_position_in_grid.x == 0)
          atomic_store_explicit((device atomic_uint*)out, {start}u, memory_order_relaxed);
        threadgroup_barrier(mem_flags::mem_device);
        atomic_fetch_{operation}_explicit(
            (device atomic_uint*)out, given[thread_position_in_grid.x], memory_order_relaxed);
        """,
        {"given": values},
        [("out", (1,), mx.uint32)],
        grid=(100, 1, 1),
        threadgroup=(100, 1, 1),
    )
    assert out[0] == expected(np.append(values, start)) - (0 if operation != "add" else start)


def test_a_loop_of_weak_exchanges_counts_every_thread(shim: metal.Shim) -> None:
    (out,) = launch(
        """
        device atomic_uint* place = (device atomic_uint*)out;
        uint seen = atomic_load_explicit(place, memory_order_relaxed);
        while (!atomic_compare_exchange_weak_explicit(
            place, &seen, seen + 1u, memory_order_relaxed, memory_order_relaxed)) {}
        (void)thread_position_in_grid;
        """,
        {},
        [("out", (1,), mx.uint32)],
        grid=(500, 1, 1),
        init_value=0,
    )
    assert out[0] == 500


def test_a_weak_exchange_that_is_tried_once_is_found(shim: metal.Shim) -> None:
    with pytest.raises(metal.Fault, match="differs between schedules"):
        launch(
            """
            uint seen = 0;
            device atomic_uint* place = (device atomic_uint*)&out[thread_position_in_grid.x];
            atomic_compare_exchange_weak_explicit(
                place, &seen, 1u, memory_order_relaxed, memory_order_relaxed);
            """,
            {},
            [("out", (500,), mx.uint32)],
            grid=(500, 1, 1),
            init_value=0,
        )


def test_values_travel_between_the_lanes_of_a_simd_group(shim: metal.Shim) -> None:
    values = np.random.default_rng(4).integers(0, 100, 64).astype(np.int32)
    names = [
        "sum",
        "least",
        "most",
        "all",
        "up",
        "down",
        "turned",
        "third",
        "before",
        "upto",
        "votes",
    ]
    results = launch(
        """
        const uint i = thread_position_in_grid.x;
        const int v = given[i];
        sum[i] = simd_sum(v);
        least[i] = simd_min(v);
        most[i] = simd_max(v);
        all[i] = simd_or(v);
        up[i] = simd_shuffle_up(v, 1);
        down[i] = simd_shuffle_down(v, 1);
        turned[i] = simd_shuffle_xor(v, 16);
        third[i] = simd_broadcast(v, 3);
        before[i] = simd_prefix_exclusive_sum(v);
        upto[i] = simd_prefix_inclusive_sum(v);
        votes[i] = int(popcount(uint(uint64_t(simd_ballot(v > 50)))));
        """,
        {"given": values},
        [(name, (64,), mx.int32) for name in names],
        grid=(64, 1, 1),
        threadgroup=(64, 1, 1),
    )
    found = dict(zip(names, (result.reshape(2, 32) for result in results), strict=True))
    rows = values.reshape(2, 32)
    wide = np.ones(32, int)
    for name, expected in {
        "sum": np.outer(rows.sum(axis=1), wide),
        "least": np.outer(rows.min(axis=1), wide),
        "most": np.outer(rows.max(axis=1), wide),
        "all": np.outer(np.bitwise_or.reduce(rows, axis=1), wide),
        "turned": np.roll(rows, 16, axis=1),
        "third": np.outer(rows[:, 3], wide),
        "before": rows.cumsum(axis=1) - rows,
        "upto": rows.cumsum(axis=1),
        "votes": np.outer((rows > 50).sum(axis=1), wide),
    }.items():
        assert np.array_equal(found[name], expected), name
    assert np.array_equal(found["up"][:, 1:], rows[:, :-1])
    assert np.array_equal(found["down"][:, :-1], rows[:, 1:])


def test_functions_on_integers(shim: metal.Shim) -> None:
    values = np.array([0, 1, 2, 3, 0x80000000, 0xFFFFFFFF, 0x00F0F000, 12345678], np.uint32)
    names = ["ones", "leading", "trailing", "high", "turned", "cut", "put", "held"]
    results = launch(
        """
        const uint i = thread_position_in_grid.x, v = given[i];
        ones[i] = popcount(v);
        leading[i] = clz(v);
        trailing[i] = ctz(v);
        high[i] = mulhi(v, 0x10000u);
        turned[i] = reverse_bits(rotate(v, 8u));
        cut[i] = extract_bits(v, 4u, 8u);
        put[i] = insert_bits(v, 0xFFu, 4u, 8u);
        held[i] = clamp(v, 2u, 1000u) + min(v, 1u) + max(v, 5u) + select(1u, 2u, v > 3u);
        """,
        {"given": values},
        [(name, (8,), mx.uint32) for name in names],
        grid=(8, 1, 1),
    )
    for v, *row in zip(values.tolist(), *(result.tolist() for result in results), strict=True):
        turned = (v << 8 | v >> 24) & 0xFFFFFFFF
        assert row == [
            v.bit_count(),
            32 - v.bit_length(),
            (v & -v).bit_length() - 1 if v else 32,
            v >> 16,
            int(f"{turned:032b}"[::-1], 2),
            v >> 4 & 0xFF,
            v | 0xFF0,
            (min(max(v, 2), 1000) + min(v, 1) + max(v, 5) + (2 if v > 3 else 1)) & 0xFFFFFFFF,
        ]


def test_what_no_thread_writes_stays_garbage_and_is_no_fault(shim: metal.Shim) -> None:
    (out,) = launch(
        "out[2 * thread_position_in_grid.x] = 1;",
        {},
        [("out", (64,), mx.uint32)],
        grid=(32, 1, 1),
    )
    assert (out[::2] == 1).all()
    assert not (out[1::2] == 1).any()


def test_a_launch_is_remembered_with_its_text(shim: metal.Shim) -> None:
    launch("out[0] = thread_position_in_grid.x;", {}, [("out", (1,), mx.uint32)], grid=(1, 1, 1))
    (one,) = shim.launches
    assert (one.name, one.grid) == ("test", (1, 1, 1))
    assert "[[kernel]] void custom_kernel_test_" in one.text.source


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (0, 1, 1)}, "grid"),
        ({"grid": (2**31, 1, 1)}, "grid"),
        ({"threadgroup": (33, 32, 1), "grid": (64, 64, 1)}, "1056 threads in a threadgroup"),
        ({"outputs": [("out", (0,), "uint32")]}, "without elements"),
        ({"inputs": {"given": np.zeros(0, np.uint8)}}, "without elements"),
        ({"outputs": [("out", (1,), "bfloat16")]}, "bfloat16"),
        ({"source": "out[0] = thread_position_in_grid.x; // ü"}, "ASCII"),
    ],
)
def test_calls_that_metal_does_not_take_are_refused(
    shim: metal.Shim, change: dict[str, Any], message: str
) -> None:
    call: dict[str, Any] = {
        "source": "out[0] = thread_position_in_grid.x;",
        "inputs": {},
        "outputs": [("out", (1,), "uint32")],
        "grid": (1, 1, 1),
    } | change
    call["outputs"] = [(name, shape, getattr(mx, kind)) for name, shape, kind in call["outputs"]]
    with pytest.raises(metal.Refused, match=message):
        launch(**call)


def test_what_mlx_itself_refuses_is_refused(shim: metal.Shim) -> None:
    kernel = mx.fast.metal_kernel(
        name="test", input_names=["given"], output_names=["out"], source="out[0] = given[0];"
    )
    with pytest.raises(ValueError, match="inputs"):
        kernel(
            inputs=[],
            output_shapes=[(1,)],
            output_dtypes=[mx.uint32],
            grid=(1, 1, 1),
            threadgroup=(1, 1, 1),
        )


@pytest.mark.parametrize(
    ("piece", "says"),
    [("compiler", "no C\\+\\+ compiler"), ("sys.platform", "runs on Linux")],
)
def test_what_the_shim_misses_is_said(
    piece: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead: dict[str, Any] = {"compiler": lambda: None, "sys.platform": "darwin"}
    monkeypatch.setattr(f"metal.build.{piece}", instead[piece])
    assert re.search(says, str(metal.missing.__wrapped__()))


def test_a_kernel_that_is_built_twice_at_the_same_time_is_built_whole(
    shim: metal.Shim, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("metal.build._folder", lambda: tmp_path)

    def one(_: int) -> list[int]:
        source = "out[0] = thread_position_in_grid.x;"
        (out,) = launch(source, {}, [("out", (1,), mx.uint32)], grid=(1, 1, 1))
        return list(out.tolist())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(4))) == [[0]] * 4
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
