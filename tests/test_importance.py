"""Which inputs matter to each cluster: what is weighed, and how it is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from networks import genomes
from networks import make_genome
from networks import make_task
from networks import tasks

from optuna_wnn import InputError
from optuna_wnn import figures
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.genome import Genome
from optuna_wnn.importance import Importance
from optuna_wnn.importance import importance
from optuna_wnn.importance import weights_of
from optuna_wnn.tasks import Examples
from optuna_wnn.tasks import Task
from optuna_wnn.tasks.base import pack_bits


@settings(max_examples=20)
@given(st.data())
def test_neurons_are_ordered_by_their_separation(data: st.DataObject) -> None:
    task = data.draw(tasks())
    genome = data.draw(genomes(task))
    evaluator = create_evaluator(task, backend="reference")
    separations = evaluator.separations(genome)
    order = np.lexsort((genome.neuron_hashes, -separations, genome.neuron_cluster))
    assert order.tolist() == evaluator.evaluate(genome).neuron_order.tolist()


@settings(max_examples=30)
@given(st.data())
def test_connections_share_what_their_neuron_tells(data: st.DataObject) -> None:
    task = data.draw(tasks())
    genome = data.draw(genomes(task))
    seed = data.draw(st.integers(0, 99))
    separations = np.random.default_rng(seed).normal(size=genome.n_neurons)
    weights = weights_of(genome, separations, task.n_inputs)
    for k, row in enumerate(weights):
        own = separations[genome.neuron_cluster == k]
        assert row.sum() == pytest.approx(own.clip(0).sum())
        observed = np.unique(genome.cluster(k))
        assert not np.delete(row, observed).any()


def test_the_input_that_decides_matters_most() -> None:
    bits = np.random.default_rng(0).random((600, 10)) < 0.5
    examples = Examples(pack_bits(bits), bits[:, 3].astype(np.int64))
    task = Task("third", "classes", 10, 2, examples, examples, examples, (10, 1))
    found = importance(create_evaluator(task, backend="cpu"), make_genome(task, 40, [4]))
    assert found.weights.argmax(axis=1).tolist() == [3, 3]
    assert (found.clusters, found.picture) == ("class", None)


def test_no_separation_below_0_counts() -> None:
    genome = Genome.of_clusters([np.array([[0, 1], [1, 2]])])
    assert weights_of(genome, np.array([0.5, -9.0]), 4).tolist() == [[0.25, 0.25, 0.0, 0.0]]


def test_pixels_are_drawn_where_they_are() -> None:
    weights = np.arange(2 * 12.0).reshape(2, 12)
    figure = figures.matters(Importance(weights, (6, 2), (2, 3), "class"), "a/1-ga-neurons")
    assert [list(map(list, panel.z)) for panel in figure.data] == [
        [[1, 5, 9], [13, 17, 21]],
        [[25, 29, 33], [37, 41, 45]],
    ]
    assert [a.text for a in figure.layout.annotations] == ["class 0", "class 1"]


def test_text_is_drawn_by_position_and_bit_with_the_target_s_own_bits_last() -> None:
    weights = np.arange(1.0, 8.0)[None]
    figure = figures.matters(Importance(weights, (2, 3), None, "bit"), "a/1-ga-neurons")
    (panel,) = figure.data
    assert [list(line) for line in panel.z] == [[1, 4, 7], [2, 5, None], [3, 6, None]]


@pytest.mark.parametrize("shape", [(40, 30), (10, 5000)])
def test_what_is_too_much_to_be_seen_is_summed_up(shape: tuple[int, int]) -> None:
    weights = np.ones(shape)
    figure = figures.matters(Importance(weights, (shape[1], 1), None, "bit"), "a/1")
    (panel,) = figure.data
    assert set(panel.z[0]) == {shape[0]}
    assert len(figure.to_json()) < 300_000


def test_networks_of_tokens_have_none() -> None:
    task = make_task("tokens")
    with pytest.raises(InputError, match="tokens head has none"):
        importance(create_evaluator(task, backend="reference"), make_genome(task, 2, [3]))
