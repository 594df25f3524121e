"""Past and running executions: one's own, or all of them for a platform admin."""

from __future__ import annotations

import builtins
from datetime import UTC, date, datetime
from typing import Any

from . import _runtime

_MOST = 1000


async def list(
    workflow_name: str | None = None,
    status: str | None = None,
    start_date: date | str | None = None,
    end_date: date | str | None = None,
    limit: int = 50,
) -> builtins.list[dict[str, Any]]:
    """The newest executions first, without their logs."""
    arguments = {
        "workflow_name": workflow_name,
        "status": status,
        "start_date": _text(start_date),
        "end_date": _text(end_date),
        "limit": max(1, min(limit, _MOST)),
    }
    return [dict(row) for row in await _runtime.call("executions.list", arguments)]


async def get(execution_id: str) -> dict[str, Any]:
    """One execution with its logs; `ValueError` if there is none, `PermissionError` if it is another's."""
    return dict(await _runtime.call("executions.get", {"execution_id": str(execution_id)}))


def _text(moment: date | str | None) -> str | None:
    """A moment as the worker reads it; days begin at midnight, and times without a zone are UTC."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, date) and not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
