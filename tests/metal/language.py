"""Reads a kernel's text as Metal would: what is refused here, Apple's compiler would refuse too.

Clang's front end (libclang, a wheel) parses the text with real address spaces: a pointer of one
space is no pointer of another. What C++ allows and Metal does not is then looked for in the tree:
the restrictions and the address spaces of the Metal Shading Language Specification.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from typing import Any

from metal.build import CXX
from metal.build import declare_threadgroup_variables
from metal.build import preprocess
from metal.capture import Text


FILE = "kernel.cpp"
SPACES = frozenset({"device", "constant", "threadgroup", "thread"})
CONSTANT, THREADGROUP = 2, 3  # as `metal_shim.h` numbers them
# What no Metal function may hold, by the kind of libclang's cursor.
FORBIDDEN = {
    "ASM_STMT": "assembler",
    "CXX_BASE_SPECIFIER": "a derived class",
    "CXX_CATCH_STMT": "an exception's handler",
    "CXX_DELETE_EXPR": "delete",
    "CXX_DYNAMIC_CAST_EXPR": "dynamic_cast",
    "CXX_NEW_EXPR": "new",
    "CXX_THROW_EXPR": "throw",
    "CXX_TRY_STMT": "try",
    "CXX_TYPEID_EXPR": "typeid",
    "GOTO_STMT": "goto",
    "LAMBDA_EXPR": "a lambda expression",
    "MS_ASM_STMT": "assembler",
    "STRING_LITERAL": "a string",
}
_TYPES = frozenset(
    {
        *("bool", "char", "short", "int", "long", "float", "half", "void", "signed", "unsigned"),
        *("uchar", "ushort", "uint", "ulong", "size_t", "ptrdiff_t", "uint2", "uint3"),
        *(f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)),
        *("atomic", "atomic_int", "atomic_uint"),
    }
)
_QUALIFIERS = frozenset({"const", "volatile"})
_CASTS = frozenset({"CSTYLE_CAST_EXPR", "CXX_FUNCTIONAL_CAST_EXPR", "CXX_REINTERPRET_CAST_EXPR"})

Cursor = Any  # libclang has no types


def missing() -> str | None:
    """Return why texts cannot be read here, or ``None`` where they can."""
    if importlib.util.find_spec("clang") is None:
        return "libclang is not installed: pip install libclang"
    return None


def complaints(text: Text) -> list[str]:
    """Return what is wrong with a text, one line each; nothing if Metal would take it.

    Raises:
        Refused: If its directives are wrong.
    """
    from clang import cindex

    instance = f"\nconstexpr auto instance = &{text.call};\n"
    source = preprocess(text, text.instantiated_by(instance))
    unit = cindex.Index.create().parse(
        FILE,
        args=["-std=c++14", "-nostdinc", "-DSHIM_CHECK", f"-I{CXX}", "-Wno-unknown-attributes"],
        unsaved_files=[(FILE, declare_threadgroup_variables(source))],
    )
    errors = [
        f"line {it.location.line}: {it.spelling}"
        for it in unit.diagnostics
        if it.severity >= cindex.Diagnostic.Error
    ]
    kernel = text.call.split("<")[0]
    tops = [it for it in unit.cursor.get_children() if _in_text(it) and it.spelling != "instance"]
    tokens = list(unit.get_tokens(extent=unit.cursor.extent))
    return [
        *errors,
        *(line for top in tops for line in _forbidden(top, kernel)),
        *_recursion(tops),
        *_bare_pointers(tokens),
    ]


def _in_text(cursor: Cursor) -> bool:
    return cursor.location.file is not None and cursor.location.file.name == FILE


def _forbidden(top: Cursor, kernel: str) -> Iterator[str]:
    """Yield what Metal forbids in one declaration at the top of the text."""
    for cursor in top.walk_preorder():
        kind = cursor.kind.name
        line = f"line {cursor.location.line}:"
        canonical = cursor.type.get_canonical()
        if kind in FORBIDDEN:
            yield f"{line} {FORBIDDEN[kind]}"
        if kind == "CXX_METHOD" and cursor.is_virtual_method():
            yield f"{line} a virtual function"
        if canonical.kind.name in ("DOUBLE", "LONGDOUBLE") and kind != "FLOATING_LITERAL":
            yield f"{line} double"  # a literal without a suffix is a float in Metal
        if kind in _CASTS:
            yield from _cast(cursor, line)
        if kind in ("VAR_DECL", "PARM_DECL", "FIELD_DECL"):
            if canonical.kind.name == "VARIABLEARRAY":
                yield f"{line} {cursor.spelling} has a size that is not constant"
            if canonical.kind.name == "POINTER" and "PROTO" in canonical.get_pointee().kind.name:
                yield f"{line} {cursor.spelling} is a pointer to a function"
        if kind == "VAR_DECL":
            yield from _variable(cursor, top, kernel, line)


def _variable(cursor: Cursor, top: Cursor, kernel: str, line: str) -> Iterator[str]:
    """Yield what is wrong with where a variable lives."""
    space = _space(cursor.type)
    if cursor == top:
        if space != CONSTANT:
            yield f"{line} {cursor.spelling} at program scope must be constant"
    elif space == THREADGROUP:
        if top.spelling != kernel:
            yield f"{line} threadgroup variable {cursor.spelling} outside a kernel's own body"
    elif cursor.storage_class.name == "STATIC":
        yield f"{line} static variable {cursor.spelling}"


def _cast(cursor: Cursor, line: str) -> Iterator[str]:
    """Yield what is wrong with a cast to a pointer: it may not leave the address space."""
    if cursor.type.get_canonical().kind.name != "POINTER":
        return
    operand = list(cursor.get_children())[-1].type.get_canonical()
    if operand.kind.name == "POINTER":
        operand = operand.get_pointee()
    elif "ARRAY" not in operand.kind.name:
        return
    if _space(operand) != _space(cursor.type.get_canonical().get_pointee()):
        yield f"{line} a cast from one address space to another"


def _space(kind: Any) -> int:
    """Return the address space of what has a type."""
    return int(kind.get_canonical().get_address_space())


def _recursion(tops: list[Cursor]) -> Iterator[str]:
    """Yield the functions that call themselves, through others too."""
    named = {it.spelling: it for it in tops if it.kind.name.startswith("FUNCTION")}
    calls = {
        name: {it.spelling for it in function.walk_preorder() if "REF" in it.kind.name}
        & set(named)
        for name, function in named.items()
    }
    for name, function in named.items():
        reached: set[str] = set()
        ahead = set(calls[name])
        while ahead:
            reached |= ahead
            ahead = set(itertools.chain.from_iterable(calls[it] for it in ahead)) - reached
        if name in reached:
            yield f"line {function.location.line}: {name} calls itself"


def _bare_pointers(tokens: list[Any]) -> Iterator[str]:
    """Yield pointers and references that are declared without the address space they point to."""
    words = [token.spelling for token in tokens]
    types = _TYPES | {
        name
        for word, name in itertools.pairwise(words)
        if word in ("typename", "class", "struct", "enum", "using")
    }
    types |= {words[words.index(";", i) - 1] for i, word in enumerate(words) if word == "typedef"}
    for i, word in enumerate(words):
        if word not in ("*", "&"):
            continue
        before: set[str] = set()
        j = i - 1
        while j >= 0:
            if words[j] == ">":  # the arguments of a template
                j = max(k for k in range(j) if words[k] == "<") - 1
                if j < 0 or words[j] not in types:
                    break
            elif words[j] not in types | _QUALIFIERS | SPACES | {"::", "metal"}:
                break
            before.add(words[j])
            j -= 1
        if before & types and not before & SPACES:
            line = tokens[i].location.line
            yield f"line {line}: {' '.join(words[j + 1 : i + 2])} says no address space"
