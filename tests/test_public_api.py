"""What the package offers by name: all of it is documented."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import optuna_wnn
import optuna_wnn.evaluators
import optuna_wnn.samplers
import optuna_wnn.sklearn
from optuna_wnn.schema import PAGES
from optuna_wnn.schema import keys
from optuna_wnn.schema import with_key_table


ROOT = Path(__file__).parent.parent
MODULES = (optuna_wnn, optuna_wnn.samplers, optuna_wnn.evaluators, optuna_wnn.sklearn)
NAMES = [
    pytest.param(module, name, id=f"{module.__name__}.{name}")
    for module in MODULES
    for name in module.__all__
    if name != "__version__"
]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_public_name_has_a_docstring_of_its_own(module: ModuleType, name: str) -> None:
    found = getattr(module, name)
    text = vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__
    assert text
    assert text.strip().splitlines()[0].endswith(".")


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_public_methods_have_docstrings(module: ModuleType, name: str) -> None:
    found = getattr(module, name)
    if not inspect.isclass(found):
        return
    for method, value in vars(found).items():
        if not method.startswith("_") and (
            inspect.isfunction(value) or isinstance(value, property)
        ):
            assert inspect.getdoc(value), f"{name}.{method}"


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_public_name_is_mentioned_in_what_users_read(module: ModuleType, name: str) -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`|^.*import.*\b{name}\b", text, re.MULTILINE)


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_sorted_and_there(module: ModuleType) -> None:
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_every_public_class_says_what_its_arguments_are() -> None:
    for module, name in ((p.values[0], str(p.values[1])) for p in NAMES):
        found = getattr(module, name)
        if inspect.isclass(found) and not issubclass(found, Exception):
            text = inspect.getdoc(found) or ""
            assert "Args:" in text or "Attributes:" in text, name


@pytest.mark.parametrize("name", PAGES)
def test_the_table_of_configuration_keys_is_up_to_date(name: str) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert page == with_key_table(page, PAGES[name]), "a key changed: run make docs"


def test_every_configuration_key_says_what_it_is() -> None:
    for model in PAGES.values():
        assert [key.path for key in keys(model) if len(key.description) < 9] == []
