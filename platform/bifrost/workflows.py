"""Other workflows: what there is, and running one as a child of this execution."""

from __future__ import annotations

import builtins
from typing import Any

from . import _runtime
from ._awaitable import Reply


async def list() -> builtins.list[dict[str, Any]]:
    """The workflows in reach, as dicts of `name, description, parameters, executionMode, endpointEnabled`."""
    return [dict(row) for row in await _runtime.call("workflows.list", {})]


async def get(execution_id: str) -> dict[str, Any]:
    """The state of an execution started with `execute`."""
    return dict(await _runtime.call("workflows.get", {"execution_id": str(execution_id)}))


def execute(name_or_id: str, params: dict[str, Any] | None = None, wait: bool = True) -> Reply:
    """Run a workflow as the same caller; the answer has `execution_id`, `status`, `result`, `error`.

    The child is on its way when this returns, so `asyncio.gather` over several runs them side by side. In
    plain functions, where nothing could be awaited, it returns when the child has ended.
    """
    reply = Reply(
        _runtime.call(
            "workflows.execute", {"workflow": str(name_or_id), "params": params or {}, "wait": wait}
        )
    )
    import asyncio  # loads much, and few files start other workflows

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        len(reply)  # looking inside waits, and raises what went wrong here rather than later
    return reply
