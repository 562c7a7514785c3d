"""The command: run, report and export, on a terminal and piped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optuna_wnn import Genome
from optuna_wnn import RAMNetwork
from optuna_wnn import load_task
from optuna_wnn.cli import main
from optuna_wnn.phases import PhasedSearch


CONFIG = """
name: tiny
backend: reference
task: {kind: text, path: text.txt, context: 1}
space: {neurons: [2, 3], bits: [2, 4]}
search: {trials: 5, population_size: 3, n_neighbors: 3}
"""
COMMAND = [sys.executable, "-m", "optuna_wnn.cli"]
ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the run was run to its end; and what it printed, in ``out.txt``."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("the cat sat on the mat; the dog did not. " * 40)
    (folder / "run.yaml").write_text(CONFIG)
    ran = subprocess.run(
        [*COMMAND, "run", "run.yaml"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    (folder / "out.txt").write_text(ran.stdout)
    return folder


@pytest.fixture
def inside(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the working directory."""
    monkeypatch.chdir(finished)
    return finished


# -- words ---------------------------------------------------------------------------------------


def test_the_version_is_that_of_the_distribution() -> None:
    ran = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == version("optuna-wnn")


@pytest.mark.parametrize(
    "words",
    [
        *([], ["init"], ["schema"], ["run"], ["sweep"]),
        *(["report"], ["export"], ["predict"], ["generate"]),
    ],
)
def test_help_is_there_for_every_command(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: optuna-wnn")
    assert words or all(name in told for name in ("init", "run", "sweep", "report", "export"))


@pytest.mark.parametrize(
    "words", [[], ["rum"], ["run"], ["report"], ["export", "tiny"], ["run", "a.yaml", "--sett"]]
)
def test_words_that_make_no_command_end_with_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


# -- piped ---------------------------------------------------------------------------------------


def test_piped_output_is_plain_lines(finished: Path) -> None:
    out = (finished / "out.txt").read_text()
    assert ESCAPE not in out
    assert "\r" not in out
    lines = out.splitlines()
    assert lines[0] == "[1/6] tiny/1-ga-neurons  starts"
    assert re.fullmatch(
        r"\[1/6\] tiny/1-ga-neurons  generation 0  3/5 trials  "
        r"CE \d\.\d{4}  accuracy \d\.\d{4}  \d+\.\d trials/s",
        lines[1],
    )
    assert re.fullmatch(
        r"\[1/6\] tiny/1-ga-neurons  ended: all 5 trials  CE \d\.\d{4}  accuracy \d\.\d{4}",
        lines[2],
    )
    assert re.fullmatch(
        r"\[2/6\] tiny/2-ts-neurons  starts  CE \d\.\d{4}  accuracy \d\.\d{4}", lines[3]
    )
    assert max(map(len, lines)) <= 140
    assert "  0.0 trials/s" not in out


def test_the_table_has_every_phase_and_the_baselines(finished: Path) -> None:
    out = (finished / "out.txt").read_text()
    table = out[out.index("Run tiny") :]
    for row in (
        *(f"tiny/{i}-" for i in range(1, 7)),
        "first random genome",
        "baseline: unigram",
        "baseline: Kneser-Ney bigram",
    ):
        assert row in table
    assert re.search(r"Best: trial \d+ of tiny/", table)


def test_a_finished_run_only_shows_its_table(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = (inside / "out.txt").read_text()
    table = out[out.index("Run tiny") :]
    assert main(["run", "run.yaml"]) == 0
    assert capsys.readouterr().out == table
    assert main(["report", "tiny"]) == 0
    assert capsys.readouterr().out == table


def test_a_table_is_printed_even_where_only_ascii_can_be(finished: Path) -> None:
    ran = subprocess.run(
        [*COMMAND, "report", "tiny"],
        cwd=finished,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"},
    )
    assert ran.returncode == 0, ran.stderr
    assert "tiny/6-ts-connections" in ran.stdout


def test_a_pipe_that_closes_early_is_no_error(finished: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "run", "run.yaml", "--name", "piped"],
        cwd=finished,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_every_generation_is_shown_on_request(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "tiny", "--generations"]) == 0
    assert capsys.readouterr().out.startswith("Generations of tiny")


# -- on a terminal -------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="it needs pty")
def test_a_terminal_shows_a_bar_for_each_phase(finished: Path) -> None:
    shown = on_terminal([*COMMAND, "run", "run.yaml", "--name", "bars"], finished)
    assert ESCAPE in shown
    assert "━" in shown
    assert "Traceback" not in shown
    for study in ("bars/1-ga-neurons", "bars/6-ts-connections"):
        assert study in shown
    assert "5/5" in shown


def on_terminal(command: list[str], folder: Path) -> str:
    """Return what a command writes to a terminal of 120 columns."""
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    pieces = []
    with contextlib.suppress(OSError):  # what Linux says when the other end closes
        while piece := os.read(ours, 65536):
            pieces.append(piece)
    os.close(ours)
    assert process.wait(60) == 0
    return b"".join(pieces).decode()


# -- export --------------------------------------------------------------------------------------


class Interrupted:
    """Has a Ctrl-C arrive in its destructor, where Python drops it."""

    def __del__(self) -> None:
        raise KeyboardInterrupt


def test_a_ctrl_c_that_python_drops_is_not_lost(
    tmp_path: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text((finished / "text.txt").read_text())
    (tmp_path / "run.yaml").write_text(CONFIG)
    evaluate = PhasedSearch._evaluate
    calls: list[None] = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            Interrupted()
        return evaluate(*arguments)

    monkeypatch.setattr(PhasedSearch, "_evaluate", interrupted)
    assert main(["run", "run.yaml"]) == 130
    assert len(calls) == 3
    assert "To resume: optuna-wnn run run.yaml" in capsys.readouterr().err
    assert main(["run", "run.yaml"]) == 0


def test_a_report_draws_what_matters(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "tiny", "--html", "told.html", "--importance"]) == 0
    assert "Inputs that matter" in Path("told.html").read_text(encoding="utf-8")
    assert main(["report", "tiny", "--html", "told.html"]) == 0
    assert "Inputs that matter" not in Path("told.html").read_text(encoding="utf-8")
    assert main(["report", "tiny", "--importance"]) == 2
    assert "--importance: it is drawn" in capsys.readouterr().err


def test_export_writes_a_genome_that_loads(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "tiny", "best.json.gz"]) == 0
    genome = Genome.load("best.json.gz")
    assert genome.n_clusters == 8
    assert genome.digest[:12] in capsys.readouterr().out


def test_export_writes_the_winner_trained_on_what_it_may_know(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "tiny", "model.npz"]) == 0
    assert main(["export", "tiny", "winner.json.gz"]) == 0
    network = RAMNetwork.load("model.npz")
    task = load_task("text", path="text.txt", context=1)
    assert network.genome == Genome.load("winner.json.gz")
    assert network.n_trained == len(task.train) + len(task.validation)
    assert network.genome.digest[:12] in capsys.readouterr().out


def test_predict_writes_a_table(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "tiny", "model.npz"]) == 0
    capsys.readouterr()
    assert main(["predict", "model.npz", "run.yaml"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading == "example,prediction,probability,target"
    test = load_task("text", path="text.txt", context=1).test
    network = RAMNetwork.load("model.npz")
    cells = [row.split(",") for row in rows]
    assert [int(row[1]) for row in cells] == network.predict(test.inputs).tolist()
    highest = network.predict_proba(test.inputs).max(axis=1)
    assert [float(row[2]) for row in cells] == pytest.approx(highest.tolist(), rel=1e-5)
    assert [int(row[3]) for row in cells] == test.targets.tolist()
    np.save("inputs.npy", np.zeros((2, 8), bool))
    assert main(["predict", "model.npz", "inputs.npy", "--output", "out.csv"]) == 0
    assert capsys.readouterr().out == "out.csv: 2 predictions\n"
    assert (inside / "out.csv").read_text().splitlines()[0] == "example,prediction,probability"


def test_generate_writes_on_from_a_text(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "tiny", "model.npz"]) == 0
    capsys.readouterr()
    words = ["generate", "model.npz", "run.yaml", "--prompt", "the c", "-n", "12", "--seed"]
    told = []
    for seed in ("1", "1", "2"):
        assert main([*words, seed]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] != told[2]
    assert told[0].startswith("the c")
    assert main(["generate", "model.npz", *words[3:], "1"]) == 0  # bytes without a configuration
    assert capsys.readouterr().out == told[0]
    Path("words.yaml").write_text(CONFIG.replace("context", "tokenizer: words, context"))
    for wrong, hint in (
        (["model.npz", "run.yaml", "--prompt", ""], "the prompt has 0 targets"),
        (["model.npz", "words.yaml", "--prompt", "the c"], "are not the 256"),
        (["model.npz", "run.yaml", "--prompt", "the c", "--seed", "-1"], "--seed -1"),
    ):
        assert main(["generate", *wrong]) == 2
        assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("inputs", "hint"),
    [
        ("wide.npy", "inputs of shape (2, 9) do not fit"),
        ("text.npy", "no array of numbers"),
        ("gone.npy", "No such file"),
        ("number.npy", "a row of inputs for each example is needed"),
        ("objects.npy", "no array of numbers"),
        ("empty.npy", "no array of numbers"),
        ("giant.npy", "no array of numbers"),
        ("words.npy", "inputs of shape (1,) do not fit"),
        ("reals.npy", "inputs must be bool, 0 and 1, or packed"),
        ("out.txt", "give the configuration of a run"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(
    inside: Path, capsys: pytest.CaptureFixture[str], inputs: str, hint: str
) -> None:
    assert main(["export", "tiny", "model.npz"]) == 0
    np.save("wide.npy", np.zeros((2, 9), bool))
    Path("text.npy").write_text("the cat")
    np.save("number.npy", np.array(3))
    np.save("objects.npy", np.array([{1: 2}]))
    Path("empty.npy").write_bytes(b"")
    claim = b"{'descr': '|b1', 'fortran_order': False, 'shape': (1000000000000, 8), }"
    Path("giant.npy").write_bytes(b"\x93NUMPY\x01\0v\0" + claim.ljust(117) + b"\n")
    np.save("words.npy", np.array(["a"]))
    np.save("reals.npy", np.full((2, 8), np.nan))
    capsys.readouterr()
    assert main(["predict", "model.npz", inputs]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert hint in line


def test_a_model_is_not_trained_on_other_data(
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["export", "tiny", "model.npz", "--storage", f"sqlite:///{finished}/optuna-wnn.db"]
    assert main(words) == 2
    assert "the folder in which the run was started" in capsys.readouterr().err
    (tmp_path / "text.txt").write_text("something else altogether; " * 40)
    assert main(words) == 2
    assert "its data is not what it was" in capsys.readouterr().err
    assert not (tmp_path / "model.npz").exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["export", "tiny", "best.txt"], "name it *.json.gz"),
        (["export", "teeny", "best.npz"], "it has"),
        (["export", "tiny", "gone/best.npz"], "gone/best.npz"),
        (["predict", "gone.npz", "run.yaml"], "there is no such file"),
        (["predict", "text.txt", "run.yaml"], "text.txt"),
        (["export", "tiny", "gone/best.json.gz"], "gone/best.json.gz"),
        (["export", "teeny", "best.json.gz"], "it has"),
        (["report", "teeny"], "it has"),
        (["report", "tiny", "--storage", "sqlite:///gone.db"], "there is no file gone.db"),
        (["report", "tiny", "--storage", "journal:///gone.log"], "there is no file gone.log"),
        (["export", "tiny", "a.json.gz", "--storage", "sqlite:///text.txt"], "not a database"),
        (["report", "tiny", "--storage", "floppy"], "check the URL"),
        (["report", "tiny", "--storage", "sqlite:///"], "it names no file"),
        (["report", "tiny", "--storage", "journal:///run.yaml"], "cannot be opened"),
        (["report", ""], "it has"),
        (["report", "../tiny"], "it has"),
        (["report", "tiny", "--html", "."], ".: cannot be written"),
        (["report", "tiny", "--html", "gone/a.html"], "gone/a.html: cannot be written"),
        (["report", "tiny", "--png", "text.txt"], "no folder can be made there"),
        (["run", "text.txt"], "a mapping of keys is needed"),
        (["run", "run.yaml", "--name", ""], "--name"),
        (["run", "run.yaml", "--name", "a/b"], "--name"),
        (["run", "run.yaml", "--name", "x", "--storage", "sqlite://"], "it names no file"),
        (["sweep", "run.yaml"], "base: this key is needed"),
        (["sweep", "gone.yaml"], "No such file"),
        (["init", "text.txt"], "it is there already"),
        (["init", "."], "it is there already"),
        (["init", 300 * "x"], "File name too long"),
        (["init", "a\0b"], "cannot be written"),
        (["predict", ".", "run.yaml"], ".: it is no file"),
        (["predict", "/dev/zero", "run.yaml"], "it is no file"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    inside: Path, capsys: pytest.CaptureFixture[str], words: list[str], hint: str
) -> None:
    before = files(inside)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert hint in line
    assert files(inside) == before


def files(folder: Path) -> set[Path]:
    """Return what is in a folder, but for what SQLite keeps there while a database is open."""
    return {path for path in folder.iterdir() if not path.name.endswith(("-shm", "-wal"))}


# -- secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://user:geheim@localhost:1/db",
        "mysql+nothing://user:ge/heim@localhost:1/db",
        "redis://:geheim@localhost:1/0",
        "postgresql://localhost:1/db?user=me&password=geheim",
        "floppy://user:ge@heim@localhost",
    ],
)
@pytest.mark.parametrize("words", [["report", "tiny"], ["run", "run.yaml"]])
def test_a_password_is_never_printed(
    inside: Path, capsys: pytest.CaptureFixture[str], url: str, words: list[str]
) -> None:
    assert main([*words, "--storage", url]) == 2
    told = capsys.readouterr()
    assert "heim" not in told.out + told.err
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize(
    "override",
    ["storage=[postgresql://user:geheim@h/db]", "storage=postgresql://u:geheim@h/db: {", "sto"],
)
def test_a_password_in_a_wrong_override_is_not_printed(
    inside: Path, capsys: pytest.CaptureFixture[str], override: str
) -> None:
    assert main(["run", "run.yaml", "--set", override]) == 2
    assert "geheim" not in capsys.readouterr().err


def test_what_to_type_to_resume_has_no_password(
    inside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("optuna_wnn.cli._run", interrupted)
    words = ["run", "a file.yaml", "--storage", "postgresql://me:geheim@host/db"]
    assert main(words) == 130
    told = capsys.readouterr().err
    assert "geheim" not in told
    assert "optuna-wnn run 'a file.yaml' --storage" in told


# -- the dashboard -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dashboard(finished: Path) -> Iterator[str]:
    """The address of a dashboard that shows the finished run."""
    if find_spec("optuna_dashboard") is None:
        pytest.skip("optuna-dashboard is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = (
        "import sys; from optuna_dashboard._cli import main;"
        f"sys.argv[1:] = ['sqlite:///optuna-wnn.db', '--port', '{port}', '--host', '127.0.0.1'];"
        "main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=finished,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                asked(f"{address}/api/meta")
                break
            assert process.poll() is None, "the dashboard ended"
            time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()


def asked(address: str) -> tuple[Any, int]:
    """Return a JSON answer and how many bytes it has."""
    with urllib.request.urlopen(address, timeout=20) as answer:
        text = answer.read()
    return json.loads(text), len(text)


def test_the_dashboard_shows_six_studies(dashboard: str) -> None:
    found, _ = asked(f"{dashboard}/api/studies")
    names = sorted(s["study_name"] for s in found["study_summaries"])
    assert [name for name in names if name.startswith("tiny/")] == [
        "tiny/1-ga-neurons",
        "tiny/2-ts-neurons",
        "tiny/3-ga-bits",
        "tiny/4-ts-bits",
        "tiny/5-ga-connections",
        "tiny/6-ts-connections",
    ]
    assert all(s["directions"] == ["minimize", "maximize"] for s in found["study_summaries"])


def test_the_dashboard_shows_trials_but_gets_no_genomes(dashboard: str) -> None:
    found, _ = asked(f"{dashboard}/api/studies")
    for summary in found["study_summaries"]:
        if not summary["study_name"].startswith("tiny/"):
            continue
        study, size = asked(f"{dashboard}/api/studies/{summary['study_id']}")
        assert study["objective_names"] == ["cross-entropy", "accuracy"]
        n_trials = len(study["trials"])
        assert n_trials >= 5
        for trial in study["trials"]:
            assert trial["state"] == "Complete"
            assert len(trial["values"]) == 2
        figures = {g["id"]: len(g["graph_object"]) for g in study["plotly_graph_objects"]}
        assert len(figures) == 5
        assert max(figures.values()) < 20_000
        assert size - sum(figures.values()) < 20_000 + 3000 * n_trials
        assert "wnn:" not in json.dumps(study)
