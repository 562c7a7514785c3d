"""Write ``0.1.0.db``: what a released version stores, a finished run and one that was killed.

Run by hand with the version that is about to be released: remove its file first if what is stored
has changed since. Once the version is released, its file stays as it is: ``python make.py``.
"""

from __future__ import annotations

import socket
import sqlite3
from importlib.metadata import version
from pathlib import Path

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators.reference import ReferenceEvaluator
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.sources import load_config
from optuna_wnn.storages import open_storage


HERE = Path(__file__).parent


class Killed(BaseException):
    """What ends a run as a kill would."""


def main() -> None:
    """Write the database beside this file."""
    path = HERE / f"{version('optuna-wnn')}.db"
    if path.exists():
        raise InputError(f"{path}: it is there already; what was released does not change")
    socket.gethostname = lambda: "elsewhere"
    storage = open_storage(f"sqlite:///{path}")
    options = {"task.path": HERE / "text.txt"}
    overrides = [f"{key}={value}" for key, value in options.items()]
    config = load_config(HERE / "run.yaml", overrides)
    PhasedSearch(config, storage).run()

    evaluate, left = ReferenceEvaluator.evaluate, [7]

    def mortal(*arguments: object, **named: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return evaluate(*arguments, **named)  # type: ignore[arg-type]

    ReferenceEvaluator.evaluate = mortal  # type: ignore[method-assign,assignment]
    try:
        PhasedSearch(load_config(HERE / "run.yaml", [*overrides, "name=killed"]), storage).run()
    except Killed:
        storage._backend.engine.dispose()  # type: ignore[attr-defined]
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
        connection.execute("VACUUM")


if __name__ == "__main__":
    main()
