"""An open container of arrays: an uncompressed ``.npz`` with a JSON header and a digest.

Nothing in it can unpack to more than the file's own size, so what is read is bounded before it is
read. ``numpy.load`` opens the arrays; ``docs/reference/models.md`` describes the format.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.genome import write_atomically


HEADER: Final = "header.json"

_MOST_HEADER_BYTES: Final = 16 << 20
_MOST_NPY_HEADER_BYTES: Final = 1024
_DAMAGED: Final = (
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    RecursionError,
    SyntaxError,
    struct.error,
    zipfile.BadZipFile,
)
_REMEDY: Final = "export the model again"


def write_container(
    path: str | os.PathLike[str], header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write a header and arrays to ``path``, whole or not at all; the same every time.

    Args:
        path: Where to.
        header: What JSON can say; ``digest`` is added.
        arrays: By name.

    Raises:
        InputError: If the file cannot be written there.
    """
    members = {f"{name}.npy": _npy(array) for name, array in arrays.items()}
    text = json.dumps({**header, "digest": _digest(header, members)}, indent=1)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {HEADER: text.encode(), **members}.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980: always the same bytes
    write_atomically(Path(path), buffer.getvalue())


def read_container(
    path: str | os.PathLike[str],
    kind: str,
    version: int,
    dtypes: Mapping[str, tuple[str, ...]],
    optional: frozenset[str] = frozenset(),
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the header and the arrays that :func:`write_container` wrote to ``path``.

    Args:
        path: The file.
        kind: What the header must have as ``format``.
        version: What it must have as ``version``.
        dtypes: The arrays' names, and which types each may have, such as ``"<i4"``.
        optional: Those of them that may be missing.

    Raises:
        InputError: If the file is missing, truncated, edited, or something else.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a device may have no end
            raise InputError(f"{path}: it is no file; {_REMEDY}")
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _check_members(path, infos, dtypes, optional)
            members = {info.filename: archive.read(info) for info in infos}
        header = json.loads(members.pop(HEADER))
        if not isinstance(header, dict) or header.get("format") != kind:
            raise InputError(f"{path}: the file is not an {kind}")
        if header.get("version") != version:
            raise InputError(
                f"{path}: format version {header.get('version')!r} is not {version}; use the "
                "optuna-wnn that wrote it"
            )
        if header.pop("digest", None) != _digest(header, members):
            raise InputError(f"{path}: the digest does not fit the content; {_REMEDY}")
        arrays = {
            name: _array(f"{path}: {name}", members[f"{name}.npy"], kinds)
            for name, kinds in dtypes.items()
            if f"{name}.npy" in members
        }
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except _DAMAGED as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: no model can be read there ({reason}); {_REMEDY}") from error
    return header, arrays


def _check_members(
    path: str | os.PathLike[str],
    infos: list[zipfile.ZipInfo],
    dtypes: Mapping[str, tuple[str, ...]],
    optional: frozenset[str],
) -> None:
    names = [info.filename for info in infos]
    known = {HEADER, *(f"{name}.npy" for name in dtypes)}
    needed = known - {f"{name}.npy" for name in optional}
    if len(set(names)) != len(names) or not needed <= set(names) <= known:
        raise InputError(f"{path}: the file is no model of optuna-wnn; {_REMEDY}")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise InputError(f"{path}: {info.filename} is compressed; {_REMEDY}")
    if sum(info.file_size for info in infos) > os.stat(path).st_size:
        raise InputError(f"{path}: the file is truncated or damaged; {_REMEDY}")
    if next(info for info in infos if info.filename == HEADER).file_size > _MOST_HEADER_BYTES:
        raise InputError(f"{path}: the header is over {_MOST_HEADER_BYTES >> 20} MiB")


def _digest(header: Mapping[str, Any], members: Mapping[str, bytes]) -> str:
    """Return 32 hexadecimal digits that name a header, without its digest, and its arrays."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(header, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(members):
        digest.update(name.encode())
        digest.update(members[name])
    return digest.hexdigest()


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    np.lib.format.write_array(buffer, little, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _array(place: str, content: bytes, dtypes: tuple[str, ...]) -> NDArray[Any]:
    """Return the array of a ``.npy`` file's content."""
    if not content.startswith(b"\x93NUMPY\x01\x00"):
        raise InputError(f"{place} is no array; {_REMEDY}")
    (length,) = struct.unpack_from("<H", content, 8)
    if length > _MOST_NPY_HEADER_BYTES:
        raise InputError(f"{place} is no array; {_REMEDY}")
    header = ast.literal_eval(content[10 : 10 + length].decode("latin1"))
    shape = header.get("shape") if isinstance(header, dict) else None
    if (
        not isinstance(shape, tuple)
        or not all(isinstance(n, int) and 0 <= n < 2**40 for n in shape)
        or len(shape) not in (1, 2)
        or header.get("descr") not in dtypes
        or header.get("fortran_order") is not False
    ):
        raise InputError(f"{place} has another shape or type than a model's; {_REMEDY}")
    dtype = np.dtype(header["descr"])
    size = dtype.itemsize
    for n in shape:
        size *= n
    if size != len(content) - 10 - length:
        raise InputError(f"{place} has more or fewer numbers than it says; {_REMEDY}")
    array = np.frombuffer(content, dtype, offset=10 + length).reshape(shape)
    return array.astype(dtype.newbyteorder("="))
