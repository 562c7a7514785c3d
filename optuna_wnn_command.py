"""Where the command ``optuna-wnn`` starts: a Ctrl-C while its packages load ends it quietly.

It stands beside the package because loading anything in that takes a second itself.
"""

from __future__ import annotations


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from optuna_wnn.cli import main as run

        return run()
    except KeyboardInterrupt:
        return 130
