"""Reports as files: a page that needs no network, and pictures."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from runs import DigestEvaluator
from runs import small_search

from optuna_wnn import open_storage
from optuna_wnn.cli import main


pytest.importorskip("plotly")


URL = "sqlite:///runs.db"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of one finished run, ``small``."""
    folder = tmp_path_factory.mktemp("runs")
    storage = open_storage(f"sqlite:///{folder}/runs.db")
    small_search(storage, search={"trials": 4, "population_size": 2, "n_neighbors": 2}).run()
    return folder


@pytest.fixture(autouse=True)
def _inside(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)


def test_a_page_has_the_table_the_figures_and_the_settings_and_needs_no_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.html"
    assert main(["report", "small", "--storage", URL, "--html", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    page = path.read_text(encoding="utf-8")
    outside = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=", outside)
    assert not re.findall(r"<script[^>]*src=", page)
    assert "plotly.js v" in page
    for name in ("progress", "trade-off", "size", "clusters", "inputs"):
        assert f'id="{name}"' in page
    rows = re.findall(r"<tr.*?</tr>", page)
    assert len(rows) == 1 + 6 + 1  # heading, phases, first random genome
    assert sum('class="best"' in row for row in rows) == 1
    assert "calculator: CE" in page


def test_pictures_are_written_and_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("kaleido")
    folder = tmp_path / "new" / "folder"
    folder.mkdir(parents=True)
    (folder / "progress.png").write_text("what was there")
    code = main(["report", "small", "--storage", URL, "--png", str(folder)])
    if "Chrome or Chromium, which is not there" in capsys.readouterr().err:
        pytest.skip("no Chrome is installed")
    assert code == 0
    names = ["clusters.png", "inputs.png", "progress.png", "size.png", "trade-off.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for path in folder.iterdir():
        start = path.read_bytes()[:24]
        assert start.startswith(b"\x89PNG")
        assert struct.unpack(">II", start[16:]) == (1000, 480)


def test_without_chrome_the_remedy_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chrome")
    assert main(["report", "small", "--storage", URL, "--png", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "install it" in line
    assert "--html" in line


@pytest.mark.parametrize("option", ["--html", "--png"])
def test_without_the_extra_the_remedy_is_named(
    option: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("optuna_wnn.pages.find_spec", lambda name: None)
    assert main(["report", "small", "--storage", URL, option, str(tmp_path / "x")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'optuna-wnn[plot]'" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["smal", "--html", "x.html"], "it has small"),
        (["small", "--html", "folder"], "folder: cannot be written (Is a directory)"),
        (["small", "--html", "nowhere/x.html"], "cannot be written (No such file"),
        (["small", "--html", "x\0.html"], "cannot be written (embedded null byte)"),
        (["small", "--html", "file/x.html"], "cannot be written (Not a directory)"),
        (["small", "--png", "file"], "file: no folder can be made there (File exists)"),
        (["small", "--png", "file/x"], "no folder can be made there (Not a directory)"),
        (["small", "--png", "x\0"], "no folder can be made there (embedded null byte)"),
    ],
)
def test_what_cannot_be_written_is_one_clear_line(
    words: list[str],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    runs: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    url = f"sqlite:///{runs}/runs.db"
    assert main(["report", *words, "--storage", url]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("optuna-wnn: ")
    assert reason in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_page_and_pictures_are_not_asked_for_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", "small", "--html", "x.html", "--png", "x"])
    assert ended.value.code == 2


def test_a_run_without_a_trial_makes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopping(DigestEvaluator):
        def evaluate(self, *_: object) -> None:  # type: ignore[override]
            raise KeyboardInterrupt

    url = f"sqlite:///{tmp_path}/empty.db"
    with pytest.raises(KeyboardInterrupt):
        small_search(open_storage(url), Stopping()).run()
    path = tmp_path / "empty.html"
    assert main(["report", "small", "--storage", url, "--html", str(path)]) == 0
    assert "No trial has ended yet." in path.read_text(encoding="utf-8")
