"""Every code block of the documentation works."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from code_blocks import ROOT
from code_blocks import Runner
from code_blocks import blocks


DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*DOCS, *sorted((ROOT / "examples").rglob("*.md")), ROOT / "hub" / "README.md"]


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.relative_to(ROOT).as_posix()) for p in PAGES if any(blocks(p))]
)
def test_the_blocks_of_a_page_run_one_after_the_other(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if path.parts[-2] == "hub":
        pytest.importorskip("optunahub")
    runner = Runner(path, monkeypatch)
    for block in blocks(path):
        runner.run(block)


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ("```python\n1 / 0\n```", ZeroDivisionError),
        ("```python\nx =\n```", SyntaxError),
        ("<!-- not run: no GPU -->\n```python\nx =\n```", SyntaxError),
        ("```yaml\nserch: {}\n```", Exception),
        ("<!-- not run: no GPU -->\n```yaml\ntask: {contxt: 1}\n```", Exception),
        ("```sh\noptuna-wnn report missing\n```", AssertionError),
        ("<!-- not run: no GPU -->\n```sh\noptuna-wnn rum x.yaml\n```", SystemExit),
        ("```sh\npip install '.[no-such-extra]'\n```", AssertionError),
        ("```sh\nmake coffee\n```", AssertionError),
        ("```sh\nrm -r x\n```", AssertionError),
        ("```ruby\n1\n```", KeyError),
    ],
)
def test_a_block_that_is_wrong_is_found(
    block: str, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("page.md").write_text(f"Some words.\n\n{block}\n")
    runner = Runner(Path("page.md"), monkeypatch)
    (found,) = blocks(Path("page.md"))
    with pytest.raises(error):
        runner.run(found)


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(?:tutorial|ecosystem|[\w-]+/[\w-]+)$", index, re.MULTILINE)
    there = [path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in DOCS]
    assert sorted([*listed, "index"]) == sorted(there)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    for needed in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "reference" / "docstrings.html").read_text(encoding="utf-8")
    assert "optuna_wnn.WNNGeneticSampler" in page
