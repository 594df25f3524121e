"""Forms, as far as the caller of the execution may see them."""

from __future__ import annotations

import builtins
from typing import Any

from . import _runtime
from .records import Form


async def list() -> builtins.list[Form]:
    """The forms the caller may use, by name, at most a thousand."""
    return [_record(row) for row in await _runtime.call("forms.list", {})]


async def get(form_id: str) -> Form:
    """One form; `ValueError` if there is none, `PermissionError` without access."""
    return _record(await _runtime.call("forms.get", {"form_id": str(form_id)}))


def _record(row: dict[str, Any]) -> Form:
    return Form(**{name: row[name] for name in Form.__slots__ if name in row})
