"""What a function's signature says about its parameters, read from the source."""

from __future__ import annotations

import ast
import re
from typing import Any

from .literals import UNREADABLE, is_storable, literal, plain

_INNER_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_TYPES = {
    "str": "string",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "list": "list",
    "List": "list",
    "dict": "json",
    "Dict": "json",
}

NO_VALUE = ast.Constant(value=None)


def parameter_of(name: str, annotation: ast.expr | None, default: ast.expr | None) -> dict[str, Any]:
    """A parameter as its place in the signature describes it."""
    kind, optional = _type_of(annotation)
    value = literal(default) if default is not None else None
    is_shown = value is not UNREADABLE and is_storable(value)
    return {
        "name": name,
        "type": kind,
        "required": default is None and not optional,
        "label": _INNER_CAPITAL.sub(" ", name).replace("_", " ").strip().title(),
        "default_value": plain(value) if is_shown else None,
        "description": None,
        "validation": None,
        "data_provider": None,
        "options": None,
    }


def allows_none(annotation: str) -> bool:
    """Whether an annotation, as its text, allows None."""
    return _type_of(ast.Constant(annotation))[1]


def _type_of(annotation: ast.expr | None) -> tuple[str, bool]:
    """The parameter type an annotation stands for, and whether None is allowed."""
    if annotation is None:
        return "string", False
    if isinstance(annotation, ast.Constant):
        if isinstance(annotation.value, str):
            try:
                return _type_of(ast.parse(annotation.value, mode="eval").body)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                return "json", False
        return "json", annotation.value is None
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return _type_of_union(_alternatives(annotation))
    if isinstance(annotation, ast.Subscript):
        outer = _last_name(annotation.value)
        inner = annotation.slice
        members = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
        if outer == "Optional":
            return _type_of(inner)[0], True
        if outer == "Union":
            return _type_of_union(members)
        if outer == "Annotated" and members:
            return _type_of(members[0])
        return _TYPES.get(outer, "json"), False
    return _TYPES.get(_last_name(annotation), "json"), False


def _type_of_union(members: list[ast.expr]) -> tuple[str, bool]:
    others = [m for m in members if not (isinstance(m, ast.Constant) and m.value is None)]
    optional = len(others) < len(members)
    if len(others) == 1:
        kind, inner = _type_of(others[0])
        return kind, optional or inner
    return "json", optional


def _alternatives(node: ast.expr) -> list[ast.expr]:
    """The members of `a | b | c`, of which there may be more than functions can be nested."""
    found, waiting = [], [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            waiting += [node.right, node.left]
        else:
            found.append(node)
    return found


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
