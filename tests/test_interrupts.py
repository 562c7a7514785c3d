"""Ctrl-C while the command, or a job of a sweep, still loads: it ends without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
LOADING = """
import sys
import optuna_wnn_command

class Attribute:
    def __set_name__(self, owner, name):
        raise KeyboardInterrupt

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            {interruption}

sys.meta_path.insert(0, Interrupted())
sys.exit(optuna_wnn_command.main())
"""


# The second is where Python 3.11 makes another exception of it.
@pytest.mark.parametrize(
    "what", ["raise KeyboardInterrupt", "type('Made', (), {'a': Attribute()})"]
)
def test_a_ctrl_c_while_the_command_loads_ends_it_quietly(what: str) -> None:
    for module in ("optuna_wnn.space", "optuna_wnn.plan"):  # of the package, of the command
        text = LOADING.format(module=module, interruption=what)
        program = [sys.executable, "-c", text, "run", "run.yaml"]
        ran = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
        assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


# The evaluator loads when the run begins; what makes a dataclass is a string that is run.
AMID_A_RUN = """
import sys

class Attribute:
    def __set_name__(self, owner, name):
        raise KeyboardInterrupt

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "optuna_wnn.evaluators.cpu":
            {interruption}

sys.meta_path.insert(0, Interrupted())
"""


@pytest.mark.parametrize(
    "what", ["exec('raise KeyboardInterrupt')", "type('Made', (), {'a': Attribute()})"]
)
def test_a_ctrl_c_amid_a_run_is_told_by_the_exit_code_wherever_it_falls(
    what: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(AMID_A_RUN.format(interruption=what))
    (tmp_path / "run.yaml").write_text("name: x\nbackend: cpu\ntask: {kind: python-docs}\n")
    ran = subprocess.run(
        [sys.executable, "-m", "optuna_wnn.cli", "run", "run.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ran.stderr.strip().startswith("Interrupted; nothing is lost.")
    assert ran.returncode == 130


SWEEP = """
name: many
base: {backend: reference, task: {kind: python-docs}}
method: grid
grid: {seed: [1, 2]}
"""
# The process that starts the jobs gets the Ctrl-C when all of them have been started.
JOBS = """
import os, signal, sys
from multiprocessing.context import SpawnProcess
from optuna_wnn import cli

start_one = SpawnProcess.start

def start(process):
    start_one(process)
    if process.name.endswith("-2"):
        os.killpg(0, signal.SIGINT)

SpawnProcess.start = start
sys.exit(cli.main(["sweep", "sweep.yaml", "--jobs", "2"]))
"""


def test_a_ctrl_c_while_jobs_load_ends_them_quietly(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    ran = subprocess.run(
        [sys.executable, "-c", JOBS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert ran.returncode == 130
    (line,) = ran.stderr.strip().splitlines()
    assert line.startswith("Interrupted; nothing is lost. To resume: optuna-wnn sweep")
