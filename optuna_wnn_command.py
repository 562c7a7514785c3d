"""Where the command ``optuna-wnn`` starts: a Ctrl-C while its packages load ends it quietly.

It stands beside the package because loading anything in that takes a second itself.
"""

from __future__ import annotations

import contextlib
import os
import sys


_INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from optuna_wnn.cli import main as run

        code = run()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except RuntimeError as error:  # as which Python 3.11 raises one that falls into making a class
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        # Where Ctrl-C fell into code that is made of a string, as that of a dataclass is, Python
        # would end by the signal after all, whoever caught the exception.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    return code
