"""What the command shows while it works, and how it hears Ctrl-C and SIGTERM."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import rich.console
import rich.progress
from rich.console import Console
from rich.progress import BarColumn
from rich.progress import MofNCompleteColumn
from rich.progress import Progress as Bars
from rich.progress import TextColumn

from optuna_wnn.errors import Terminated
from optuna_wnn.phases import Progress


def open_console() -> Console:
    """Return where results are printed: not narrower than the table where they are piped."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)


def quieten_drivers() -> None:
    """Have drivers not tell of errors that they ignore: an outage is told by who waits for it."""
    logging.getLogger("psycopg").setLevel(logging.ERROR)


@contextlib.contextmanager
def hearing_termination() -> Iterator[None]:
    """Have SIGTERM raise :class:`Terminated` as Ctrl-C raises ``KeyboardInterrupt``."""

    def end(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class SwallowedInterrupts:
    """Sees to it that no Ctrl-C is lost.

    One that arrives while Python runs a destructor or the callback of a weak reference is
    reported and dropped, not raised; databases use both a lot. It is raised again at the next
    :meth:`check`.
    """

    def __init__(self) -> None:
        self._seen: type[BaseException] | None = None
        self._before = sys.unraisablehook

    def __enter__(self) -> SwallowedInterrupts:
        sys.unraisablehook = self._note
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._before

    def _note(self, dropped: sys.UnraisableHookArgs) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            self._seen = dropped.exc_type
        else:
            self._before(dropped)

    def check(self) -> None:
        """Raise the interrupt that was dropped, if one was."""
        if self._seen is not None:
            raise self._seen


class Display:
    """Shows progress: a bar for each phase on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._task: rich.progress.TaskID | None = None
        self._study = ""
        if console.is_terminal:
            self._bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("generation {task.fields[generation]}"),
                TextColumn("{task.fields[best]}"),
                TextColumn("{task.fields[speed]:.1f} trials/s"),
                console=console,
            )

    def __enter__(self) -> Display:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Show where the run stands."""
        best = ""
        if progress.best is not None:
            best = f"CE {progress.best[0]:.4f}  accuracy {progress.best[1]:.4f}"
        if self._bars is None:
            if progress.event != "trial":
                self._line(progress, best)
            return
        fields: dict[str, Any] = {
            "generation": progress.generation,
            "best": best,
            "speed": progress.speed,
        }
        if progress.study != self._study:
            self._study = progress.study
            self._task = self._bars.add_task(progress.study, total=progress.most_trials, **fields)
        assert self._task is not None
        self._bars.update(self._task, completed=progress.n_trials, **fields)

    def _line(self, progress: Progress, best: str) -> None:
        count = f"{progress.n_trials}/{progress.most_trials} trials"
        generation = f"generation {progress.generation}"
        speed = f"{progress.speed:.1f} trials/s"
        words = [f"[{progress.phase + 1}/{progress.n_phases}] {progress.study}"]
        if progress.event == "generation":
            words += [generation, count, best, speed]
        elif progress.event == "end":
            words += [f"ended: {progress.reason}", best]
        elif progress.n_trials:
            words += ["resumes", generation, count, best]
        else:
            words += ["starts", best]
        print("  ".join(word for word in words if word), flush=True)
