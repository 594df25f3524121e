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

_TIMEOUT_SECONDS = 30


def post(route: str, what: str, **body: Any) -> Any:
    """POST to a route of the SDK API and give its JSON."""
    server = _server()
    if server is None:
        raise RuntimeError(
            f"{what} is only available inside a Bifrost execution, or with BIFROST_URL and BIFROST_TOKEN set"
        )
    return _request("POST", route, {k: v for k, v in body.items() if v is not None or k == "value"}, *server)


def get(route: str) -> Any:
    """GET a route of the SDK API and give its JSON, or None where no server is configured."""
    server = _server()
    return None if server is None else _request("GET", route, None, *server)


def _server() -> tuple[str, str] | None:
    url = os.environ.get("BIFROST_URL") or os.environ.get("BIFROST_DEV_URL")
    key = os.environ.get("BIFROST_TOKEN") or os.environ.get("BIFROST_DEV_KEY")
    return (url.rstrip("/"), key) if url and key else None


def _request(method: str, route: str, body: dict[str, Any] | None, url: str, key: str) -> Any:
    # Only here: workers never come this way, and it loads half of the standard library.
    import http.client
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
    except (OSError, http.client.HTTPException) as problem:
        raise _unanswered(url, problem) from problem
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


def _unanswered(url: str, problem: Exception) -> Exception:
    """Without an answer: nobody is there, or what is sent is more than the server reads to its end."""
    reason = getattr(problem, "reason", problem)
    if isinstance(reason, BrokenPipeError | ConnectionResetError):
        reason = "it ended the connection; what was sent may be too large"
    return errors.IntegrationError("bifrost", f"{url} gives no answer: {reason}")
