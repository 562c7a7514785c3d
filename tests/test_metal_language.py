"""What Apple's compiler refuses is refused here: each small kernel beside its legal twin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest


mx = pytest.importorskip("mlx.core", exc_type=ImportError)

import metal  # noqa: E402
from metal import language  # noqa: E402
from metal import launch  # noqa: E402


WHY_NOT = metal.missing() or language.missing()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@dataclass(frozen=True)
class Twins:
    """Two kernels that differ in one thing; ``says`` is what is wrong with the first."""

    says: str
    wrong: str
    right: str
    wrong_header: str = ""
    right_header: str = ""


ADD = "static inline uint add({}uint* p, uint i) {{ return p[i] + 1u; }}\n"
CALL = "out[i] = add({}, i);"
TWINS = {
    "device passed as thread": Twins(
        "no matching function",
        wrong=CALL.format("given"),
        wrong_header=ADD.format("const thread "),
        right=CALL.format("given"),
        right_header=ADD.format("const device "),
    ),
    "thread passed as device": Twins(
        "no matching function",
        wrong="uint own[32]; own[i] = i;" + CALL.format("own"),
        wrong_header=ADD.format("const device "),
        right="uint own[32]; own[i] = i;" + CALL.format("own"),
        right_header=ADD.format("const thread "),
    ),
    "threadgroup passed as device": Twins(
        "no matching function",
        wrong="threadgroup uint all[32]; all[i] = i;" + CALL.format("all"),
        wrong_header=ADD.format("const device "),
        right="threadgroup uint all[32]; all[i] = i;" + CALL.format("all"),
        right_header=ADD.format("const threadgroup "),
    ),
    "an input of fewer than 8 elements passed as device": Twins(
        "no matching function",
        wrong="out[i] = add(few, i & 3u);",
        wrong_header=ADD.format("const device "),
        right="out[i] = add(few, i & 3u);",
        right_header=ADD.format("const constant "),
    ),
    "a table of the program in constant passed as device": Twins(
        "no matching function",
        wrong=CALL.format("table"),
        wrong_header="constant uint table[32] = {1, 2};\n" + ADD.format("const device "),
        right=CALL.format("table"),
        right_header="constant uint table[32] = {1, 2};\n" + ADD.format("const constant "),
    ),
    "an atomic of thread memory": Twins(
        "no matching function",
        wrong="uint own = 0; out[i] = "
        "atomic_fetch_add_explicit((thread atomic_uint*)&own, 1u, memory_order_relaxed);",
        right="threadgroup uint all[1]; if (i == 0) all[0] = 0; "
        "threadgroup_barrier(mem_flags::mem_threadgroup); "
        "atomic_fetch_add_explicit((threadgroup atomic_uint*)all, 1u, memory_order_relaxed); "
        "threadgroup_barrier(mem_flags::mem_threadgroup); out[i] = all[0];",
    ),
    "an atomic of 64 bits": Twins(
        "undefined template|incomplete type",
        wrong="atomic_fetch_add_explicit((device atomic<ulong>*)wide, 1, memory_order_relaxed); "
        "out[i] = 0;",
        right="atomic_fetch_add_explicit((device atomic<uint>*)wide, 1, memory_order_relaxed); "
        "out[i] = 0;",
    ),
    "an order stronger than relaxed": Twins(
        "undeclared identifier",
        wrong="atomic_store_explicit((device atomic_uint*)&out[i], 1u, memory_order_seq_cst);",
        right="atomic_store_explicit((device atomic_uint*)&out[i], 1u, memory_order_relaxed);",
    ),
    "a SIMD-group function on 64 bits": Twins(
        "no 64-bit types",
        wrong="out[i] = uint(simd_sum(ulong(i)));",
        right="out[i] = uint(simd_sum(uint(i)));",
    ),
    "a cast to another address space": Twins(
        "cast from one address space",
        wrong="threadgroup uint* p = (threadgroup uint*)out; out[i] = p == nullptr;",
        right="device uint* p = (device uint*)out; out[i] = p == nullptr;",
    ),
    "a write to an input": Twins(
        "not assignable",
        wrong="given[i] = 1; out[i] = 1;",
        right="const uint g = given[i]; out[i] = g;",
    ),
    "a pointer that says no address space": Twins(
        "says no address space",
        wrong="uint own[2] = {i, i}; uint* p = own; out[i] = p[1];",
        right="uint own[2] = {i, i}; thread uint* p = own; out[i] = p[1];",
    ),
    "a reference that says no address space": Twins(
        "says no address space",
        wrong="uint own = i; more(own); out[i] = own;",
        wrong_header="static inline void more(uint& x) { x++; }\n",
        right="uint own = i; more(own); out[i] = own;",
        right_header="static inline void more(thread uint& x) { x++; }\n",
    ),
    "a pointer behind a macro that says no address space": Twins(
        "says no address space",
        wrong="out[i] = 1;",
        wrong_header="#define DEV\nstatic inline uint f(const DEV uint* p) { return p[0]; }\n",
        right="out[i] = 1;",
        right_header="#define DEV device\n"
        "static inline uint f(const DEV uint* p) { return p[0]; }\n",
    ),
    "double": Twins(
        "double",
        wrong="double x = i; out[i] = uint(x);",
        right="float x = i; out[i] = uint(x);",
    ),
    "double by way of auto": Twins(
        "double",
        wrong="auto x = (double)i; out[i] = uint(x);",
        right="auto x = (float)i; out[i] = uint(x);",
    ),
    "recursion": Twins(
        "calls itself",
        wrong="out[i] = down(i);",
        wrong_header="static inline uint down(uint n) { return n == 0 ? 0 : down(n - 1); }\n",
        right="out[i] = down(i);",
        right_header="static inline uint down(uint n) { while (n) n--; return n; }\n",
    ),
    "recursion through another function": Twins(
        "calls itself",
        wrong="out[i] = a(i);",
        wrong_header="static uint b(uint n);\n"
        "static uint a(uint n) { return n == 0 ? 0 : b(n - 1); }\n"
        "static uint b(uint n) { return a(n); }\n",
        right="out[i] = a(i);",
        right_header="static uint b(uint n) { return n; }\n"
        "static uint a(uint n) { return n == 0 ? 0 : b(n - 1); }\n",
    ),
    "memory from new": Twins(
        "new",
        wrong="thread uint* p = new uint[2]; out[i] = p[0];",
        right="uint p[2] = {0, 0}; out[i] = p[0];",
    ),
    "memory from malloc": Twins(
        "undeclared identifier",
        wrong="thread uint* p = (thread uint*)malloc(8); out[i] = p[0];",
        right="uint p[2] = {0, 0}; out[i] = p[0];",
    ),
    "an array whose size is not constant": Twins(
        "not constant",
        wrong="uint own[i + 1]; own[0] = i; out[i] = own[0];",
        right="uint own[4]; own[0] = i; out[i] = own[0];",
    ),
    "a static variable": Twins(
        "static variable",
        wrong="static uint count; out[i] = count;",
        right="uint count = 0; out[i] = count;",
    ),
    "a variable of the program that is not constant": Twins(
        "must be constant",
        wrong="out[i] = step;",
        wrong_header="static uint step = 2;\n",
        right="out[i] = step;",
        right_header="constant uint step = 2;\n",
    ),
    "a threadgroup variable in a function": Twins(
        "outside a kernel",
        wrong="out[i] = f(i);",
        wrong_header="static uint f(uint i) { threadgroup uint all[32]; all[i] = i; "
        "return all[i]; }\n",
        right="threadgroup uint all[32]; out[i] = f(all, i);",
        right_header="static uint f(threadgroup uint* all, uint i) { all[i] = i; "
        "return all[i]; }\n",
    ),
    "a lambda expression": Twins(
        "lambda",
        wrong="auto f = [](uint x) { return x + 1u; }; out[i] = f(i);",
        right="out[i] = f(i);",
        right_header="static uint f(uint x) { return x + 1u; }\n",
    ),
    "a pointer to a function": Twins(
        "pointer to a function",
        wrong="uint (*g)(uint) = f; out[i] = g(i);",
        wrong_header="static uint f(uint x) { return x + 1u; }\n",
        right="out[i] = f(i);",
        right_header="static uint f(uint x) { return x + 1u; }\n",
    ),
    "a derived class": Twins(
        "derived class",
        wrong="B b; b.x = i; out[i] = b.x;",
        wrong_header="struct A { uint x; };\nstruct B : A {};\n",
        right="B b; b.a.x = i; out[i] = b.a.x;",
        right_header="struct A { uint x; };\nstruct B { A a; };\n",
    ),
    "a virtual function": Twins(
        "virtual",
        wrong="A a; out[i] = a.f();",
        wrong_header="struct A { virtual uint f() { return 1; } };\n",
        right="A a; out[i] = a.f();",
        right_header="struct A { uint f() { return 1; } };\n",
    ),
    "goto": Twins(
        "goto",
        wrong="if (i) goto end; out[0] = 1; end: out[i] = 1;",
        right="if (!i) out[0] = 1; out[i] = 1;",
    ),
    "an exception": Twins(
        "throw",
        wrong="if (i > 99) throw 1; out[i] = 1;",
        right="if (i > 99) return; out[i] = 1;",
    ),
    "the standard library of C++": Twins(
        "undeclared identifier 'std'",
        wrong="out[i] = std::min(i, 3u);",
        right="out[i] = metal::min(i, 3u);",
    ),
}


def run(body: str, header: str) -> None:
    launch(
        f"const uint i = thread_position_in_grid.x;\n{body}",
        {"given": np.zeros(32, np.uint32), "few": np.zeros(4, np.uint32)},
        [("out", (32,), mx.uint32), ("wide", (32,), mx.uint32)],
        grid=(32, 1, 1),
        header=header,
        init_value=0,
    )


@pytest.mark.parametrize("name", TWINS)
def test_what_metal_refuses_is_refused_and_its_legal_twin_runs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metal.install(monkeypatch, schedules=1)
    twins = TWINS[name]
    with pytest.raises(metal.Refused, match=twins.says):
        run(twins.wrong, twins.wrong_header)
    run(twins.right, twins.right_header)


def test_more_than_31_buffers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    metal.install(monkeypatch)
    arrays = {f"given{i}_": np.zeros(8, np.uint32) for i in range(31)}
    source = "out[thread_position_in_grid.x] = 1;"
    with pytest.raises(metal.Refused, match="32 buffers"):
        launch(source, arrays, [("out", (1,), mx.uint32)], grid=(1, 1, 1))
    del arrays["given0_"]
    launch(source, arrays, [("out", (1,), mx.uint32)], grid=(1, 1, 1))


def test_the_shim_wants_one_threadgroup_variable_per_declaration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Metal takes two; the shim would make them variables of one thread, and says so."""
    metal.install(monkeypatch, checked=False)
    with pytest.raises(metal.Refused, match="one at a time"):
        run("threadgroup uint a[32], b[32]; a[i] = b[i] = i; out[i] = a[i];", "")
    run("threadgroup uint a[32]; threadgroup uint b[32]; a[i] = b[i] = i; out[i] = a[i];", "")
