"""A folder of arrays that take long to compute, named by what they are computed from."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError


Array = NDArray[Any]
_VERSION: Final = 1  # of what is computed: another one makes all that is there unknown
_DIGEST: Final = 16  # bytes


class Cache:
    """Keeps arrays in a folder, and does without where it cannot be read or written.

    A file is complete or not there: it is written under another name first, so any number of
    processes share a folder. A file that was damaged is computed again.

    Args:
        folder: Where the files lie; it is made when it is needed. ``None`` keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, kind: str, sources: tuple[object, ...], compute: Callable[[], Array]) -> Array:
        """Return an array from the folder, or compute it and keep it there.

        Args:
            kind: What it is, as part of a file name.
            sources: All that it depends on: arrays and bytes by their content, others by ``repr``.
            compute: Returns it; called only if it is not there.
        """
        if self._folder is None:
            return compute()
        path = self._folder / f"{kind}-{_name(sources)}"
        array = _read(path)
        if array is None:
            array = compute()
            with suppress(OSError):
                _write(path, array)
        return array


def open_cache(option: Any) -> Cache:
    """Return the cache that ``task.cache`` asks for: true, false, or the path of a folder.

    Raises:
        InputError: If it is none of these.
    """
    if option is True:
        try:
            base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        except RuntimeError:  # there is no home
            return Cache(None)
        return Cache(Path(base, "optuna-wnn"))
    if option is False:
        return Cache(None)
    if isinstance(option, (str, os.PathLike)) and "\0" not in str(option) and str(option):
        return Cache(Path(option))
    raise InputError(f"task.cache: {option!r} is not true, false or the path of a folder")


def _name(sources: tuple[object, ...]) -> str:
    """Return 32 hexadecimal digits that name what an array is computed from."""
    digest = hashlib.blake2b(str(_VERSION).encode(), digest_size=16)
    for source in sources:
        if isinstance(source, np.ndarray):
            content = source.dtype.str.encode() + np.ascontiguousarray(source).tobytes()
        elif isinstance(source, bytes):
            content = source
        else:
            content = repr(source).encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def _read(path: Path) -> Array | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if content[:_DIGEST] != hashlib.blake2b(content[_DIGEST:], digest_size=_DIGEST).digest():
        return None
    array: Array = np.load(io.BytesIO(content[_DIGEST:]), allow_pickle=False)
    return array


def _write(path: Path, array: Array) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.blake2b(content, digest_size=_DIGEST).digest() + content)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
