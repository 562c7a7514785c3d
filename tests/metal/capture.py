"""The Metal text of a kernel, as MLX would hand it to Apple's compiler, made without Metal.

``mx.fast.metal_kernel`` refuses to run where there is no Metal, but inside ``mx.export_function``
it only records, and ``verbose=True`` prints the text: signature, body, instantiation.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Any


if TYPE_CHECKING:
    import mlx.core as mx


class Refused(Exception):
    """What Metal or MLX would not take."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: its type, its name, and the number of its buffer or ``None``."""

    type: str
    name: str
    buffer: int | None


@dataclass(frozen=True)
class Text:
    """A kernel's text, and what its signature says.

    Attributes:
        source: For Metal what MLX made; for CUDA see ``cuda.text``.
        call: The name of the kernel's instance.
        parameters: In their order.
        shim: The header that stands in for what the language brings along.
    """

    source: str
    call: str
    parameters: tuple[Parameter, ...]
    shim: str = "metal_shim.h"

    def instantiated_by(self, lines: str) -> str:
        """Return the text with its instantiation, which plain C++ cannot read, made ``lines``."""
        return _INSTANTIATION.sub("\n", self.source) + lines


_ONE_AT_A_TIME = threading.Lock()  # a process has one standard output
_INSTANTIATION = re.compile(r"\ntemplate \[\[host_name\(.*?;\n", re.S)
_INSTANCE = re.compile(r"decltype\((\w+<.*?>)\) ")
_SIGNATURE = re.compile(r"\[\[kernel\]\] void (\w+)\(\n(.*?)\) \{\n", re.S)
_PARAMETER = re.compile(r"\s*(.*?)\s*\b(\w+) \[\[(?:buffer\((\d+)\)|(\w+))\]\]\s*")


def capture(
    settings: Mapping[str, Any],
    inputs: Sequence[mx.array],
    call: Mapping[str, Any],
) -> Text:
    """Return the text that MLX makes for one call of a kernel.

    Args:
        settings: The arguments of ``mx.fast.metal_kernel``.
        inputs: What the kernel is called with; the text depends on types and sizes, not on values.
        call: The other arguments of the call: shapes and types of the outputs, ``template``.

    Returns:
        The text without MLX's own utilities, which stand in front of it on the device.

    Raises:
        Refused: If the text is not ASCII, or has no parameters that can be read.
    """
    import mlx.core as mx

    kernel = metal_kernel_of_mlx()(**settings)

    def traced(*arrays: mx.array) -> Any:
        return kernel(
            inputs=list(arrays),
            **{**call, "init_value": None, "verbose": True, "stream": mx.gpu},
        )

    with tempfile.TemporaryDirectory() as folder:
        printed = _printed(lambda: mx.export_function(f"{folder}/kernel", traced, *inputs))
    source = printed.split("```\n", 1)[1].rsplit("\n```", 1)[0] + "\n"
    if not source.isascii():
        raise Refused("the text of a kernel must be ASCII: MLX hands it over as such")
    return read(source)


@functools.cache
def metal_kernel_of_mlx() -> Any:
    """Return ``mx.fast.metal_kernel`` as it was when this was first asked."""
    import mlx.core as mx

    return mx.fast.metal_kernel


def read(source: str) -> Text:
    """Return a text that MLX printed, with its signature read.

    Raises:
        Refused: If there is no signature, or a parameter cannot be read.
    """
    signature = _SIGNATURE.search(source)
    if signature is None:
        raise Refused(f"no kernel's signature in:\n{source}")
    instance = _INSTANCE.search(source)
    parameters = []
    for text in signature[2].split(",\n"):
        found = _PARAMETER.fullmatch(text)
        if found is None:
            raise Refused(f"not a kernel's parameter: {text.strip()}")
        buffer = None if found[3] is None else int(found[3])
        parameters.append(Parameter(type=found[1], name=found[2], buffer=buffer))
    return Text(source, instance[1] if instance else signature[1], tuple(parameters))


def _printed(function: Callable[[], object]) -> str:
    """Return what a function writes to the process's standard output, past Python's own."""
    with _ONE_AT_A_TIME, tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            function()
        finally:
            ctypes.CDLL(None).fflush(None)
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        return file.read().decode()
