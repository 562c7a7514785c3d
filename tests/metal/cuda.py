"""The CUDA text of a kernel, as MLX hands it to NVIDIA's compiler, and that compiler's verdict.

MLX makes no such text where it has no CUDA, so it is put together here as MLX 0.32 does: every
array a plain pointer, template arguments constants at the head of the body. NVRTC (a wheel:
``nvidia-cuda-nvrtc``) compiles it to machine code without a GPU.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from metal.capture import Parameter
from metal.capture import Refused
from metal.capture import Text


if TYPE_CHECKING:
    import mlx.core as mx

ARCHITECTURES = ("sm_80", "sm_90a", "sm_120a")  # A100, H100, RTX 50
OPTIONS = ("--device-as-default-execution-space",)
SHAPES = ("_shape", "_strides", "_ndim")
_TEXT = """#include "mlx/backend/cuda/device/utils.cuh"

#include <cooperative_groups.h>

{header}
namespace mlx::core::cu {{

namespace cg = cooperative_groups;

__global__ void {name}(
{parameters}) {{
{constants}
{source}
}}

}} // namespace mlx::core::cu
"""
# What the two headers bring along that kernels may use. NVRTC has no <stdint.h>.
_HEADERS = {
    "mlx/backend/cuda/device/utils.cuh": """
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
""",
    "cooperative_groups.h": "namespace cooperative_groups {}\n",
}


def text(settings: Mapping[str, Any], inputs: Sequence[mx.array], call: Mapping[str, Any]) -> Text:
    """Return the text of one call of a kernel.

    Args:
        settings: The arguments of ``mx.fast.cuda_kernel``.
        inputs: What the kernel is called with.
        call: The other arguments of the call.

    Raises:
        Refused: If the kernel asks for what is not made here.
    """
    names = [*settings["input_names"], *settings["output_names"]]
    if any(f"{name}{shape}" in settings["source"] for name in names for shape in SHAPES):
        raise Refused("shapes and strides reach a CUDA kernel in another form: pass numbers")
    if settings["shared_memory"]:
        raise Refused("dynamic shared memory, which the shim does not have")
    types = [f"const {_type(array.dtype)}*" for array in inputs]
    types += [f"{_type(dtype)}*" for dtype in call["output_dtypes"]]
    parameters = tuple(
        Parameter(kind, name, i) for i, (kind, name) in enumerate(zip(types, names, strict=True))
    )
    name = f"custom_kernel_{settings['name']}"
    source = _TEXT.format(
        header=settings["header"],
        name=name,
        parameters=",\n".join(f"    {it.type} {it.name}" for it in parameters),
        constants="\n".join(f"  {_constant(*it)}" for it in call["template"]),
        source=settings["source"],
    )
    return Text(source, f"mlx::core::cu::{name}", parameters, "cuda_shim.h")


def missing() -> str | None:
    """Return why NVIDIA's compiler is not here, or ``None`` where it is."""
    if _library() is None:
        return "NVRTC is not installed: pip install nvidia-cuda-nvrtc"
    return None


def complaints(text: Text, architecture: str) -> list[str]:
    """Return what NVIDIA's compiler says against a text; nothing if it makes machine code of it.

    Args:
        text: What ``text`` made.
        architecture: One of ``ARCHITECTURES``.
    """
    nvrtc = _library()
    assert nvrtc is not None
    program = ctypes.c_void_p()
    headers = (ctypes.c_char_p * len(_HEADERS))(*(it.encode() for it in _HEADERS.values()))
    names = (ctypes.c_char_p * len(_HEADERS))(*(it.encode() for it in _HEADERS))
    options = [*OPTIONS, f"--gpu-architecture={architecture}"]
    flags = (ctypes.c_char_p * len(options))(*(it.encode() for it in options))
    created = nvrtc.nvrtcCreateProgram(
        *(ctypes.byref(program), text.source.encode(), b"kernel.cu", len(_HEADERS)),
        *(headers, names),
    )
    if created:
        raise OSError(f"NVRTC makes no program: error {created}")
    try:
        if not nvrtc.nvrtcCompileProgram(program, len(options), flags):
            return [] if _size(nvrtc.nvrtcGetCUBINSize, program) else ["no machine code was made"]
        log = ctypes.create_string_buffer(_size(nvrtc.nvrtcGetProgramLogSize, program))
        nvrtc.nvrtcGetProgramLog(program, log)
        return [line for line in log.value.decode().splitlines() if "error" in line]
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _size(function: Any, program: ctypes.c_void_p) -> int:
    size = ctypes.c_size_t()
    function(program, ctypes.byref(size))
    return size.value


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return NVRTC out of NVIDIA's wheels, which differ in their folders."""
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        for path in sorted(Path(place).rglob("libnvrtc.so.*")):
            return ctypes.CDLL(str(path))
    return None


def _constant(name: str, value: bool | int | mx.Dtype) -> str:
    if isinstance(value, bool):
        return f"constexpr bool {name} = {str(value).lower()};"
    if isinstance(value, int):
        return f"constexpr int {name} = {value};"
    return f"using {name} = {_type(value)};"


def _type(dtype: mx.Dtype) -> str:
    """Return the name of a type in CUDA.

    Raises:
        Refused: If the shim has none such.
    """
    name = str(dtype).removeprefix("mlx.core.")
    if name in ("bool", "bool_"):
        return "bool"
    if name == "float32":
        return "float"
    if "int" in name:
        return f"{name}_t"
    raise Refused(f"{name}: the shim has no such type")
