"""Any files, texts and stored values: they are taken, or one clear line refuses them."""

from __future__ import annotations

import contextlib
import gzip
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from runs import small_search
from runs import studies

from optuna_wnn import Genome
from optuna_wnn import report
from optuna_wnn.config import parse_config
from optuna_wnn.errors import InputError
from optuna_wnn.sources import load_config
from optuna_wnn.store.claims import read_claim
from optuna_wnn.strict_yaml import parse_yaml
from optuna_wnn.traces import read_trace


NUMBERS = st.integers() | st.floats() | st.sampled_from([2**31, -(2**31), 2**63, 2**64, 1e308])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


def expect_one_line(error: InputError) -> None:
    assert 0 < len(str(error)) < 1000


# -- files ---------------------------------------------------------------------------------------

GENOME = {
    "format": "optuna-wnn genome",
    "version": 1,
    "neurons": [1, 2],
    "bits": [2, 1],
    "connections": [0, 3, 1, 2],
}


@given(st.dictionaries(st.sampled_from([*GENOME, "digest", "checksum"]), JSON))
@settings(max_examples=60)
def test_a_genome_file_of_any_values_is_refused_in_one_line(changes: dict[str, Any]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".json.gz") as file:
        file.write(gzip.compress(json.dumps({**GENOME, **changes}).encode()))
        file.flush()
        with pytest.raises(InputError) as refused:
            Genome.load(file.name)
    expect_one_line(refused.value)


KEYS = ["name", "task", "seed", "space", "memory", "search", "phases", "fitness", "threshold"]


@given(st.dictionaries(st.sampled_from([*KEYS, "scaling", "storage", "x"]), JSON))
@settings(max_examples=60)
@example({"space": {"bits": [2, 3, 4]}})
def test_a_configuration_of_any_values_is_taken_or_refused(changes: dict[str, Any]) -> None:
    document = {"name": "a", "task": {"kind": "python-docs"}, **changes}
    try:
        parse_config(document)
    except InputError as error:
        expect_one_line(error)


SECTIONS = st.sampled_from(["space", "memory", "search", "fitness", "threshold", "scaling"])
INNER = ["bits", "neurons", "mode", "prior", "vote", "blocks", "trials", "patience", "weights"]
OTHERS = ["calculator", "start", "end", "kind", "temperature", "negatives", "mutation_rate"]


@given(SECTIONS, st.dictionaries(st.sampled_from([*INNER, *OTHERS]), JSON))
@settings(max_examples=60)
def test_a_section_of_any_values_is_taken_or_refused(section: str, values: Any) -> None:
    try:
        parse_config({"name": "a", "task": {"kind": "python-docs"}, section: values})
    except InputError as error:
        expect_one_line(error)


@given(st.text(alphabet="ab01 \n:-[]{}&*!<>|'\"#%@`,?.~\t\\", max_size=60))
@settings(max_examples=60)
def test_a_text_of_any_kind_is_yaml_or_is_refused(text: str) -> None:
    with contextlib.suppress(yaml.YAMLError):
        json.dumps(parse_yaml(text))


@given(st.binary(max_size=80))
def test_a_configuration_file_of_any_bytes_is_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.yaml")
        path.write_bytes(content)
        with pytest.raises(InputError) as refused:
            load_config(path)
    expect_one_line(refused.value)


# -- what is stored ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored() -> bytes:
    """A storage with a finished run."""
    storage = InMemoryStorage()
    changes: dict[str, Any] = {
        "search": {"trials": 3, "population_size": 3},
        "phases": [{"method": "ga", "free": "bits"}, {"method": "ts", "free": "connections"}],
        "threshold": {"start": 0.1, "end": 0.3},
    }
    small_search(storage, **changes).run()
    return pickle.dumps(storage)


def damage(storage: InMemoryStorage, data: st.DataObject) -> None:
    """Put any value in the place of an attribute that is stored."""
    study = studies(storage)[data.draw(st.sampled_from([0, 1]))]
    value = data.draw(JSON | JSON.map(json.dumps))
    kept = storage._studies[study._study_id]
    trial = data.draw(st.sampled_from(kept.trials))
    place: Any = data.draw(
        st.sampled_from([kept.user_attrs, kept.system_attrs, trial.user_attrs, trial.system_attrs])
    )
    key = data.draw(st.sampled_from(sorted(place)))
    place[key] = value


@given(st.data())
@settings(max_examples=60)
def test_a_run_with_any_value_stored_is_read_or_refused(
    stored: bytes, data: st.DataObject
) -> None:
    storage: InMemoryStorage = pickle.loads(stored)
    damage(storage, data)
    try:
        report.summarise(storage, "small")
        report.settings_table(storage, "small")
        report.generations_table(storage, "small")
        read_trace(storage, "small")
        report.best_genome(storage, "small")
    except InputError as error:
        expect_one_line(error)


@given(JSON | JSON.map(json.dumps))
def test_a_claim_of_any_value_is_read_or_refused(value: Any) -> None:
    try:
        read_claim({"wnn:claim": value})
    except InputError as error:
        expect_one_line(error)
