"""A kernel's Metal text → a program that runs it, compiled once for every text and kept."""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from metal.capture import Refused
from metal.capture import Text


CXX = Path(__file__).parent / "cxx"
# What a build is made with: its sanitizers, and what the runtime has to know of them.
SANITIZERS: dict[str | None, tuple[str, ...]] = {
    None: (),
    "address": ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-g", "-fsanitize=thread"),
}
# CUDA's volatile reads count as atomic ones; g++ can tell them from others.
_VOLATILE = ("--param", "tsan-distinguish-volatile=1")
_RUNTIME_FLAGS: dict[str | None, tuple[str, ...]] = {
    None: (),
    "address": ("-DSHIM_ADDRESS",),
    "thread": ("-DSHIM_THREAD",),
}
# Attributes of Metal are unknown to C++; an unused helper of a header is no fault.
_FLAGS = (
    *("-std=c++14", "-O1", "-Wall", "-Wno-attributes", "-Wno-unknown-attributes"),
    *("-Wno-unused-function", "-Wno-unused-variable"),
)
# A threadgroup variable, which must be one for all threads of a threadgroup.
_VARIABLE = re.compile(
    r"\b(?:threadgroup|__shared__)\s+((?:volatile\s+)?[\w:]+)\s+(\w+)\s*((?:\[[^][;]*\]\s*)*);"
)
# What the shim's own header stands in for.
_INCLUDES = re.compile(
    r"^#include (<metal_stdlib>|<cooperative_groups.h>|\"mlx/backend/cuda/device/utils.cuh\")$",
    re.M,
)
_OTHER_USE = re.compile(r"\b(?:threadgroup|__shared__)\s+(?![^;(){}=,]*[*&])[^;]*;")


@functools.cache
def missing(sanitizer: str | None = None) -> str | None:
    """Return why kernels cannot be run here, or ``None`` where they can.

    Args:
        sanitizer: A key of ``SANITIZERS``: whether the compiler has it is tried.
    """
    if sys.platform != "linux":
        return "the shim runs on Linux; on a Mac the device itself runs the kernels"
    try:
        importlib.import_module("mlx.core")
    except ImportError as error:
        return f"no MLX ({error}): pip install 'mlx[cpu]'"
    if compiler() is None:
        return "no C++ compiler: install g++ or clang, or name one in CXX"
    with tempfile.TemporaryDirectory() as folder:
        command = [str(compiler()), "-x", "c++", *SANITIZERS[sanitizer], "-o", f"{folder}/a", "-"]
        if subprocess.run(command, input=b"int main() {}", capture_output=True).returncode:
            return f"{compiler()} cannot build with the sanitizer {sanitizer}"
    return None


@functools.cache
def compiler() -> str | None:
    """Return the C++ compiler of this machine."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def build(text: Text, sanitizer: str | None) -> Path:
    """Return the program that runs a kernel.

    Args:
        text: The kernel.
        sanitizer: A key of ``SANITIZERS``.

    Raises:
        Refused: If the compiler does not take the text; its messages are the error's.
    """
    program = entry(text)
    name = _digest(program, sanitizer)
    target = _folder() / name
    if not target.exists():
        source = _folder() / f"{name}.cpp"
        with tempfile.TemporaryDirectory(dir=_folder()) as folder:
            made = Path(folder) / source.name
            made.write_text(program, encoding="ascii")
            made.replace(source)  # at once: another process may be compiling it
        volatile = _VOLATILE if sanitizer == "thread" and "clang" not in _version() else ()
        command = [
            *_FLAGS,
            *volatile,
            *SANITIZERS[sanitizer],
            str(source),
            str(_runtime(sanitizer)),
        ]
        _compile(command, target)
    return target


def entry(text: Text) -> str:
    """Return the C++ program of a kernel: the text, and a function that calls it."""
    arguments = []
    for parameter in text.parameters:
        if parameter.buffer is None:
            arguments.append(f"at.{parameter.name}")
            continue
        kind = re.sub(r"\b(device|constant)\b", "", parameter.type).strip()
        buffer = f"buffers[{parameter.buffer}]"
        reference = kind.endswith("&")
        arguments.append(f"*({kind[:-1]}*){buffer}" if reference else f"({kind}){buffer}")
    expanded = share_threadgroup_variables(preprocess(text, text.instantiated_by("")))
    return expanded + (
        "\nvoid shim::run_thread(void* const* buffers, const Position& at) {\n"
        f"  (void)buffers, (void)at;\n  {text.call}({', '.join(arguments)});\n}}\n"
    )


def preprocess(text: Text, source: str) -> str:
    """Return a kernel's text with its own macros expanded and the language's words left alone.

    Args:
        text: The kernel.
        source: Its text as C++ is to see it.

    Raises:
        Refused: If a directive of the text is wrong.
    """
    ran = subprocess.run(
        [str(compiler()), "-E", "-P", "-x", "c++", "-std=c++14", "-"],
        input=_INCLUDES.sub("", source),
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise Refused(ran.stderr)
    return f'#include "{text.shim}"\n{ran.stdout}'


def share_threadgroup_variables(source: str) -> str:
    """Return a text whose threadgroup variables are one for all threads of a threadgroup.

    This is the one place where what runs is not the text of MLX: C++ has no such storage.

    Raises:
        Refused: If one is declared in another form than ``threadgroup type name[size];``.
    """
    numbers = iter(range(len(source)))

    def shared(found: re.Match[str]) -> str:
        sizes = re.sub(r"\[(.*?)\]", r"[(\1)]", found[3])
        return (
            f"auto& {found[2]} = shim::threadgroup_variable<{found[1]}{sizes}, {next(numbers)}>();"
        )

    result = _VARIABLE.sub(shared, source)
    odd = _OTHER_USE.search(result)
    if odd:
        raise Refused(f"write `threadgroup type name[size];`, one at a time, not {odd[0]}")
    return result


def declare_threadgroup_variables(source: str) -> str:
    """Return a text whose threadgroup variables C++ with address spaces can declare."""
    return _VARIABLE.sub(lambda found: f"static {found[0]}", source)


def _runtime(sanitizer: str | None) -> Path:
    """Return the compiled runtime, which is the same for all kernels."""
    target = _folder() / f"{_digest('runtime', sanitizer)}.o"
    if not target.exists():
        _compile(
            ["-std=c++14", "-O2", *_RUNTIME_FLAGS[sanitizer], "-c", str(CXX / "runtime.cpp")],
            target,
        )
    return target


def _compile(arguments: list[str], target: Path) -> None:
    """Compile into ``target`` all at once, as other processes may do at the same time."""
    with tempfile.TemporaryDirectory(dir=_folder()) as folder:
        made = Path(folder) / target.name
        command = [str(compiler()), "-I", str(CXX), *arguments, "-o", str(made)]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            raise Refused(ran.stderr)
        made.replace(target)


def _digest(program: str, sanitizer: str | None) -> str:
    made_of = (program, str(sanitizer), str(compiler()), _version(), *_FLAGS, *_shim_sources())
    return hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:24]


@functools.cache
def _version() -> str:
    return subprocess.run(
        [str(compiler()), "--version"], capture_output=True, text=True, check=True
    ).stdout


@functools.cache
def _shim_sources() -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8") for path in sorted(CXX.iterdir()))


@functools.cache
def _folder() -> Path:
    """Return the folder of compiled kernels, which no other user can write to."""
    folder = Path(tempfile.gettempdir()) / f"optuna-wnn-metal-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; set TMPDIR")
    return folder
