"""MLX's custom kernels for machines without a GPU: the same call runs the same text."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import TYPE_CHECKING
from typing import Any
from typing import Literal

import numpy as np

from metal import build
from metal import cuda
from metal import language
from metal.capture import Refused
from metal.capture import Text
from metal.capture import capture
from metal.run import Array
from metal.run import Grid
from metal.run import run


if TYPE_CHECKING:
    import mlx.core as mx

MAX_THREADS = 1024  # of a threadgroup
MAX_BUFFERS = 31  # of a kernel


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel."""

    name: str
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    text: Text
    seconds: float


@dataclass(kw_only=True)
class Shim:
    """A device that is none: how it runs kernels, and what it has run.

    Attributes:
        api: ``"metal"`` or ``"cuda"``.
        sanitizer: ``None``, ``"address"`` (also undefined behaviour) or ``"thread"``.
        schedules: How many orders of threads and threadgroups each launch is run in.
        seed: The number of the first order; 0 is the plain one.
        any_order: Names of outputs that may depend on the order.
        checked: Whether Metal's texts are also read as Metal (needs libclang).
        launches: What was run.
    """

    api: Literal["metal", "cuda"] = "metal"
    sanitizer: str | None = None
    schedules: int = 2
    seed: int = 0
    any_order: frozenset[str] = frozenset()
    checked: bool = True
    launches: list[Launch] = field(default_factory=list)
    _texts: dict[object, Text] = field(default_factory=dict)

    def metal_kernel(
        self,
        name: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        source: str,
        header: str = "",
        ensure_row_contiguous: bool = True,
        atomic_outputs: bool = False,
        compile_options: Mapping[str, str] | None = None,
    ) -> ShimKernel:
        """Stand in for ``mx.fast.metal_kernel``."""
        return ShimKernel(
            self,
            {
                "name": name,
                "input_names": list(input_names),
                "output_names": list(output_names),
                "source": source,
                "header": header,
                "ensure_row_contiguous": ensure_row_contiguous,
                "atomic_outputs": atomic_outputs,
                "compile_options": compile_options,
            },
        )

    def cuda_kernel(
        self,
        name: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        source: str,
        header: str = "",
        ensure_row_contiguous: bool = True,
        shared_memory: int = 0,
    ) -> ShimKernel:
        """Stand in for ``mx.fast.cuda_kernel``."""
        return ShimKernel(
            self,
            {
                "name": name,
                "input_names": list(input_names),
                "output_names": list(output_names),
                "source": source,
                "header": header,
                "ensure_row_contiguous": ensure_row_contiguous,
                "shared_memory": shared_memory,
            },
        )

    def text(
        self,
        settings: Mapping[str, Any],
        inputs: Sequence[mx.array],
        call: Mapping[str, Any],
    ) -> Text:
        """Return the text of a call, made and checked once for all calls that share it."""
        key = (
            repr(settings),
            tuple((str(array.dtype), array.ndim == 0, array.size < 8) for array in inputs),
            repr(call["template"]),
            repr(call["output_dtypes"]),
        )
        if key not in self._texts:
            text = (cuda.text if self.api == "cuda" else capture)(settings, inputs, call)
            if self.api == "metal" and self.checked and language.missing() is None:
                found = language.complaints(text)
                if found:
                    raise Refused("\n".join(found))
            self._texts[key] = text
        return self._texts[key]


@dataclass(frozen=True)
class ShimKernel:
    """What makes launches: call it as MLX's, with keywords."""

    shim: Shim
    settings: Mapping[str, Any]

    def __call__(
        self,
        *,
        inputs: Sequence[Any],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: Sequence[int],
        threadgroup: Sequence[int],
        template: Sequence[tuple[str, bool | int | mx.Dtype]] | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: mx.Stream | mx.Device | None = None,
    ) -> list[mx.array]:
        """Run the kernel at once.

        Raises:
            Refused: If the GPU or MLX would not take the kernel or the call.
            Fault: If the kernel ran wrong.
        """
        import mlx.core as mx

        arrays = [it if isinstance(it, mx.array) else mx.array(it) for it in inputs]
        size = _threadgroup(grid, threadgroup)
        for array in arrays:
            if array.size == 0:
                raise Refused("an input without elements: do not launch, or pad it")
        for shape in output_shapes:
            if math.prod(shape) == 0:
                raise Refused("an output without elements: do not launch")
        call: dict[str, Any] = {
            "output_shapes": [tuple(shape) for shape in output_shapes],
            "output_dtypes": list(output_dtypes),
            "grid": tuple(grid),
            "threadgroup": tuple(threadgroup),
            "template": list(template or []),
        }
        text = self.shim.text(self.settings, arrays, call)
        if verbose:
            print(text.source)
        outputs = [
            np.empty(shape, _numpy(dtype))
            for shape, dtype in zip(call["output_shapes"], call["output_dtypes"], strict=True)
        ]
        any_order = self.shim.any_order
        started = time.perf_counter()
        results = run(
            build.build(text, self.shim.sanitizer),
            Grid(_three(grid), size, full=self.shim.api == "cuda"),
            self._buffers(text, arrays),
            outputs,
            init_value,
            range(self.shim.seed, self.shim.seed + self.shim.schedules),
            [k for k, name in enumerate(self.settings["output_names"]) if name in any_order],
        )
        self.shim.launches.append(
            Launch(
                self.settings["name"],
                _three(grid),
                size,
                text,
                time.perf_counter() - started,
            )
        )
        return [mx.array(result) for result in results]

    def _buffers(self, text: Text, inputs: Sequence[mx.array]) -> list[Array]:
        """Return what the kernel reads, in the order of its parameters."""
        named: dict[str, Array] = {}
        for name, array in zip(self.settings["input_names"], inputs, strict=True):
            values = np.array(array, order="C")
            if not self.settings["ensure_row_contiguous"]:
                seen = np.array(array, copy=False)
                if not seen.flags.c_contiguous:
                    raise Refused(f"{name} is not row-contiguous, which the shim cannot show")
            named[name] = values
            named[f"{name}_shape"] = np.array(values.shape, np.int32)
            strides = [step // values.itemsize for step in values.strides]
            named[f"{name}_strides"] = np.array(strides, np.int64)
            named[f"{name}_ndim"] = np.array(values.ndim, np.int32)
        outputs = set(self.settings["output_names"])
        numbered = [it for it in text.parameters if it.buffer is not None]
        if self.shim.api == "metal" and len(numbered) > MAX_BUFFERS:
            raise Refused(f"{len(numbered)} buffers; Metal has {MAX_BUFFERS}")
        return [named[it.name] for it in numbered if it.name not in outputs]


def _three(sizes: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (operator.index(size) for size in sizes)
    return x, y, z


def _threadgroup(grid: Sequence[int], threadgroup: Sequence[int]) -> tuple[int, int, int]:
    """Return the size of a threadgroup as MLX clamps it.

    Raises:
        Refused: If the grid or the threadgroup is none that Metal runs.
    """
    for what, sizes in (("grid", grid), ("threadgroup", threadgroup)):
        if len(sizes) != 3 or not all(1 <= operator.index(size) < 2**31 for size in sizes):
            raise Refused(f"{what} {tuple(sizes)}: three numbers from 1 to 2**31 - 1")
    x, y, z = (min(pair) for pair in zip(_three(grid), _three(threadgroup), strict=True))
    if x * y * z > MAX_THREADS:
        raise Refused(f"{x * y * z} threads in a threadgroup; GPUs take {MAX_THREADS}")
    return x, y, z


def _numpy(dtype: mx.Dtype) -> np.dtype[Any]:
    import mlx.core as mx

    try:
        return np.array(mx.zeros((), dtype)).dtype
    except (ValueError, TypeError, RuntimeError):
        raise Refused(f"{dtype}: the shim has no such type") from None
