"""The code blocks of a Markdown page, and how each kind is run or checked."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from optuna_wnn.cli import _parser
from optuna_wnn.cli import main
from optuna_wnn.config import parse_config
from optuna_wnn.sweep_file import load_sweep
from optuna_wnn.tasks import check_options


ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

_BLOCK = re.compile(
    r"^(?:<!-- not run: (.+) -->\n)?```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
_FILE = re.compile(r"# ([\w.-]+\.yaml)\n")  # the first line of a block that is a file
_NUMBER = r"((?:n_|\b)(?:trials|refine_steps|population_size|n_neighbors))(: ?|=)\d+"
_MOST = 3
_SHORT_RUN = {
    f"OPTUNA_WNN__SEARCH__{key}": str(_MOST)
    for key in ("TRIALS", "POPULATION_SIZE", "N_NEIGHBORS")
}


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        language: What follows the three backticks.
        text: What stands in it.
        why_not: Why it cannot run in a test; empty if it can.
    """

    language: str
    text: str
    why_not: str


def blocks(path: Path) -> Iterator[Block]:
    """Yield the blocks of a page; directives of the documentation's builder are none."""
    page = path.read_text(encoding="utf-8")
    assert page.count("\n```") % 2 == 0 or page.startswith("```"), f"{path}: a block is not closed"
    for why_not, language, text in _BLOCK.findall(page):
        if not language.startswith("{"):
            yield Block(language, text, why_not)


def shorter(text: str) -> str:
    """Return what a reader runs with fewer trials, and fewer moves in each."""
    return re.sub(_NUMBER, rf"\g<1>\g<2>{_MOST}", text)


class Runner:
    """Runs the blocks of one page, one after the other, in the current folder."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self._monkeypatch = monkeypatch
        self._scope: dict[str, Any] = {"__name__": "page"}
        for folder in ("examples", "hub"):
            shutil.copytree(ROOT / folder, folder)
        for example in Path("examples").glob("*.yaml"):
            example.write_text(shorter(example.read_text(encoding="utf-8")), encoding="utf-8")

    def run(self, block: Block) -> None:
        """Run a block, or check it as far as it can be where it cannot run."""
        kinds = {"python": self._python, "yaml": self._yaml, "sh": self._shell, "": self._shell}
        if block.language != "text":
            kinds[block.language](block)

    def _python(self, block: Block) -> None:
        program = compile(shorter(block.text), str(self.path), "exec")
        if not block.why_not:
            exec(program, self._scope)

    def _yaml(self, block: Block) -> None:
        file = _FILE.match(block.text)
        if file:
            Path(file.group(1)).write_text(shorter(block.text), encoding="utf-8")
        for document in yaml.safe_load_all(block.text):
            if "method" in document:
                whole = {"name": "x", "base": {"task": {"kind": "python-docs"}}, **document}
                Path("some-sweep.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
                assert load_sweep("some-sweep.yaml").n_runs() > 0
            else:
                task = {"kind": "python-docs", **document.get("task", {})}
                parse_config({"name": "x", **document, "task": task})
                check_options(task.pop("kind"), task)

    def _shell(self, block: Block) -> None:
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(shorter(line), comments=True)
            if words:
                self._command([w for w in words if w != "&"], block.why_not)

    def _command(self, words: list[str], why_not: str) -> None:
        program, *arguments = words
        if program == "optuna-wnn":
            chosen = _parser().parse_args(arguments)
            if not why_not:
                with self._monkeypatch.context() as patch:
                    for name, value in _SHORT_RUN.items() if arguments[0] == "run" else ():
                        patch.setenv(name, value)
                    assert main(arguments) == 0, words
            elif hasattr(chosen, "config"):
                assert Path(chosen.config).exists(), words
        elif program == "pip":
            for extra in re.findall(r"\.\[([\w,-]+)\]", " ".join(arguments)):
                assert re.search(rf"^{extra} = \[", PROJECT, re.MULTILINE), extra
        elif program == "make":
            assert re.search(rf"^{arguments[0]}:", MAKEFILE, re.MULTILINE), words
        elif program == "python":
            assert (ROOT / arguments[0]).exists() or Path(arguments[0]).exists(), words
        elif program == "optuna-dashboard":
            assert Path(arguments[0].removeprefix("sqlite:///")).exists(), words
        else:
            assert why_not or program == "wait", f"{words}: how is this checked?"
