"""The dashboard in a real browser: a finished run of six studies and 3,000 trials.

Screenshots are left in the folder that the environment variable ``SCREENSHOTS`` names, if any.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import urllib.request
import wsgiref.simple_server
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from runs import DigestEvaluator
from runs import small_search

from optuna_wnn import dashboard
from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators.base import EvaluationPart
from optuna_wnn.genome import Genome
from optuna_wnn.tasks import Examples
from optuna_wnn.tasks import Task
from optuna_wnn.tasks.base import pack_bits


pytest.importorskip("optuna_dashboard")
pytest.importorskip("choreographer")

import browser
from choreographer.errors import ChromeNotFoundError


pytestmark = pytest.mark.slow

FIGURES = ("progress", "trade-off", "size", "clusters", "inputs")
MOST_BYTES = 300_000


class SmoothEvaluator(DigestEvaluator):
    """Likes many neurons that observe late inputs; costs next to nothing."""

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        places = genome.connections / self.task.n_inputs
        starts = genome.offsets[genome.cluster_starts[:-1]]
        sums = np.add.reduceat(1 - places, starts)
        losses = sums / (genome.neurons * genome.bits) / 4 + 1 / (genome.neurons + genome.bits)
        noise = super().evaluate(genome, part).accuracy - 0.5
        loss = float(losses.mean()) * 5 + (part == "test") * 0.05
        return Evaluation(
            cross_entropy=loss,
            accuracy=float(np.clip(np.exp(-loss) + 0.03 * noise, 0, 1)),
            neuron_order=np.arange(genome.n_neurons),
            cluster_losses=losses,
            n_examples=8,
        )


def wide_task() -> Task:
    """Return a task of 64 positions of 8 bits each, and 16 classes."""
    rng = np.random.default_rng(0)
    train, validation, test = (
        Examples(pack_bits(rng.random((8, 512)) < 0.5), rng.integers(0, 16, 8)) for _ in range(3)
    )
    baselines = {"unigram": 0.85}
    return Task("wide", "classes", 512, 16, train, validation, test, (64, 8), baselines)


@pytest.fixture(scope="module")
def finished() -> BaseStorage:
    storage = InMemoryStorage()
    small_search(
        storage,
        SmoothEvaluator(wide_task()),
        space={"neurons": [2, 30], "bits": [2, 16], "start_neurons": 10, "start_bits": 8},
        search={"trials": 500, "population_size": 20, "n_neighbors": 20},
        threshold={"start": 0.3, "end": 0.48},
    ).run()
    dashboard.refresh(storage, "small")
    return storage


class _Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(finished: BaseStorage) -> Iterator[str]:
    """Where optuna-dashboard shows the run."""
    import optuna_dashboard

    application = optuna_dashboard.wsgi(finished)
    with wsgiref.simple_server.make_server(
        "127.0.0.1", 0, application, handler_class=_Quiet
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_all_studies_can_be_clicked_through(address: str, pictures: Path) -> None:
    try:
        asyncio.run(click_through(address, pictures))
    except ChromeNotFoundError:
        pytest.skip("neither Chrome nor Chromium is installed")


async def click_through(address: str, pictures: Path) -> None:
    with_infeasible = 0
    async with browser.page() as page:
        await page.resize(1300, 2350)
        await page.open(f"{address}/dashboard")
        for number, (name, place) in enumerate(places(address).items(), start=1):
            await page.click(f'a[href="/dashboard/studies/{place}"]')
            await page.wait(f"document.body.innerText.includes('{name} (id={place})')")
            for figure in FIGURES:
                await page.wait(drawn(figure))
            shown = await page.ask(infeasible())
            assert (shown > 0) == (n_infeasible(address, place) > 0)
            with_infeasible += shown > 0
            await page.save(pictures / f"study-{number}.png")
            await page.click(f'a[href="/dashboard/studies/{place}/note"]')
            await page.wait(f"document.body.innerText.includes('Phase {number} of run small')")
            assert await page.ask("document.querySelectorAll('table').length") >= 2
            await page.save(pictures / f"note-{number}.png")
            assert await page.ask("window.testErrors") == []
            await page.click('a[href="/dashboard/"]')
        await page.wait(
            "document.querySelectorAll('a[href^=\"/dashboard/studies/\"]').length == 6"
        )
        await page.save(pictures / "studies.png")
    assert with_infeasible > 1


def drawn(name: str) -> str:
    """Return what is true in the browser as soon as a figure of the run is drawn."""
    return f"document.querySelector('[id$=\":{dashboard.PREFIX}{name}\"] svg.main-svg')"


def infeasible() -> str:
    """Return how many infeasible trials the dashboard's own Pareto plot shows, in grey."""
    return (
        "[...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data)"
        ".filter(trace => (trace.marker || {}).color == '#cccccc')"
        ".reduce((count, trace) => count + trace.x.length, 0)"
    )


def test_answers_stay_small_and_fast(address: str) -> None:
    for place in places(address).values():
        started = time.perf_counter()
        answer, size = asked(f"{address}/api/studies/{place}")
        seconds = time.perf_counter() - started
        figures = {g["id"]: len(g["graph_object"]) for g in answer["plotly_graph_objects"]}
        assert sorted(figures) == sorted(dashboard.PREFIX + name for name in FIGURES)
        assert max(figures.values()) < MOST_BYTES
        n_trials = len(answer["trials"])
        assert n_trials >= 500
        n_parameters = len(answer["trials"][0]["params"])  # 17 where 16 counts are free
        assert size - sum(figures.values()) < (1_000 + 300 * n_parameters) * n_trials
        assert seconds < 10


def places(address: str) -> dict[str, int]:
    """Return under which number the dashboard knows each study, by name."""
    answer, _ = asked(f"{address}/api/studies")
    found = {s["study_name"]: s["study_id"] for s in answer["study_summaries"]}
    assert len(found) == 6
    return dict(sorted(found.items()))


def n_infeasible(address: str, place: int) -> int:
    """Return how many trials of a study miss their accuracy bar, as the dashboard knows it."""
    answer, _ = asked(f"{address}/api/studies/{place}")
    return sum(trial["constraints"][0] > 0 for trial in answer["trials"])


def asked(address: str) -> tuple[Any, int]:
    """Return a JSON answer and how many bytes it has."""
    with urllib.request.urlopen(address, timeout=60) as answer:
        text = answer.read()
    return json.loads(text), len(text)
