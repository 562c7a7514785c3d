"""Every backend: the same votes bit for bit, and what an evaluation promises."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from typing import cast
from typing import get_args

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from networks import FITNESSES
from networks import MEMORIES
from networks import USABLE
from networks import genomes
from networks import make_genome
from networks import make_task
from networks import memory_settings
from networks import same
from networks import tasks
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators import cpu_kernels
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators import jit
from optuna_wnn.evaluators.cells import level
from optuna_wnn.evaluators.cpu import CpuEvaluator
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.readings import part_reading
from optuna_wnn.evaluators.reference import ReferenceEvaluator
from optuna_wnn.evaluators.registry import BACKENDS
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.evaluators.votes import clusters_of
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Genome
from optuna_wnn.memory import FitnessOn
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Head
from optuna_wnn.tasks.base import Task


class LookUpEvaluator(CpuEvaluator):
    """The ``cpu`` backend as it is on processors that have no ``pext`` instruction."""

    use_pext = False


COMPILED = [CpuEvaluator, LookUpEvaluator]


@pytest.mark.parametrize("compiled", COMPILED)
@settings(max_examples=120)
@given(st.data())
def test_votes_are_those_of_the_reference(
    compiled: type[CpuEvaluator], data: st.DataObject
) -> None:
    task, memory = data.draw(tasks()), data.draw(memory_settings())
    genome = data.draw(genomes(task))
    backend = compiled(task, memory, threads=data.draw(st.integers(1, 3)))
    reading = part_reading(task, memory, "fitness")
    clusters = clusters_of(genome)
    expected = ReferenceEvaluator(task, memory).cluster_votes(clusters, reading)
    for votes, right in zip(backend.cluster_votes(clusters, reading), expected, strict=True):
        assert np.array_equal(votes.sums, right.sums)
        assert np.array_equal(votes.scores, right.scores)


@pytest.mark.parametrize("kind", MEMORIES, ids=lambda kind: f"{kind['mode']}-{kind['vote']}")
@pytest.mark.parametrize("head", ["bits", "chained_bits", "classes"])
@pytest.mark.parametrize("bits", [[3, 8], [19], [23, 100]], ids=["small", "wide", "hashed"])
def test_evaluations_are_those_of_the_reference(
    kind: dict[str, Any], head: Head, bits: list[int]
) -> None:
    task = make_task(head, n_inputs=110 if max(bits) > 64 else 30)
    genome = make_genome(task, 5, bits)
    memory = MemorySettings(**kind, temperature="fit")
    right = ReferenceEvaluator(task, memory)
    fast = CpuEvaluator(task, memory, threads=2)
    for part in ("fitness", "validation", "test"):
        assert same(fast.evaluate(genome, part), right.evaluate(genome, part))


def without(
    task: Task, memory: MemorySettings, left_out: slice, genome: Genome
) -> NDArray[np.int64]:
    """Return the sums of votes on training examples that the memory never saw."""
    kept = np.delete(np.arange(len(task.train)), left_out)
    train = Examples(task.train.inputs[kept], task.train.targets[kept])
    read = Examples(task.train.inputs[left_out], task.train.targets[left_out])
    plain = replace(memory, fitness_on="validation")
    evaluator = ReferenceEvaluator(replace(task, train=train, validation=read), plain)
    evaluator.cells = ReferenceEvaluator(task, plain).cells  # as many levels
    reading = part_reading(evaluator.task, plain, "fitness")
    return np.stack([v.sums for v in evaluator.cluster_votes(clusters_of(genome), reading)])


@pytest.mark.parametrize("backend", [ReferenceEvaluator, *COMPILED])
@pytest.mark.parametrize("fitness_on", FITNESSES[1:])
@pytest.mark.parametrize("kind", [k for k in MEMORIES if k["mode"] in ("ternary", "frequency")])
def test_leaving_examples_out_is_training_without_them(
    backend: type[Evaluator], fitness_on: FitnessOn, kind: dict[str, Any]
) -> None:
    task = make_task(n_inputs=12, sizes=(23, 5, 5))
    genome = make_genome(task, 3, [4])
    memory = MemorySettings(**kind, fitness_on=fitness_on, blocks=4)
    reading = part_reading(task, memory, "fitness")
    votes = backend(task, memory).cluster_votes(clusters_of(genome), reading)
    sums = np.stack([v.sums for v in votes])
    assert reading.blocks is not None
    for first, last in zip(reading.blocks[:-1], reading.blocks[1:], strict=True):
        block = slice(int(first), int(last))
        assert np.array_equal(sums[:, block], without(task, memory, block, genome))


@pytest.mark.parametrize("kind", [k for k in MEMORIES if k["mode"] in ("ternary", "frequency")])
@pytest.mark.parametrize("n_neurons", [1, 5])
@pytest.mark.parametrize("bits", [3, 7, 9, 15])
def test_examples_are_left_out_of_tables_of_any_size(
    bits: int, n_neurons: int, kind: dict[str, Any]
) -> None:
    task = make_task(sizes=(200, 5, 5))  # 7 bits: about as many cells as examples
    genome = make_genome(task, n_neurons, [bits])
    memory = MemorySettings(**kind, fitness_on="leave_one_out")
    right = ReferenceEvaluator(task, memory).evaluate(genome)
    assert same(CpuEvaluator(task, memory).evaluate(genome), right)


@pytest.mark.parametrize("kind", [k for k in MEMORIES if k["mode"] in ("ternary", "frequency")])
@pytest.mark.parametrize("fitness_on", ["validation", "leave_one_out"])
def test_cells_count_beyond_their_width(kind: dict[str, Any], fitness_on: FitnessOn) -> None:
    rng = np.random.default_rng(0)
    inputs = np.where(rng.random((140_000, 1)) < 0.8, 0, rng.integers(0, 1 << 16, (140_000, 1)))
    inputs = np.where(rng.random(inputs.shape) < 0.4, 7, inputs).astype(np.uint64)
    train = Examples(inputs, (rng.random(140_000) < 0.7).astype(np.int64))
    read = Examples(inputs[:500], train.targets[:500])
    task = Task("hot", "bits", 16, 2, train, read, read, (1, 16))
    genome = Genome.of_clusters([np.stack([np.delete(np.arange(16), i) for i in (0, 9, 15)])])
    memory = MemorySettings(**kind, fitness_on=fitness_on)
    right = ReferenceEvaluator(task, memory).evaluate(genome)
    assert same(CpuEvaluator(task, memory).evaluate(genome), right)


@pytest.mark.parametrize("backend", USABLE)
def test_the_order_of_neurons_changes_no_result(backend: str) -> None:
    task = make_task()
    genome = make_genome(task, 6, [5])
    evaluator = create_evaluator(task, backend=backend, cache_bytes=0)
    evaluation = evaluator.evaluate(genome)
    reordered = genome.reordered(evaluation.neuron_order)
    again = evaluator.evaluate(reordered)
    assert again.cross_entropy == evaluation.cross_entropy
    assert np.array_equal(again.neuron_order, np.arange(genome.n_neurons))


@pytest.mark.parametrize("backend", USABLE)
def test_the_first_neuron_of_a_cluster_tells_positives_from_negatives_best(backend: str) -> None:
    task = make_task(n_inputs=8, n_outputs=2, sizes=(400, 200, 5))
    # The target is input 0, with some noise; the second neuron is the one that sees it.
    genome = Genome.of_clusters([np.array([[3, 4], [0, 5], [6, 7]])])
    order = create_evaluator(task, backend=backend).evaluate(genome).neuron_order
    assert order[0] == 1


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_result(threads: int) -> None:
    task = make_task()
    genome = make_genome(task, 13, [4, 9])
    expected = CpuEvaluator(task, threads=1).evaluate(genome)
    assert same(CpuEvaluator(task, threads=threads).evaluate(genome), expected)


@pytest.mark.parametrize("backend", USABLE)
def test_a_sampled_neuron_keeps_its_memory_when_others_change(backend: str) -> None:
    task = make_task()
    memory = MemorySettings(sample_rate=0.5)
    genome = make_genome(task, 2, [4])
    evaluator = create_evaluator(task, memory, backend=backend)
    reading = part_reading(task, memory, "fitness")
    rows = genome.cluster(0)
    alone = [Genome.of_clusters([rows[i : i + 1]]) for i in range(2)]
    both = evaluator.cluster_votes(clusters_of(Genome.of_clusters([rows])), reading)[0]
    single = [evaluator.cluster_votes(clusters_of(g), reading)[0].sums for g in alone]
    assert np.array_equal(both.sums, single[0] + single[1])


def test_other_seeds_sample_other_examples() -> None:
    task = make_task()
    genome = make_genome(task, 4, [6])
    results = {
        create_evaluator(task, MemorySettings(sample_rate=0.5, sample_seed=seed))
        .evaluate(genome)
        .cross_entropy
        for seed in range(4)
    }
    assert len(results) == 4


@pytest.mark.parametrize("backend", USABLE)
def test_learning_beats_knowing_nothing(backend: str) -> None:
    task = make_task(sizes=(2000, 500, 500))
    evaluation = create_evaluator(task, backend=backend).evaluate(make_genome(task, 30, [6]))
    assert evaluation.cross_entropy < 0.8 * np.log(task.n_outputs)
    assert evaluation.accuracy > 0.5
    assert evaluation.n_examples == 500


def test_a_batch_is_the_same_as_one_by_one() -> None:
    task = make_task()
    batch = [make_genome(task, n, [4], seed=n) for n in (2, 3, 2)]
    evaluator = CpuEvaluator(task, cache_bytes=0)
    together = evaluator.evaluate_batch(batch)
    assert all(
        same(evaluation, evaluator.evaluate(genome))
        for evaluation, genome in zip(together, batch, strict=True)
    )


class CountingEvaluator(ReferenceEvaluator):
    """Counts the clusters that it computes."""

    computed = 0

    def cluster_votes(self, clusters: Sequence[Cluster], reading: Reading) -> list[ClusterVotes]:
        self.computed += len(clusters)
        return super().cluster_votes(clusters, reading)


@pytest.mark.parametrize("cache_bytes", [None, 0])
def test_a_batch_computes_each_cluster_once(cache_bytes: int | None) -> None:
    task = make_task()
    genome = make_genome(task, 3, [4])
    changed = Genome.of_clusters([genome.cluster(0), genome.cluster(1), genome.cluster(2)[:2]])
    reordered = genome.reordered(np.arange(genome.n_neurons).reshape(3, 3)[:, ::-1].ravel())
    evaluator = CountingEvaluator(task, cache_bytes=cache_bytes)
    results = evaluator.evaluate_batch([genome, changed, reordered, genome])
    assert evaluator.computed == task.n_clusters + 1
    assert same(results[0], results[3])
    assert results[2].cross_entropy == results[0].cross_entropy


@pytest.mark.parametrize("cache_bytes", [None, 0])
def test_a_batch_computes_each_neuron_of_an_output_once(cache_bytes: int | None) -> None:
    class Rows(ReferenceEvaluator):
        def cluster_votes(
            self, clusters: Sequence[Cluster], reading: Reading
        ) -> list[ClusterVotes]:
            computed.extend((c.index, tuple(row)) for c in clusters for row in c.connections)
            return super().cluster_votes(clusters, reading)

    task = make_task()
    pool = make_genome(task, 12, [4])
    rng = np.random.default_rng(5)
    # Unlike clusters: what any two have in common is mostly less than half of either.
    family = [
        Genome.of_clusters([pool.cluster(k)[rng.integers(0, 12, 5)] for k in range(3)])
        for _ in range(6)
    ]
    distinct = {(k, tuple(row)) for g in family for k in range(3) for row in g.cluster(k)}
    computed: list[tuple[int, tuple[int, ...]]] = []
    together = Rows(task, cache_bytes=cache_bytes).evaluate_batch(family)
    assert len(computed) == len(distinct)
    assert set(computed) == distinct
    for genome, evaluation in zip(family, together, strict=True):
        assert same(evaluation, ReferenceEvaluator(task, cache_bytes=0).evaluate(genome))


def test_only_clusters_that_changed_are_computed_again() -> None:
    task = make_task()
    genome = make_genome(task, 3, [4])
    evaluator = CountingEvaluator(task)
    first = evaluator.evaluate(genome)
    assert same(evaluator.evaluate(genome), first)
    assert evaluator.computed == task.n_clusters
    evaluator.evaluate(genome, "test")
    assert evaluator.computed == 2 * task.n_clusters


@st.composite
def relatives(draw: st.DrawFn, genome: Genome, n_inputs: int) -> Genome:
    """Draw a genome that shares neurons with another, some of them more often than there."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    clusters = []
    for k in range(genome.n_clusters):
        rows = genome.cluster(k)
        rows = rows[np.sort(rng.integers(0, len(rows), draw(st.integers(1, 12))))]
        if draw(st.booleans()):
            rows = np.concatenate([rows, [rng.permutation(n_inputs)[: rows.shape[1]]]])
        clusters.append(rows)
    return Genome.of_clusters(clusters)


@settings(max_examples=60)
@given(st.data())
def test_what_is_known_of_relatives_changes_no_result(data: st.DataObject) -> None:
    task, memory = data.draw(tasks()), data.draw(memory_settings())
    genome = make_genome(task, 9, [data.draw(st.integers(1, 9))], data.draw(st.integers(0, 9)))
    family = [
        genome,
        *(data.draw(relatives(genome, min(task.visible or (task.n_inputs,)))) for _ in range(4)),
    ]
    expected = [CpuEvaluator(task, memory, cache_bytes=0).evaluate(g) for g in family]
    evaluator = CpuEvaluator(task, memory, cache_bytes=data.draw(st.sampled_from([3000, None])))
    together = evaluator.evaluate_batch(family)
    assert all(same(a, b) for a, b in zip(together, expected, strict=True))
    evaluator = CpuEvaluator(task, memory)
    assert all(same(evaluator.evaluate(g), e) for g, e in zip(family, expected, strict=True))


def test_only_neurons_that_changed_are_computed_again() -> None:
    task = make_task()
    genome = make_genome(task, 8, [4])
    rows = genome.cluster(1).copy()
    rows[3] = [i for i in range(20) if i not in rows[3]][:4]
    changed = Genome.of_clusters([genome.cluster(0), rows, genome.cluster(2)])
    evaluator = CountingEvaluator(task)
    evaluator.evaluate(genome)
    evaluator.computed = 0
    assert same(evaluator.evaluate(changed), CountingEvaluator(task).evaluate(changed))
    assert evaluator.computed == 2  # the neuron that left, and the one that came


def test_the_cache_stays_within_its_bytes_and_forgets_the_oldest() -> None:
    task = make_task("classes", n_outputs=3)  # a head that keeps nothing of its own
    genome = make_genome(task, 3, [4])
    of_one = 8 * (len(task.validation) + 2 * 3)
    evaluator = CountingEvaluator(task, cache_bytes=2 * of_one)
    evaluator.evaluate(genome)
    assert evaluator.cache.nbytes == 2 * of_one
    evaluator.evaluate(genome)  # of three clusters the first was forgotten
    assert evaluator.computed == task.n_clusters + 1


@pytest.mark.parametrize(
    ("genome", "message"),
    [
        (Genome.of_clusters([np.array([[0]])]), "1 clusters where task small needs 3"),
        (Genome.of_clusters([np.array([[20]])] * 3), "input 20 is observed where .* has 20"),
    ],
)
def test_a_genome_of_another_task_is_refused(genome: Genome, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_evaluator(make_task()).evaluate(genome)


def test_a_cluster_may_not_observe_what_it_cannot_see() -> None:
    class Chained(Task):
        @property
        def visible(self) -> tuple[int, ...]:
            return (5, 6, 20)

    task = Chained(**vars(make_task()))
    genome = Genome.of_clusters([np.array([[4]]), np.array([[6]]), np.array([[19]])])
    with pytest.raises(InputError, match="neuron 1 observes input 6, but its cluster sees only 6"):
        create_evaluator(task).evaluate(genome)


def test_an_unknown_backend_is_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match="'gpu' is not one of auto, mlx, cpu, reference"):
        create_evaluator(make_task(), backend="gpu")


def test_a_backend_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlx", "cpu"):
        monkeypatch.setitem(BACKENDS, name, ("no_such_module", "Nothing"))
    with pytest.raises(InputError, match=r"cpu.*No module named"):
        create_evaluator(make_task(), backend="cpu")
    assert create_evaluator(make_task()).backend == "reference"


def test_an_unknown_part_and_an_empty_one_are_refused() -> None:
    task = make_task(sizes=(30, 10, 0))
    evaluator = create_evaluator(task, backend="reference")
    genome = make_genome(task, 1, [2])
    with pytest.raises(InputError, match="'train' is not one of fitness, validation, test"):
        evaluator.evaluate(genome, cast("Any", "train"))
    with pytest.raises(InputError, match="its test part is empty"):
        evaluator.evaluate(genome, "test")


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"cache_bytes": -1}])
def test_impossible_numbers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        create_evaluator(make_task(), **wrong)


def test_a_head_that_no_evaluator_knows_is_refused() -> None:
    with pytest.raises(InputError, match="head 'ranks' is not one of bits, chained_bits, classes"):
        create_evaluator(replace(make_task(), head=cast("Head", "ranks")))


def test_importing_the_package_loads_no_backend() -> None:
    code = "import sys, optuna_wnn.evaluators; print({'numba', 'mlx'} & set(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "set()"


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_bits_are_extracted_as_the_instruction_does(word: int, mask: int) -> None:
    chosen = [(word >> i) & 1 for i in range(64) if (mask >> i) & 1]
    expected = sum(bit << place for place, bit in enumerate(chosen))
    assert int(jit.pext_loop(np.uint64(word), np.uint64(mask))) == expected


def test_compiled_levels_are_the_defined_ones() -> None:
    counts = np.unique(
        np.concatenate([np.arange(3000), 2 ** np.arange(40), 2 ** np.arange(40) - 1])
    )
    assert [int(cpu_kernels.level_of(np.uint64(n))) for n in counts] == level(counts).tolist()


def test_code_compiles_where_nothing_can_be_kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def njit(cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(jit, "njit", njit)
    assert jit.compiled(lambda x: x + 1)(1) == 2


def test_processes_that_compile_at_once_do_not_take_each_others_code(tmp_path: Path) -> None:
    """Numba numbers its files: two that write at once may give two signatures one number."""
    (tmp_path / "adds.py").write_text(
        "from optuna_wnn.evaluators import jit\n\n\n"
        "@jit.compiled\ndef half(x):\n    return x / 2 if x > 0 else x\n"
    )
    code = (
        "import adds, sys; print(adds.half(eval(sys.argv[1])), "
        "sum(adds.half.stats.cache_hits.values()))"
    )
    kinds = ["3", "3.0"]

    def start(kind: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, kind]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)

    first = [start(kind) for kind in kinds]
    assert [p.communicate()[0].split() for p in first] == [["1.5", "0"], ["1.5", "0"]]
    again = [start(kind) for kind in kinds]
    assert [p.communicate()[0].split() for p in again] == [["1.5", "1"], ["1.5", "1"]]
    assert len(list((tmp_path / "__pycache__").glob("*.nbc"))) == 2


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("head", get_args(Head))
def test_whoever_drops_an_evaluator_gets_its_memory_back_at_once(backend: str, head: Head) -> None:
    task = make_task(head)
    genome = make_genome(task, 3, [4])
    evaluator = create_evaluator(task, backend=backend)
    evaluator.evaluate_batch([genome])
    if head != "tokens":
        bounds = Bounds(task.n_clusters, task.n_inputs, (1, 9), (1, 9), task.visible)
        evaluator.refine(genome, bounds, {"connections"}, 3, 0)
    dropped = weakref.ref(evaluator)
    gc.disable()
    try:
        del evaluator
        assert dropped() is None
    finally:
        gc.enable()
