"""Runs a kernel's Metal or CUDA text on a machine without a GPU, and refuses what Metal would.

What it needs, ``missing`` says; without that it can be imported and not run.
"""

from __future__ import annotations

from metal.build import missing
from metal.capture import Refused
from metal.device import ANY_ORDER
from metal.device import install
from metal.device import launch
from metal.language import complaints
from metal.run import Fault
from metal.shim import Launch
from metal.shim import Shim


__all__ = [
    "ANY_ORDER",
    "Fault",
    "Launch",
    "Refused",
    "Shim",
    "complaints",
    "install",
    "launch",
    "missing",
]
