"""Values written in a source file, and whether JSON and PostgreSQL can keep them as they are."""

from __future__ import annotations

import ast
import re
from typing import Any

UNREADABLE: Any = object()
# PostgreSQL's text holds no NUL, and UTF-8 no half of a surrogate pair.
_NEVER_KEPT = re.compile("[\0\ud800-\udfff]")
# Who reads the index gives up below 128 levels, some of which are those of the index itself.
_DEEPEST = 64
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1


def literal(node: ast.expr) -> Any:
    """The value of a literal, or `UNREADABLE`."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError):
        return UNREADABLE


def plain(value: Any) -> Any:
    """A literal as JSON has it: sets and tuples as lists, bytes and complex numbers not at all."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set):
        return sorted((plain(item) for item in value), key=str)
    return [plain(item) for item in value] if isinstance(value, list | tuple) else None


def is_storable(value: Any, levels: int = _DEEPEST) -> bool:
    """Whether the value comes back as it was: one that does not would be another, or stop the whole index."""
    if isinstance(value, str):
        return _NEVER_KEPT.search(value) is None
    if isinstance(value, int):
        return _LEAST <= value <= _MOST
    if isinstance(value, float):
        return value - value == 0.0
    if isinstance(value, dict | list | tuple | set):
        items = [*value, *value.values()] if isinstance(value, dict) else value
        return levels > 0 and all(is_storable(item, levels - 1) for item in items)
    return True


def storable(text: str) -> str:
    """Text for people to read; what cannot be kept of it shows as such."""
    return _NEVER_KEPT.sub("\ufffd", text)
