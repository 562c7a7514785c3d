"""Numba, as the ``cpu`` backend uses it: typed, without the GIL, compiled code kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from typing import TypeVar
from typing import cast

import numpy as np
from llvmlite import binding
from llvmlite import ir
from numba import njit
from numba import types
from numba.extending import intrinsic


Function = TypeVar("Function", bound=Callable[..., Any])

# Processors that have the instruction but take hundreds of cycles for it.
_SLOW_PEXT = ("bdver4", "znver1", "znver2")


def _stamp() -> str:
    """Return a digest of the source of this package."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_STAMP = _stamp()


def compiled(function: Function) -> Function:
    """Compile ``function`` at its first call, and keep the machine code on disk.

    Never with fast-math: every processor must give the same result. Never with threads of
    numba's own: callers run compiled functions in threads of theirs.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        dispatcher: Any = njit(**options, cache=True)(function)
    except RuntimeError:  # neither this folder nor the user's cache folder can be written
        return cast("Function", njit(**options)(function))
    cache_file: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if cache_file is not None:
        _keep_by_content(cache_file)
    return cast("Function", dispatcher)


def _keep_by_content(cache_file: Any) -> None:
    """Give machine code a file whose name says what it is for, and let the file say of what.

    Numba numbers its files and keeps an index beside them. Two processes that compile at the
    same time can give two signatures one number, and the next process then runs the wrong code.
    It also looks at the age of one source file, while compiled code contains what others define.
    """

    def name(key: Any) -> str:
        digest = hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()
        return str(cache_file._index_name).replace(".nbi", f".{digest}.nbc")

    def save(key: Any, data: Any) -> None:
        cache_file._save_data(name(key), (_STAMP, data))

    def load(key: Any) -> Any:
        try:
            stamp, data = cache_file._load_data(name(key))
        except OSError:
            return None
        return data if stamp == _STAMP else None

    cache_file.save, cache_file.load = save, load


def instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let compiled code use what ``function`` generates; its first argument is numba's own."""
    return cast("Callable[..., Any]", intrinsic(function))


def has_fast_pext() -> bool:
    """Return whether the processor extracts bits in one instruction (BMI2), and quickly."""
    if not binding.get_host_cpu_features().get("bmi2", False):
        return False
    return binding.get_host_cpu_name() not in _SLOW_PEXT


HAS_PEXT = has_fast_pext()


def _binary_llvm(name: str) -> Any:
    """Return codegen that calls the LLVM intrinsic ``name`` on two 64-bit words."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word, word])
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        return builder.call(function, arguments)

    return codegen


@instruction
def _pext_instruction(typing_context: Any, word: Any, mask: Any) -> Any:
    """Return the bits of ``word`` that ``mask`` picks, moved together."""
    return types.uint64(types.uint64, types.uint64), _binary_llvm("llvm.x86.bmi.pext.64")


@compiled
def pext_loop(word: Any, mask: Any) -> Any:
    """Return the same without the instruction; only there so that other processors compile."""
    one = np.uint64(1)
    result = place = np.uint64(0)
    while mask:
        lowest = mask & (~mask + one)
        if word & lowest:
            result |= one << place
        mask ^= lowest
        place += one
    return result


pext: Callable[..., Any] = _pext_instruction if HAS_PEXT else pext_loop


@instruction
def leading_zeros(typing_context: Any, word: Any) -> Any:
    """Return how many zeros a 64-bit word begins with; 64 if it is 0."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), codegen


@instruction
def trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Return how many zeros a 64-bit word ends with; the word is not 0."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), codegen
