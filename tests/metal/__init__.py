"""Runs the Metal text of a kernel on a machine without a GPU, and refuses what Metal would."""

from __future__ import annotations

from metal.build import Refused
from metal.build import missing
from metal.language import complaints
from metal.run import Fault
from metal.shim import Launch
from metal.shim import Shim
from metal.shim import install


__all__ = ["Fault", "Launch", "Refused", "Shim", "complaints", "install", "missing"]
