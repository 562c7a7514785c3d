"""The command ``optuna-wnn``: init, run, sweep, report, export, predict, generate."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna_wnn
from optuna_wnn import dashboard
from optuna_wnn import pages
from optuna_wnn import report
from optuna_wnn.config import RunConfig
from optuna_wnn.config import parse_config
from optuna_wnn.console import Display
from optuna_wnn.console import SwallowedInterrupts
from optuna_wnn.console import hearing_termination
from optuna_wnn.console import open_console
from optuna_wnn.console import quieten_drivers
from optuna_wnn.errors import InputError
from optuna_wnn.errors import Terminated
from optuna_wnn.genome import write_atomically
from optuna_wnn.jobs import run_jobs
from optuna_wnn.leaderboard import Entry
from optuna_wnn.leaderboard import best_run
from optuna_wnn.leaderboard import has_sweep
from optuna_wnn.leaderboard import leaderboard
from optuna_wnn.leaderboard import leaderboard_table
from optuna_wnn.models import generated_text
from optuna_wnn.models import importance_of
from optuna_wnn.models import prediction_table
from optuna_wnn.models import read_inputs
from optuna_wnn.models import trained_winner
from optuna_wnn.network import RAMNetwork
from optuna_wnn.outages import explained
from optuna_wnn.outages import storage_failure
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.phases import Progress
from optuna_wnn.phases import quieten_optuna
from optuna_wnn.plan import plan
from optuna_wnn.plan import plan_table
from optuna_wnn.schema import json_schema
from optuna_wnn.schema import sweep_schema
from optuna_wnn.schema import template
from optuna_wnn.sources import PREFIX
from optuna_wnn.sources import blamed
from optuna_wnn.sources import load_config
from optuna_wnn.storages import masked
from optuna_wnn.storages import open_storage
from optuna_wnn.sweep import Sweep
from optuna_wnn.sweep_config import Definition
from optuna_wnn.sweep_config import shown
from optuna_wnn.sweep_config import with_threads
from optuna_wnn.sweep_file import load_sweep
from optuna_wnn.traces import read_trace


_STORAGE = RunConfig.model_fields["storage"].default
_STORAGE_VARIABLE = f"{PREFIX}STORAGE"
_STORAGE_HELP = f"default: ${_STORAGE_VARIABLE}, else {_STORAGE}"
_INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended
_TERMINATED = 143  # and of one that SIGTERM ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: Its words; those of the process by default.

    Returns:
        0 if all went well, 2 if the user can mend what went wrong, 130 after Ctrl-C, 143 after
        SIGTERM.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = _parser().parse_args(given)
    _quieten()
    try:
        with hearing_termination():
            chosen.command(chosen)
    except InputError as error:
        return _refused(error)
    except KeyboardInterrupt as request:
        return _interrupted(request, given)
    except MemoryError:
        return _refused(InputError("memory ran out; free some, or choose a smaller task or space"))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # amid a class that Python makes
            return _interrupted(error.__cause__, given)
        failure = storage_failure(error)
        if failure is None:
            raise
        return _refused(explained(failure))
    return 0


def _interrupted(request: KeyboardInterrupt, given: Sequence[str]) -> int:
    is_terminated = isinstance(request, Terminated)
    again = shlex.join(["optuna-wnn", *map(masked, given)])
    word = "Terminated" if is_terminated else "Interrupted"
    print(f"\n{word}; nothing is lost. To resume: {again}", file=sys.stderr)
    return _TERMINATED if is_terminated else _INTERRUPTED


def _quieten() -> None:
    quieten_optuna()
    quieten_drivers()


def _refused(error: InputError) -> int:
    print(f"optuna-wnn: {_one_line(masked(str(error)))}", file=sys.stderr)
    return 2


def _one_line(text: str) -> str:
    """Return a text with line breaks and other control characters written out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optuna-wnn", description="Search weightless neural networks with Optuna."
    )
    parser.add_argument("--version", action="version", version=optuna_wnn.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    storage = os.environ.get(_STORAGE_VARIABLE, _STORAGE)

    run = commands.add_parser("run", help="run the phases of a configuration, or resume them")
    run.add_argument("config", metavar="CONFIG.yaml")
    _add_overrides(run)
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="show phases, memory and an estimate of the time; store nothing",
    )
    run.set_defaults(command=_run)

    init = commands.add_parser("init", help="write a configuration with every key explained")
    init.add_argument("path", metavar="FILE.yaml", nargs="?", default="run.yaml")
    init.add_argument(
        "--schema", action="store_true", help="write a JSON schema for editors beside it"
    )
    init.set_defaults(command=_init)

    schema = commands.add_parser("schema", help="print the JSON schema of configurations")
    schema.add_argument("--sweep", action="store_true", help="of sweeps instead")
    schema.set_defaults(command=_schema)

    sweep = commands.add_parser("sweep", help="run, or resume, many configurations")
    sweep.add_argument("config", metavar="SWEEP.yaml")
    sweep.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="processes that share the work (default 1)",
    )
    _add_overrides(sweep)
    sweep.set_defaults(command=_sweep)

    told = commands.add_parser("report", help="show what a run or a sweep came to")
    told.add_argument("name", metavar="NAME")
    told.add_argument("--storage", metavar="URL", default=storage, help=_STORAGE_HELP)
    told.add_argument("--generations", action="store_true", help="show every generation, too")
    told.add_argument(
        "--settings", action="store_true", help="show every setting and where it came from, too"
    )
    files = told.add_mutually_exclusive_group()
    files.add_argument("--html", metavar="FILE", type=Path, help="write figures as a page, too")
    files.add_argument("--png", metavar="DIR", type=Path, help="write figures as pictures, too")
    told.add_argument(
        "--importance",
        action="store_true",
        help="load the run's data and draw which inputs matter to each cluster, too",
    )
    told.set_defaults(command=_report)

    export = commands.add_parser(
        "export", help="write the best genome of a run, or its trained network, to a file"
    )
    export.add_argument("name", metavar="NAME")
    export.add_argument(
        "path",
        metavar="FILE",
        help="*.json.gz: the genome; *.npz: the network, trained on the training and validation "
        "parts",
    )
    export.add_argument("--storage", metavar="URL", default=storage, help=_STORAGE_HELP)
    export.set_defaults(command=_export)

    predict = commands.add_parser("predict", help="write what a trained network predicts, as CSV")
    predict.add_argument("model", metavar="MODEL.npz")
    predict.add_argument(
        "inputs",
        metavar="INPUTS",
        type=Path,
        help="*.yaml: the data of a run's configuration; *.npy: an array of inputs, 0 and 1, or "
        "packed",
    )
    predict.add_argument(
        "--part",
        choices=("train", "validation", "test"),
        default="test",
        help="of the configuration's data (default: test)",
    )
    predict.add_argument("--output", metavar="FILE.csv", type=Path, help="instead of the screen")
    predict.set_defaults(command=_predict)

    generate = commands.add_parser("generate", help="write on from a text with a trained network")
    generate.add_argument("model", metavar="MODEL.npz")
    generate.add_argument(
        "config",
        metavar="CONFIG.yaml",
        type=Path,
        nargs="?",
        help="of the network's run, which says what a token is (default: a byte)",
    )
    generate.add_argument("--prompt", required=True, metavar="TEXT", help="what to begin with")
    generate.add_argument("-n", type=int, default=200, help="how many tokens (default: 200)")
    generate.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="below 1 for the probable, above 1 for the surprising (default: 1)",
    )
    generate.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    generate.set_defaults(command=_generate)
    return parser


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", metavar="URL", help="where the studies live")
    parser.add_argument("--name", help="what names its studies")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the configuration, such as search.trials=50",
    )


def _options(chosen: argparse.Namespace) -> dict[str, str]:
    """Return the options of the command line that are keys of the configuration."""
    given = {"name": chosen.name, "storage": chosen.storage}
    return {key: value for key, value in given.items() if value is not None}


def _run(chosen: argparse.Namespace) -> None:
    config = load_config(chosen.config, chosen.overrides, os.environ, _options(chosen))
    console = open_console()
    try:
        search = PhasedSearch(config, open_storage("memory:") if chosen.dry_run else None)
    except InputError as error:
        raise InputError(blamed(config.sources, chosen.config, error)) from error
    if chosen.dry_run:
        console.print(plan_table(plan(search), config.name))
        return
    with SwallowedInterrupts() as swallowed, Display(console) as display:

        def watch(progress: Progress) -> None:
            display.show(progress)
            if progress.event == "end" and progress.phase + 1 < progress.n_phases:
                _show_in_dashboard(search, progress.phase)
            swallowed.check()

        search.watch(watch)
        summary = search.run()
        _show_in_dashboard(search)
    console.print(report.table(summary))
    if not dashboard.is_available():
        print("For notes and figures in optuna-dashboard: pip install 'optuna-wnn[dashboard]'")


def _show_in_dashboard(search: PhasedSearch, only: int | None = None) -> None:
    """Bring what optuna-dashboard shows of a run up to date, if that is installed."""
    if dashboard.is_available():
        dashboard.refresh(search.storage, search.config.name, only)


def _init(chosen: argparse.Namespace) -> None:
    path = Path(chosen.path)
    targets = [path]
    if chosen.schema and path.name:
        targets.append(path.with_suffix(".schema.json"))
    for target in targets:
        if os.path.lexists(target):
            raise InputError(f"{target}: it is there already; choose another name or remove it")
    beside = [target.name for target in targets[1:]]
    texts = [template(_run_name(path), *beside), _json(json_schema())]
    for target, text in zip(targets, texts, strict=False):
        write_atomically(target, text.encode())
        print(f"{target}: written")


def _run_name(path: Path) -> str:
    """Return the name of a configuration's file, if a run may be called so."""
    try:
        return parse_config({"name": path.stem, "task": {"kind": "python-docs"}}).name
    except InputError:
        return "my-run"


def _schema(chosen: argparse.Namespace) -> None:
    print(_json(sweep_schema() if chosen.sweep else json_schema()), end="")


def _json(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, indent=2) + "\n"


def _sweep(chosen: argparse.Namespace) -> None:
    definition = load_sweep(chosen.config, chosen.overrides, os.environ, _options(chosen))
    if chosen.jobs < 1 or (chosen.jobs > 1 and definition.storage == "memory:"):
        raise InputError(f"--jobs {chosen.jobs}: give 1 or more; a sweep in memory: has one")
    try:
        sweep = Sweep(definition)
    except InputError as error:
        raise InputError(f"{chosen.config}: {error}") from error
    if chosen.jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // chosen.jobs)
        run_jobs(chosen.jobs, _work, with_threads(definition, threads))
    else:
        _watched(sweep)
    if dashboard.is_available():
        dashboard.refresh_sweep(sweep.storage, sweep.name)
    open_console().print(leaderboard_table(leaderboard(sweep.storage, sweep.name)))


def _work(definition: Definition) -> None:
    """Do the work of one job of a sweep."""
    _quieten()
    _watched(Sweep(definition))


def _watched(sweep: Sweep) -> None:
    with SwallowedInterrupts() as swallowed:
        sweep.run(_tell, lambda progress: swallowed.check())


def _tell(found: Entry, n_done: int, n_runs: int) -> None:
    words = [f"[{n_done}/{n_runs}] {found.run}", shown(found.overrides)]
    if found.validation is None:
        words.append(f"failed: {found.reason}")
    else:
        words.append(f"CE {found.validation[0]:.4f}  accuracy {found.validation[1]:.4f}")
        words.append(f"{found.n_trials} trials in {found.seconds:.1f} s")
    print("  ".join(words), flush=True)


def _report(chosen: argparse.Namespace) -> None:
    if chosen.importance and chosen.html is None and chosen.png is None:
        raise InputError("--importance: it is drawn; say where: --html FILE or --png DIR")
    storage = open_storage(chosen.storage, must_exist=True)
    if has_sweep(storage, chosen.name):
        board = leaderboard(storage, chosen.name)
        open_console().print(leaderboard_table(board))
        if not report.study_names(storage, chosen.name):
            if chosen.html is not None:
                pages.write_sweep_page(board, chosen.html)
                print(chosen.html)
            if chosen.png is not None:
                print(*pages.write_sweep_pictures(board, chosen.png), sep="\n")
            return
    summary = report.summarise(storage, chosen.name)
    if chosen.settings:
        open_console().print(report.settings_table(storage, chosen.name))
    if chosen.generations:
        open_console().print(report.generations_table(storage, chosen.name))
    open_console().print(report.table(summary))
    if chosen.html is None and chosen.png is None:
        return
    trace = read_trace(storage, chosen.name)
    matters = importance_of(storage, chosen.name) if chosen.importance else None
    if chosen.html is not None:
        pages.write_page(trace, chosen.html, matters)
        print(chosen.html)
    if chosen.png is not None:
        print(*pages.write_pictures(trace, chosen.png, matters), sep="\n")


def _export(chosen: argparse.Namespace) -> None:
    is_genome = chosen.path.endswith(".json.gz")
    if not is_genome and not chosen.path.endswith(".npz"):
        raise InputError(
            f"{chosen.path}: name it *.json.gz for the genome, or *.npz for the trained network"
        )
    storage = open_storage(chosen.storage, must_exist=True)
    is_run = report.study_names(storage, chosen.name) or not has_sweep(storage, chosen.name)
    run = chosen.name if is_run else best_run(storage, chosen.name)
    found = report.best_genome(storage, run) if is_genome else trained_winner(storage, run)
    found.save(chosen.path)
    print(f"{chosen.path}: {found}")


def _predict(chosen: argparse.Namespace) -> None:
    network = RAMNetwork.load(chosen.model)
    table = prediction_table(network, *read_inputs(chosen.inputs, chosen.part))
    if chosen.output is None:
        for line in table:
            print(line)
        return
    lines = list(table)
    write_atomically(chosen.output, "".join(f"{line}\n" for line in lines).encode())
    print(f"{chosen.output}: {len(lines) - 1} predictions")


def _generate(chosen: argparse.Namespace) -> None:
    if chosen.seed < 0:
        raise InputError(f"--seed {chosen.seed}: give 0 or more")
    network = RAMNetwork.load(chosen.model)
    added = generated_text(
        network, chosen.config, chosen.prompt, chosen.n, chosen.temperature, chosen.seed
    )
    print(f"{chosen.prompt}{added}")


if __name__ == "__main__":
    from optuna_wnn_command import main as command

    sys.exit(command())
