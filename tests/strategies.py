"""What hypothesis draws: bounds, genomes within them, and sources of randomness."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Genome
from optuna_wnn.variation import random_genome


seeds = st.integers(0, 2**32 - 1)


@st.composite
def bounds(draw: st.DrawFn, most_clusters: int = 6, most_inputs: int = 40) -> Bounds:
    """Draw bounds; half of them hide some inputs from some clusters, and half know fields."""
    n_clusters = draw(st.integers(1, most_clusters))
    n_inputs = draw(st.integers(1, most_inputs))
    neurons = sorted(draw(st.tuples(st.integers(1, 6), st.integers(1, 6))))
    bits = sorted(draw(st.tuples(st.integers(1, n_inputs), st.integers(1, n_inputs))))
    visible = None
    if draw(st.booleans()):
        visible = tuple(
            draw(
                st.lists(st.integers(bits[1], n_inputs), min_size=n_clusters, max_size=n_clusters)
            )
        )
    fields = None
    if draw(st.booleans()):
        fewest = n_inputs if visible is None else min(visible)
        width = draw(st.integers(1, fewest))
        fields = draw(st.integers(1, fewest // width)), width
    ranges = (neurons[0], neurons[1]), (bits[0], bits[1])
    return Bounds(n_clusters, n_inputs, *ranges, visible, fields)


@st.composite
def genomes(draw: st.DrawFn, within: Bounds | None = None) -> Genome:
    """Draw a genome of heterogeneous clusters."""
    limits = draw(bounds()) if within is None else within
    return random_genome(limits, np.random.default_rng(draw(seeds)))


@st.composite
def bounded_genomes(draw: st.DrawFn) -> tuple[Bounds, Genome]:
    """Draw bounds and a genome within them."""
    limits = draw(bounds())
    return limits, draw(genomes(limits))
