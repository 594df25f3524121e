"""Probes the endpoints of an HTTP API with a token that only the run can read."""

import logging
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from bifrost import UserError, param, secrets, workflow

logger = logging.getLogger(__name__)

ATTEMPTS = 3
FIRST_PAUSE_SECONDS = 0.5
TIMEOUT_SECONDS = 5
# The server may answer differently next time; every other refusal is an answer.
WORTH_ANOTHER_TRY = {429, 500, 502, 503, 504}


@workflow(
    description="Check that the endpoints of an HTTP API answer",
    category="Monitoring",
    tags=["http", "monitoring"],
    timeout_seconds=300,
    retry_policy={"max_attempts": 2, "backoff": 10, "retry_on": ["OSError"]},
)
@param("base_url", label="Base URL", help_text="https://api.example.com")
@param("endpoints", label="Endpoints", help_text="Paths below the base URL")
async def check_endpoints(base_url: str, endpoints: list[str] | None = None) -> dict[str, Any]:
    if urllib.parse.urlsplit(base_url).scheme not in ("http", "https"):
        raise UserError("The base URL must begin with http:// or https://.")
    token = await secrets.get("monitoring_api_token")
    if token is None:
        raise UserError("Store the API token as the secret monitoring_api_token first.")

    checks = [check(f"{base_url.rstrip('/')}/{path.lstrip('/')}", token) for path in endpoints or ["/"]]
    down = [found["url"] for found in checks if not found["ok"]]
    return {"success": not down, "checked": len(checks), "down": down, "checks": checks}


def check(url: str, token: str) -> dict[str, Any]:
    """One endpoint, with growing pauses between its attempts."""
    status, problem, began = None, "", time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        status, problem = probe(url, token)
        if status is not None and status not in WORTH_ANOTHER_TRY:
            break
        if attempt < ATTEMPTS:
            pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
            logger.warning("%s: %s, next attempt in %.1f s", url, problem or status, pause)
            time.sleep(pause)
    ok = status is not None and status < 400
    logger.log(logging.INFO if ok else logging.ERROR, "%s: %s", url, problem or status)
    took = round((time.monotonic() - began) * 1000)
    return {"url": url, "ok": ok, "status": status, "problem": problem, "attempts": attempt, "took_ms": took}


def probe(url: str, token: str) -> tuple[int | None, str]:
    """The status the server answered with, or why there is none."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as refused:
        return refused.code, f"HTTP {refused.code}"
    except (OSError, ValueError) as problem:
        return None, str(getattr(problem, "reason", problem))
