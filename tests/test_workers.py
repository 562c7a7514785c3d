"""Which process works on a trial, and whether it still runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from optuna_wnn.workers import is_gone
from optuna_wnn.workers import this_worker


NAME = "from optuna_wnn.workers import this_worker; print(this_worker(), flush=True)"


def test_this_process_is_not_gone() -> None:
    assert this_worker() == this_worker()
    assert not is_gone(this_worker())


def test_another_process_is_gone_when_it_ended() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", f"{NAME}; input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        worker = process.stdout.readline().decode().strip()
        assert worker != this_worker()
        assert not is_gone(worker)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(worker)  # a zombie works no more
    assert is_gone(worker)


def test_a_process_that_got_the_number_of_another_is_not_that_one() -> None:
    host, number, started = this_worker().rsplit(":", 2)
    assert is_gone(f"{host}:{number}:{float(started) - 60}")


def test_a_clock_that_was_set_by_a_second_makes_no_worker_go() -> None:
    host, number, started = this_worker().rsplit(":", 2)
    assert not is_gone(f"{host}:{number}:{float(started) + 1}")


def test_of_other_hosts_nothing_is_known() -> None:
    assert not is_gone("no-such-host:1:1")
    assert not is_gone(f"{socket.gethostname()}x:1:1")
    assert is_gone(f"{socket.gethostname()}:999999999:1")


def test_a_name_that_is_none_is_of_no_known_worker() -> None:
    assert not is_gone("")
    assert not is_gone("somebody")
