"""What GPU launches hold: everything once, within what a launch may take, where kernels look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import make_task
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators.cells import GAINS
from optuna_wnn.evaluators.cells import make_cells
from optuna_wnn.evaluators.gpu_kernels import CLUSTER
from optuna_wnn.evaluators.gpu_kernels import KERNELS
from optuna_wnn.evaluators.gpu_kernels import NEURON
from optuna_wnn.evaluators.gpu_kernels import READ_CHUNK
from optuna_wnn.evaluators.gpu_layout import by_word
from optuna_wnn.evaluators.gpu_layout import lay_out
from optuna_wnn.evaluators.gpu_layout import pack_flags
from optuna_wnn.evaluators.gpu_layout import pieces_of
from optuna_wnn.evaluators.gpu_plan import Cost
from optuna_wnn.evaluators.gpu_plan import Part
from optuna_wnn.evaluators.gpu_plan import Turn
from optuna_wnn.evaluators.gpu_plan import Wiring
from optuna_wnn.evaluators.gpu_plan import Work
from optuna_wnn.evaluators.gpu_plan import most
from optuna_wnn.evaluators.gpu_plan import plan_launches
from optuna_wnn.evaluators.gpu_plan import table_of
from optuna_wnn.evaluators.gpu_plan import turns_of
from optuna_wnn.evaluators.gpu_rules import row_of_votes
from optuna_wnn.evaluators.gpu_rules import votes_bytes
from optuna_wnn.evaluators.gpu_rules import votes_of
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import pack_bits


COUNTS = make_cells(MemorySettings(), "bits", 256, 200_000)
STATES = make_cells(MemorySettings(mode="wisard", vote="mean"), "bits", 256, 200_000)
WHOLE = Turn(0, 50_000, 0, None, False)
WORK = Work(COUNTS, 200_000, WHOLE)


def wiring(n_neurons: int, n_bits: int) -> Wiring:
    connections = np.tile(np.arange(n_bits, dtype=np.int32), (n_neurons, 1))
    return Wiring(connections, np.arange(n_neurons, dtype=np.uint64), 0, 0, None)


def total(work: Work, clusters: Sequence[Wiring], parts: Sequence[Part]) -> Cost:
    """Return what some parts take together."""
    rows = [
        np.array(work.of_neuron(clusters[p.place].connections.shape[1])) * (p.last - p.first)
        + work.of_part(clusters[p.place])
        for p in parts
    ]
    return Cost(*np.sum(rows, axis=0).tolist())


def column(rows: NDArray[np.uint32], name: str) -> NDArray[np.uint64]:
    return rows[:, NEURON.index(name)].astype(np.uint64)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 24)), max_size=20),
    st.integers(10**9, 10**11),
)
def test_every_neuron_is_in_one_launch_and_no_launch_takes_more_than_it_may(
    shapes: list[tuple[int, int]], memory: int
) -> None:
    clusters = [wiring(*shape) for shape in shapes]
    limit = most(memory)
    launches = plan_launches(WORK, clusters, limit)
    parts = [part for launch in launches for part in launch]
    for place, (n_neurons, _) in enumerate(shapes):
        mine = [n for p in parts if p.place == place for n in range(p.first, p.last)]
        assert mine == list(range(n_neurons))
    for launch in launches:
        assert all(a <= b for a, b in zip(total(WORK, clusters, launch), limit, strict=True))


def test_what_fits_is_one_launch() -> None:
    clusters = [wiring(20, 12) for _ in range(16)]
    assert len(plan_launches(WORK, clusters, most(10**10))) == 1


def test_a_launch_takes_no_more_pairs_than_a_watchdog_waits_for() -> None:
    launches = plan_launches(WORK, [wiring(50_000, 4)], most(10**12))
    assert len(launches) == -(-50_000 // (most(1).pairs // 250_000))


def test_no_array_has_more_elements_than_mlx_can_count() -> None:
    clusters = [wiring(3000, 20)]
    for launch in plan_launches(WORK, clusters, most(10**12)):
        assert total(WORK, clusters, launch).cells < 2**31


def test_a_buffer_has_a_limit_of_its_own() -> None:
    clusters = [wiring(100, 20)]
    limit = most(10**12, buffer=2**26, cell_bytes=WORK.cell_bytes)
    assert max(p.last - p.first for (p,) in plan_launches(WORK, clusters, limit)) == 8


def test_a_neuron_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"device_bytes: a neuron of 22 bits .* cpu backend"):
        plan_launches(WORK, [wiring(1, 22)], most(10**7))


def test_memory_does_not_grow_with_neurons_times_examples() -> None:
    for n_bits in (8, 22):
        few = replace(WORK, n_written=10, turn=replace(WHOLE, size=10))
        many = replace(WORK, n_written=10**9, turn=replace(WHOLE, size=10**9))
        assert few.of_neuron(n_bits).bytes == many.of_neuron(n_bits).bytes


@pytest.mark.parametrize(("cells", "n_bits"), [(COUNTS, 22), (STATES, 22), (STATES, 100)])
def test_tables_beyond_four_giga_cells_have_offsets_of_their_own(
    cells: object, n_bits: int
) -> None:
    work = Work(cells, 3_000_000, WHOLE)  # type: ignore[arg-type]
    layout = lay_out(work, [wiring(700, n_bits), wiring(800, n_bits)])
    table = table_of(n_bits, 3_000_000)
    rows, places = layout.neurons, np.arange(1500, dtype=np.uint64)
    found = {
        name: column(rows, f"{name}_low") + (column(rows, f"{name}_high") << np.uint64(32))
        for name in ("cells", "slots")
    }
    assert found["cells"][-1] >= 2**32
    assert np.array_equal(found["cells"], places * np.uint64(table.size))
    assert np.array_equal(found["slots"], places * np.uint64(table.slots))
    assert layout.n_cells == 1500 * table.size * work.cell_words


def test_a_layout_says_where_everything_of_a_neuron_is() -> None:
    chosen = [np.arange(5, dtype=np.uint32), np.arange(7, dtype=np.uint32)]
    clusters = [
        replace(wiring(2, 3), chosen=chosen[0], flags=4, votes=2),
        replace(wiring(3, 30), chosen=chosen[1], flags=6, votes=3),
    ]
    layout = lay_out(replace(WORK, n_written=7), clusters)
    assert column(layout.neurons, "cluster").tolist() == [0, 0, 1, 1, 1]
    assert column(layout.neurons, "plan_first").tolist() == [0, 3, 6, 8, 10]
    assert column(layout.neurons, "plan_size").tolist() == [3, 3, 1, 1, 1]
    assert column(layout.neurons, "last_slot").tolist() == [0, 0, 15, 15, 15]
    assert column(layout.neurons, "key_low").tolist() == [0, 1, 0, 1, 2]
    assert layout.plan.tolist() == [0, 1, 2, 0, 1, 2, *[0, 2**30 - 1] * 3]
    heads = [dict(zip(CLUSTER, row, strict=True)) for row in layout.clusters.tolist()]
    of_chosen = [{"chosen_first": 0, "chosen_size": 5}, {"chosen_first": 5, "chosen_size": 7}]
    assert heads == [
        {"neuron_first": 0, "neurons": 2, "flags": 4, "votes": 2} | of_chosen[0],
        {"neuron_first": 2, "neurons": 3, "flags": 6, "votes": 3} | of_chosen[1],
    ]


@given(st.integers(1, 128), st.integers(0, 9))
def test_a_wide_neuron_is_masks_of_the_words_that_it_observes(n_bits: int, seed: int) -> None:
    observed = np.sort(np.random.default_rng(seed).permutation(1000)[:n_bits]).astype(np.int32)
    work = replace(WORK, dense_bits=0)
    plan = lay_out(work, [replace(wiring(1, n_bits), connections=observed[None])]).plan
    masks = {int(word): int(mask) for word, mask in plan.reshape(-1, 2)}
    seen = [
        32 * word + bit for word, mask in masks.items() for bit in range(32) if mask >> bit & 1
    ]
    assert seen == observed.tolist()


@given(st.integers(1, 9), st.integers(1, 30), st.integers(2, 6))
def test_blocks_are_read_in_turns_each_of_them_once(n_blocks: int, size: int, tables: int) -> None:
    task = make_task(sizes=(n_blocks * size + 7, 5, 5))
    blocks = 7 + np.arange(n_blocks + 1, dtype=np.int64) * size
    reading = Reading("blocks", len(task.train), task.train, blocks)
    turns = list(turns_of(reading, tables))
    if size == 1:
        assert [(t.first, t.size, t.offset, t.leaves_one) for t in turns] == [
            (0, n_blocks, 7, True)
        ]
        return
    assert all(t.n_tables <= tables and not t.leaves_one for t in turns)
    read = [e for t in turns for e in range(t.first, t.first + t.size)]
    assert read == list(range(n_blocks * size))
    for turn in turns:
        first = turn.first // size
        own = (np.arange(turn.first, turn.first + turn.size) // size) - first
        assert np.array_equal(turn.own_block(), own)


@given(st.lists(st.integers(1, 5 * READ_CHUNK), min_size=1, max_size=5))
def test_threadgroups_have_every_input_once_and_one_cluster_each(sizes: list[int]) -> None:
    owners = np.repeat(np.arange(len(sizes)), sizes)
    pieces = pieces_of(sizes).tolist()
    assert [q for _, first, last in pieces for q in range(first, last)] == [*range(sum(sizes))]
    for cluster, first, last in pieces:
        assert last - first <= READ_CHUNK
        assert set(owners[first:last].tolist()) == {cluster}


@given(st.integers(1, 70), st.integers(1, 140), st.integers(0, 9))
def test_packed_inputs_and_flags_hold_every_bit(size: int, n_inputs: int, seed: int) -> None:
    bits = np.random.default_rng(seed).random((size, n_inputs)) < 0.5
    words = by_word(pack_bits(bits))
    places = np.arange(n_inputs)
    assert np.array_equal((words[places // 32].T >> (places % 32).astype(np.uint32)) & 1, bits)
    flags = pack_flags(list(bits.astype(np.uint8)))
    assert flags.shape == (size, -(-n_inputs // 32))
    assert np.array_equal((flags[:, places // 32] >> (places % 32).astype(np.uint32)) & 1, bits)


def test_clusters_share_a_row_of_votes_unless_their_gains_differ() -> None:
    memory, gains = MemorySettings(vote="calibrated"), np.full((40, GAINS), 512)
    shared, apart = (make_cells(memory, "bits", 256, 200_000, its) for its in (None, gains))
    assert {row_of_votes(shared, k) for k in range(40)} == {0}
    assert [row_of_votes(apart, k) for k in range(40)] == list(range(40))
    for cells, n_rows in ((STATES, 1), (COUNTS, 1), (shared, 1), (apart, 40)):
        rows = votes_of(cells)
        assert len(rows) == n_rows
        assert votes_bytes(cells) == 4 * rows.size


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("api", ["metal", "cuda"])
def test_kernels_are_ascii_and_only_integers(kernel: object, api: str) -> None:
    text = kernel.header(api) + kernel.source()  # type: ignore[attr-defined]
    assert text.isascii()
    assert not {"float", "double", "half"} & set(text.replace("(", " ").split())
