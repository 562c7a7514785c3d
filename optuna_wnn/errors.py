"""The one exception for input that a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Something that the user gave is wrong: a setting, a file, a genome, a storage.

    The message is one line that names the place, what is wrong with it, and the remedy. The
    command line prints it without a traceback and ends with exit code 2.
    """
