"""What a run may end with: something that a user can mend, or a request to end."""

from __future__ import annotations


class InputError(ValueError):
    """Something that the user gave is wrong: a setting, a file, a genome, a storage.

    The message is one line that names the place, what is wrong with it, and the remedy. The
    command line prints it without a traceback and ends with exit code 2.
    """


class StorageError(InputError):
    """A storage that fails in mid-run; what it has stored is not lost."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM): it stops as it does after Ctrl-C."""
