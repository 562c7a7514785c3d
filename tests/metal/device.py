"""The GPU that is none: what a test puts in the place of a real one, and says of it."""

from __future__ import annotations

import os
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import Literal

import numpy as np
import pytest

from metal import build
from metal.capture import metal_kernel_of_mlx
from metal.run import Array
from metal.shim import Shim


if TYPE_CHECKING:
    import mlx.core as mx

# A small machine: a MacBook Air with an M2.
DEVICE: dict[str, str | int] = {
    "architecture": "applegpu_g14g",
    "device_name": "Apple M2 (shim)",
    "max_buffer_length": 9_534_832_640,
    "max_recommended_working_set_size": 12_713_115_648,
    "memory_size": 17_179_869_184,
    "resource_limit": 499_000,
}

# What the kernels may leave in another order: where a wide neuron keeps what it counts depends on
# which thread comes first; votes do not.
ANY_ORDER = ("cells", "slots")


def install(
    monkeypatch: pytest.MonkeyPatch,
    *,
    api: Literal["metal", "cuda"] = "metal",
    sanitizer: str | None = None,
    schedules: int = 2,
    seed: int = 0,
    any_order: Collection[str] = (),
    checked: bool = True,
) -> Shim:
    """Put the shim in the place of a GPU for the time of a test.

    On CUDA, threadgroups are whole at the grid's edge: threads run that lie past it.

    Args:
        monkeypatch: Undoes it.
        api: Whose words the kernels are written in.
        sanitizer: See ``Shim``; if ``None``, the environment variable ``METAL_SANITIZER`` says.
        schedules: See ``Shim``, and for all that follow.
        seed: The first order.
        any_order: Outputs that may depend on it.
        checked: Whether texts are read as Metal.
    """
    import mlx.core as mx

    metal_kernel_of_mlx()  # before it is replaced
    shim = Shim(
        api=api,
        sanitizer=sanitizer or os.environ.get("METAL_SANITIZER") or None,
        schedules=schedules,
        seed=seed,
        any_order=frozenset(any_order),
        checked=checked,
    )
    if shim.sanitizer not in build.SANITIZERS:
        raise ValueError(f"METAL_SANITIZER is one of address and thread, not {shim.sanitizer}")
    monkeypatch.setattr(mx.fast, "metal_kernel", shim.metal_kernel)
    monkeypatch.setattr(mx.fast, "cuda_kernel", shim.cuda_kernel)
    monkeypatch.setattr(mx.metal, "is_available", lambda: api == "metal")
    monkeypatch.setattr(mx.cuda, "is_available", lambda: api == "cuda")
    monkeypatch.setattr(mx, "is_available", lambda device: True)
    monkeypatch.setattr(mx, "device_info", lambda device=None: dict(DEVICE))
    return shim


def launch(
    source: str,
    inputs: Mapping[str, Any],
    outputs: Sequence[tuple[str, tuple[int, ...], mx.Dtype]],
    grid: tuple[int, int, int],
    threadgroup: tuple[int, int, int] = (32, 1, 1),
    header: str = "",
    **others: Any,
) -> list[Array]:
    """Run a kernel's body once and return its outputs.

    Args:
        source: The body.
        inputs: The arrays by their names.
        outputs: Name, shape and type of each.
        grid: Threads.
        threadgroup: Threads of a threadgroup.
        header: What stands in front of the kernel.
        others: More keywords of the call, as ``template`` and ``init_value``.
    """
    import mlx.core as mx

    make: Any = mx.fast.metal_kernel if mx.metal.is_available() else mx.fast.cuda_kernel
    kernel = make(
        name="test",
        input_names=list(inputs),
        output_names=[name for name, _, _ in outputs],
        source=source,
        header=header,
    )
    results = kernel(
        inputs=list(inputs.values()),
        output_shapes=[shape for _, shape, _ in outputs],
        output_dtypes=[dtype for _, _, dtype in outputs],
        grid=grid,
        threadgroup=threadgroup,
        **others,
    )
    return [np.array(result) for result in results]
