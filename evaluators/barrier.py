"""Where the threads of one compiled function wait for each other, without Python."""

from __future__ import annotations

import ctypes
import os
from typing import Any
from typing import Final

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.jit import instruction


_LINE: Final = 16  # words between the two counters, so that they are in lines of their own
_SPINS: Final = 2000  # looks before a waiting thread lets others run
_WORD: Final = ir.IntType(64)


def make_barrier() -> NDArray[np.int64]:
    """Return the counters of a barrier: how many wait, and how often all have come."""
    return np.zeros(2 * _LINE, np.int64)


def _give_way_address() -> int:
    """Return the address of the system's function that lets other threads run."""
    if os.name == "nt":
        function = ctypes.WinDLL("kernel32").SwitchToThread  # type: ignore[attr-defined,unused-ignore]
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


GIVE_WAY: Final = _give_way_address()


@instruction
def _add_atomically(typing_context: Any, address: Any, value: Any) -> Any:
    """Add to the word at an address; return what it was."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _WORD.as_pointer())
        return builder.atomic_rmw("add", pointer, arguments[1], "acq_rel")

    return types.int64(types.int64, types.int64), codegen


@instruction
def _load_atomically(typing_context: Any, address: Any) -> Any:
    """Return the word at an address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _WORD.as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), codegen


@instruction
def _call(typing_context: Any, function: Any) -> Any:
    """Call the function at an address, which takes nothing and returns an ``int``."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [])

    return types.int32(types.int64), codegen


@compiled
def wait_for_all(barrier: Any, n_threads: int, give_way: int) -> None:
    """Return when ``n_threads`` threads have called this as often as the one that calls.

    What each wrote before is then seen by all.

    Args:
        barrier: Made by :func:`make_barrier`, shared.
        n_threads: How many threads take part.
        give_way: ``GIVE_WAY``, handed over: compiled code that is kept on disk must not hold
            an address of this process.
    """
    if n_threads == 1:
        return
    waiting = np.int64(barrier.ctypes.data)
    rounds = waiting + 8 * _LINE
    seen = _load_atomically(rounds)
    if _add_atomically(waiting, 1) == n_threads - 1:
        _add_atomically(waiting, -n_threads)
        _add_atomically(rounds, 1)
        return
    looks = 0
    while _load_atomically(rounds) == seen:
        looks += 1
        if looks > _SPINS:
            _call(give_way)
