"""`config`, `files` and the context on a developer's machine, over HTTP with an SDK key.

Used only where no worker runs the file: `BIFROST_URL` names the server, `BIFROST_TOKEN` is the key. The older
`BIFROST_DEV_URL` and `BIFROST_DEV_KEY` are read as well.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from . import errors

if TYPE_CHECKING:
    from urllib.error import HTTPError

    from ._context import ExecutionContext

_TIMEOUT_SECONDS = 30
_context: ExecutionContext | None = None


def post(route: str, what: str, **body: Any) -> Any:
    """POST to a route of the SDK API and give its JSON."""
    server = _server()
    if server is None:
        raise RuntimeError(
            f"{what} is only available inside a Bifrost execution, or with BIFROST_URL and BIFROST_TOKEN set"
        )
    return _request("POST", route, {k: v for k, v in body.items() if v is not None or k == "value"}, *server)


def context() -> ExecutionContext | None:
    """The developer's context, or None where no server is configured."""
    global _context
    server = _server()
    if _context is None and server is not None:
        from ._context import ExecutionContext, Organization

        told = _request("GET", "context", None, *server)
        user = told.get("user") or {}
        organization = told.get("organization") or None
        found = (
            Organization(
                str(organization["id"]), organization.get("name") or "", organization.get("is_active", True)
            )
            if organization
            else None
        )
        _context = ExecutionContext(
            user_id=str(user.get("id") or ""),
            email=user.get("email") or "",
            name=user.get("name") or "",
            scope=found.id if found else "GLOBAL",
            organization=found,
            parameters=dict(told.get("default_parameters") or {}),
        )
    return _context


def _server() -> tuple[str, str] | None:
    url = os.environ.get("BIFROST_URL") or os.environ.get("BIFROST_DEV_URL")
    key = os.environ.get("BIFROST_TOKEN") or os.environ.get("BIFROST_DEV_KEY")
    return (url.rstrip("/"), key) if url and key else None


def _request(method: str, route: str, body: dict[str, Any] | None, url: str, key: str) -> Any:
    # Only here: workers never come this way, and it loads half of the standard library.
    import urllib.error
    import urllib.request

    request = urllib.request.Request(
        f"{url}/api/sdk/{route}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            text = answer.read()
    except urllib.error.HTTPError as problem:
        raise _error(problem) from None
    return json.loads(text) if text else None


def _error(problem: HTTPError) -> Exception:
    try:
        detail = str(json.loads(problem.read())["detail"])
    except (ValueError, KeyError, TypeError):
        detail = problem.reason or "request failed"
    if problem.code in (401, 403):
        return errors.PermissionError(detail)
    if problem.code == 404:
        return FileNotFoundError(detail)
    if problem.code in (400, 422):
        return ValueError(detail)
    return errors.IntegrationError("bifrost", detail, problem.code)
