"""The GPU kernels are right, shown without a GPU.

Their own text runs under sanitizers, in many orders of threads, and gives the reference's votes;
what is broken in it on purpose is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from typing import Any
from typing import Literal

import metal
import numpy as np
import pytest
from metal import cuda
from metal import language
from networks import make_genome
from networks import make_task
from networks import random_gains
from networks import random_queries

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators.readings import part_reading
from optuna_wnn.evaluators.reference import ReferenceEvaluator
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import clusters_of
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Dimension
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Head


if metal.missing() is not None:
    pytest.skip(str(metal.missing()), allow_module_level=True)

import mlx.core as mx

from optuna_wnn.evaluators import gpu_layout
from optuna_wnn.evaluators import gpu_plan
from optuna_wnn.evaluators.mlx import MlxEvaluator


Api = Literal["metal", "cuda"]
FREE: set[Dimension] = {"connections"}
APIS: tuple[Api, ...] = ("metal", "cuda")


@dataclass(frozen=True)
class Work:
    """What kernels are given to do."""

    memory: dict[str, Any]
    bits: tuple[int, ...]
    n_inputs: int = 50
    sizes: tuple[int, int, int] = (150, 70, 1)
    head: Head = "bits"
    moves: int = 0  # of a refinement; none: votes are compared
    gains: bool = False  # whether each cluster has its own
    asked: int = 0  # inputs that no example has


DENSE = Work({"mode": "quad_weighted", "vote": "mean"}, bits=(3, 5))
WIDE = Work({"mode": "quad_weighted", "vote": "mean", "sample_rate": 0.75}, bits=(40,))
COUNTS = Work(
    {"mode": "frequency", "vote": "confidence", "fitness_on": "leave_one_out"}, bits=(3, 40)
)
BLOCKS = Work(
    {"mode": "frequency", "vote": "log_odds", "fitness_on": "leave_block_out", "blocks": 3},
    bits=(2, 40),
)
REFINED = Work({"mode": "quad_weighted", "vote": "mean"}, bits=(3,), moves=6)
SOFTMAX = Work({"vote": "confidence", "temperature": 0.3}, bits=(3,), head="classes", moves=2)
GAINS = Work({"vote": "calibrated"}, bits=(3, 5), moves=2, gains=True)
ASKED = Work(
    {"vote": "mean", "fitness_on": "leave_one_out"}, bits=(3, 40), head="chained_bits",
    asked=40,
)  # fmt: skip
WORKS = {
    "dense": DENSE,
    "wide": WIDE,
    "counts": COUNTS,
    "blocks": BLOCKS,
    "softmax": SOFTMAX,
    "gains": GAINS,
    "asked": ASKED,
}


def agrees(work: Work) -> bool:
    """Return whether the kernels give the votes, or keep the moves, of the reference.

    The backend may see it first if they do not.
    """
    task = make_task(work.head, n_inputs=work.n_inputs, n_outputs=3, sizes=work.sizes)
    memory = MemorySettings(**work.memory)
    reference: Evaluator = ReferenceEvaluator(task, memory)
    evaluator: Evaluator = MlxEvaluator(task, memory)
    if work.gains:
        gains = random_gains(task)
        reference, evaluator = reference.with_gains(gains), evaluator.with_gains(gains)
    genome = make_genome(task, 3, list(work.bits))
    try:
        if work.moves:
            bounds = Bounds(task.n_clusters, task.n_inputs, (3, 3), (1, 9))
            job = genome, bounds, FREE, work.moves, 1
            right, _ = reference.refine(*job)
            assert right.digest != genome.digest
            return evaluator.refine(*job)[0] == right
        if work.asked:
            reading = part_reading(task, memory, "fitness")
            asked = [
                (cluster, random_queries(reading, work.asked + cluster.index))
                for cluster in clusters_of(genome)
            ]
            found, right_ones = (its.query_votes(asked, reading) for its in (evaluator, reference))
            return all(np.array_equal(*pair) for pair in zip(found, right_ones, strict=True))
        return votes_agree(reference, evaluator, clusters_of(genome))
    except InputError as error:
        if "mlx is wrong on this machine" not in str(error):
            raise
        return False


def votes_agree(reference: Evaluator, evaluator: Evaluator, clusters: list[Cluster]) -> bool:
    reading = part_reading(evaluator.task, evaluator.memory, "fitness")
    expected = reference.cluster_votes(clusters, reading)
    found = evaluator.cluster_votes(clusters, reading)
    return all(
        np.array_equal(votes.sums, right.sums) and np.array_equal(votes.scores, right.scores)
        for votes, right in zip(found, expected, strict=True)
    )


def skip_without(sanitizer: str | None) -> None:
    if metal.missing(sanitizer):
        pytest.skip(str(metal.missing(sanitizer)))


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("sanitizer", [None, "address", "thread"])
@pytest.mark.parametrize("name", WORKS)
def test_votes_are_those_of_the_reference_in_every_order_of_threads(
    name: str, sanitizer: str | None, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without(sanitizer)
    for seed in (0,) if sanitizer else (0, 2, 4):
        metal.install(
            monkeypatch,
            api=api,
            sanitizer=sanitizer,
            seed=seed,
            any_order=metal.ANY_ORDER if max(WORKS[name].bits) > gpu_plan.DENSE_BITS else (),
        )
        assert agrees(WORKS[name])


@dataclass(frozen=True)
class Mutant:
    """Kernels in whose text one piece is exchanged for another.

    Attributes:
        found_by: A sanitizer, ``"votes"`` for the comparison with the reference, or ``"reading"``
            for the check of the text as Metal.
    """

    piece: str
    instead: str
    found_by: Literal["address", "thread", "votes", "reading"]
    work: Work = field(default=DENSE)
    api: Api = "metal"


SAYS = {
    "address": "AddressSanitizer|runtime error",
    "thread": "data race",
    "reading": "no matching function|no address space|undefined template|incomplete type",
}
BARRIER = "threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup)"
MUTANTS = {
    # What orders the threads of a threadgroup.
    "no barrier before the others are heard": Mutant(
        "RAM_BARRIER();\n  uint32_t same", "uint32_t same", "thread"
    ),
    "no barrier before the next examples": Mutant(
        "met[now + i] = 0u;\n  RAM_BARRIER();",
        "met[now + i] = 0u;",
        "thread",
    ),
    "a barrier that orders no memory": Mutant(
        BARRIER, "threadgroup_barrier(mem_flags::mem_none)", "thread"
    ),
    "a barrier of a SIMD-group's lanes only, on CUDA": Mutant(
        "__syncthreads()", "", "thread", DENSE, "cuda"
    ),
    "all threads that address a cell move it": Mutant(
        "if ((same >> lane) == 1u)", "if (same != 0u)", "thread"
    ),
    "a plain mark in a bucket": Mutant(
        "ram_shared_or(&met[bucket], 1u << lane);", "met[bucket] |= 1u << lane;", "thread"
    ),
    "one set of buckets is emptied while it is read": Mutant("now = BUCKETS - now;", "", "thread"),
    # Words that threads share.
    "a plain update of a count": Mutant(
        "return atomic_fetch_add_explicit((device atomic_uint*)place, value, "
        "memory_order_relaxed);",
        "const uint32_t before = *place; *place = before + value; return before;",
        "thread",
        COUNTS,
    ),
    "a plain update of a count, on CUDA": Mutant(
        "return atomicAdd(place, value);",
        "const uint32_t before = *place; *place = before + value; return before;",
        "thread",
        COUNTS,
        "cuda",
    ),
    "a plain claim of a slot": Mutant(
        "there = ram_atomic_claim(its_slots + slot, example + 1u)",
        "its_slots[slot] = example + 1u",
        "thread",
        WIDE,
    ),
    "a plain claim of a slot, on CUDA": Mutant(
        "return atomicCAS(place, 0u, value);",
        "const uint32_t there = *place; if (there == 0u) *place = value; return there;",
        "thread",
        WIDE,
        "cuda",
    ),
    "a weak exchange is tried once": Mutant(
        "while (!atomic_compare_exchange_weak_explicit(",
        "if (!atomic_compare_exchange_weak_explicit(",
        "votes",
        WIDE,
    ),
    # Where arrays end.
    "one example too many is read": Mutant(
        "if (e < n_examples) {\n      const uint32_t cell",
        "if (e <= n_examples) {\n      const uint32_t cell",
        "address",
        Work(DENSE.memory, (3, 5), sizes=(64, 96, 1)),
    ),
    "one sum too many is written": Mutant(
        "if (e < n_examples) {\n    const uint64_t place",
        "if (e <= n_examples) {\n    const uint64_t place",
        "address",
    ),
    "cells lie one further": Mutant(
        "uint32_t state = cells[table + cell]", "uint32_t state = cells[table + cell + 1]", "votes"
    ),
    "a hash beyond the slots": Mutant(
        "its_plan, size) & last;", "its_plan, size);", "address", WIDE
    ),
    "threads past the edge are not told": Mutant(
        "i < last; i += THREADS", "i < last + THREADS; i += THREADS", "address", COUNTS, "cuda"
    ),
    # What is computed.
    "the last example of a cell is left out": Mutant(
        "for (uint32_t left = same; left",
        "for (uint32_t left = same & ~(1u << lane); left",
        "votes",
    ),
    "all addresses of a hash are one": Mutant(
        "!= 0u) return false;", "!= 0u) return true;", "votes", WIDE
    ),
    "every lane adds its SIMD-group's score": Mutant(
        "if (thread_index_in_simdgroup == 0u)", "if (true)", "votes"
    ),
    "no carry into the high word": Mutant(
        "if (before + low < before) high += 1u;", "", "votes", BLOCKS
    ),
    "the example itself is not left out": Mutant("positives -= sign;", "", "votes", COUNTS),
    "its block is not left out": Mutant("own_block[example] + ", "0u + ", "votes", BLOCKS),
    "clusters vote by the first one's gains": Mutant(
        "(uint64_t)row * (2u * levels * levels)", "0u", "votes", replace(GAINS, moves=0)
    ),
    "an example is left out of a cell that it is not in": Mutant(
        "cell == ram_find(train, train_stride, own, train, train_stride, neuron, plan, slots)",
        "true",
        "votes",
        ASKED,
    ),
    "another example is left out": Mutant(
        "own = row + params[P_READ_FIRST]", "own = q + params[P_READ_FIRST]", "votes", ASKED
    ),
    "a cluster answers what the next is asked": Mutant(
        "if (q < last) {\n    sums", "if (q <= last) {\n    sums", "thread", ASKED
    ),
    "one answer too many is written": Mutant(
        "if (q < last) {\n    sums",
        "if (q <= last) {\n    sums",
        "address",
        ASKED,
    ),
    "moves are judged by the first cluster's gains": Mutant(
        "candidate[A_VOTES]", "0u", "votes", GAINS
    ),
    "votes past the last table": Mutant(
        "cluster[C_VOTES]", "cluster[C_VOTES] + 1u", "address", GAINS
    ),
    "votes that leave are added": Mutant(
        "member[1] != 0u ? vote : -vote", "vote", "votes", REFINED
    ),
    "one example too many is judged": Mutant(
        "if (e < n_examples) {\n    const int32_t steps",
        "if (e <= n_examples) {\n    const int32_t steps",
        "address",
        SOFTMAX,
    ),
    "a half is rounded down": Mutant(
        "(quotient + one_half) >> places", "quotient >> places", "votes", REFINED
    ),
    "losses of more than 16 bits are cut": Mutant(
        "((int64_t)sample_high << 16) + ", "", "votes", REFINED
    ),
    "what a class had of the softmax stays": Mutant(
        "mass -= ram_wide", "ram_wide", "votes", SOFTMAX
    ),
    "scores are relative to nothing": Mutant(" - common[0]", "", "votes", SOFTMAX),
    "another sample is trained on": Mutant("< threshold;", "> threshold;", "votes", WIDE),
    "an address loses its last bit": Mutant("i < bits; i++", "i + 1u < bits; i++", "votes"),
    # What Metal would not compile.
    "arrays said to be constant": Mutant("#define DEV device", "#define DEV constant", "reading"),
    "a local variable handed on as the device's": Mutant(
        "#define LOCAL thread", "#define LOCAL device", "reading"
    ),
    "a local variable handed on without a word": Mutant(
        "#define LOCAL thread", "#define LOCAL", "reading"
    ),
    "an atomic of bytes": Mutant(
        "(device atomic_uint*)place, value", "(device atomic<uchar>*)place, value", "reading"
    ),
}


def plant(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Break every kernel that is made from now on; return in how many places, once each is."""
    name = f"{mutant.api}_kernel"
    make = getattr(mx.fast, name)
    places: list[int] = []

    def broken(*, source: str, header: str, **others: Any) -> Any:
        places.append(source.count(mutant.piece) + header.count(mutant.piece))
        return make(
            source=source.replace(mutant.piece, mutant.instead),
            header=header.replace(mutant.piece, mutant.instead),
            **others,
        )

    monkeypatch.setattr(mx.fast, name, broken)
    return places


@pytest.mark.parametrize("name", MUTANTS)
def test_what_is_broken_on_purpose_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    sanitizer = mutant.found_by if mutant.found_by in ("address", "thread") else None
    skip_without(sanitizer)
    if mutant.found_by == "reading" and language.missing():
        pytest.skip(str(language.missing()))
    install: dict[str, Any] = {
        "api": mutant.api,
        "sanitizer": sanitizer,
        "any_order": metal.ANY_ORDER,
        "checked": mutant.found_by == "reading",
    }
    places = []
    if mutant.found_by == "votes":
        agreed = []
        for seed in range(1, 5):
            metal.install(monkeypatch, seed=seed, schedules=1, **install)
            places = plant(mutant, monkeypatch)
            agreed.append(agrees(mutant.work))
            if not agreed[-1]:
                break
        assert not all(agreed)
    else:
        metal.install(monkeypatch, **install)
        places = plant(mutant, monkeypatch)
        error = metal.Refused if mutant.found_by == "reading" else metal.Fault
        with pytest.raises(error, match=SAYS[mutant.found_by]):
            agrees(mutant.work)
    assert sum(places) > 0, "the piece is in no kernel"


def test_small_arrays_that_are_not_padded_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX puts arrays of fewer than 8 elements elsewhere; the host pads them for that."""
    if language.missing():
        pytest.skip(str(language.missing()))
    metal.install(monkeypatch)
    work = Work(DENSE.memory, (1,), n_inputs=1)
    assert agrees(work)
    monkeypatch.setattr(gpu_layout, "LEAST_ELEMENTS", 1)
    with pytest.raises(metal.Refused, match="no matching function"):
        agrees(work)


@pytest.mark.skipif(cuda.missing() is not None, reason=str(cuda.missing()))
@pytest.mark.parametrize("name", ["dense", "counts", "softmax", "asked"])
def test_the_compiler_of_nvidia_takes_the_kernels(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = metal.install(monkeypatch, api="cuda", schedules=1)
    assert agrees(WORKS[name])
    texts = {launch.name: launch.text for launch in shim.launches}
    assert len(texts) == 2 + (WORKS[name].moves > 0)
    for text in texts.values():
        assert cuda.complaints(text, "sm_90a") == []
