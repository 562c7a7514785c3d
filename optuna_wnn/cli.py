"""The command ``optuna-wnn``: run, report, export."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import rich.console
from rich.console import Console
from rich.progress import BarColumn
from rich.progress import MofNCompleteColumn
from rich.progress import Progress as Bars
from rich.progress import TextColumn

import optuna_wnn
from optuna_wnn import report
from optuna_wnn.config import RunConfig
from optuna_wnn.config import load_config
from optuna_wnn.errors import InputError
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.phases import Progress
from optuna_wnn.phases import quieten_optuna
from optuna_wnn.storages import masked
from optuna_wnn.storages import open_storage


_STORAGE = RunConfig.model_fields["storage"].default
_INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: Its words; those of the process by default.

    Returns:
        0 if all went well, 2 if the user can mend what went wrong, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = _parser().parse_args(given)
    quieten_optuna()
    try:
        chosen.command(chosen)
    except InputError as error:
        print(f"optuna-wnn: {_one_line(masked(str(error)))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = shlex.join(["optuna-wnn", *map(masked, given)])
        print(f"\nInterrupted; nothing is lost. To resume: {again}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _one_line(text: str) -> str:
    """Return a text with line breaks and other control characters written out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optuna-wnn", description="Search weightless neural networks with Optuna."
    )
    parser.add_argument("--version", action="version", version=optuna_wnn.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the phases of a configuration, or resume them")
    run.add_argument("config", metavar="CONFIG.yaml")
    run.add_argument("--storage", metavar="URL", help="where the studies live")
    run.add_argument("--name", help="what names the run's studies")
    run.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the configuration, such as search.trials=50",
    )
    run.set_defaults(command=_run)

    shown = commands.add_parser("report", help="show what a run came to")
    shown.add_argument("name", metavar="NAME")
    shown.add_argument("--storage", metavar="URL", default=_STORAGE, help="default: %(default)s")
    shown.add_argument("--generations", action="store_true", help="show every generation, too")
    shown.set_defaults(command=_report)

    export = commands.add_parser("export", help="write the best genome of a run to a file")
    export.add_argument("name", metavar="NAME")
    export.add_argument("path", metavar="FILE.json.gz")
    export.add_argument("--storage", metavar="URL", default=_STORAGE, help="default: %(default)s")
    export.set_defaults(command=_export)
    return parser


def _run(chosen: argparse.Namespace) -> None:
    overrides = list(chosen.overrides)
    if chosen.name is not None:
        overrides.append(f"name={_quoted(chosen.name)}")
    if chosen.storage is not None:
        overrides.append(f"storage={_quoted(chosen.storage)}")
    config = load_config(chosen.config, overrides)
    console = _console()
    try:
        search = PhasedSearch(config)
    except InputError as error:
        raise InputError(f"{chosen.config}: {error}") from error
    with _SwallowedInterrupts() as swallowed, _Display(console) as display:

        def watch(progress: Progress) -> None:
            display.show(progress)
            swallowed.check()

        search.watch(watch)
        summary = search.run()
    console.print(report.table(summary))


def _report(chosen: argparse.Namespace) -> None:
    storage = open_storage(chosen.storage, must_exist=True)
    summary = report.summarise(storage, chosen.name)
    if chosen.generations:
        _console().print(report.generations_table(storage, chosen.name))
    _console().print(report.table(summary))


def _export(chosen: argparse.Namespace) -> None:
    if not chosen.path.endswith(".json.gz"):
        raise InputError(f"{chosen.path}: a genome is written as gzipped JSON; name it *.json.gz")
    genome = report.best_genome(open_storage(chosen.storage, must_exist=True), chosen.name)
    genome.save(chosen.path)
    print(f"{chosen.path}: {genome}")


def _quoted(text: str) -> str:
    """Return a text as a YAML string, whatever it looks like."""
    return "'" + text.replace("'", "''") + "'"


def _console() -> Console:
    """Return where results are printed: not narrower than the table where they are piped."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)


class _SwallowedInterrupts:
    """Sees to it that no Ctrl-C is lost.

    One that arrives while Python runs a destructor or the callback of a weak reference is
    reported and dropped, not raised; databases use both a lot. It is raised again at the next
    :meth:`check`.
    """

    def __init__(self) -> None:
        self._seen = False
        self._before = sys.unraisablehook

    def __enter__(self) -> _SwallowedInterrupts:
        sys.unraisablehook = self._note
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._before

    def _note(self, dropped: sys.UnraisableHookArgs) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            self._seen = True
        else:
            self._before(dropped)

    def check(self) -> None:
        """Raise the interrupt that was dropped, if one was."""
        if self._seen:
            raise KeyboardInterrupt


class _Display:
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

    def __enter__(self) -> _Display:
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


if __name__ == "__main__":
    sys.exit(main())
