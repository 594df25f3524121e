"""What the load runs. Each run writes down that it began, and says in its result who it was."""

import json
import logging
import os
import sys
import time

from bifrost import context, workflow

EFFECTS = "@EFFECTS@"
log = logging.getLogger(__name__)


def attempt() -> int:
    """The attempt this process was started for; workflows have no name for it, the host does."""
    frame = sys._getframe()
    while frame is not None:
        start = getattr(frame.f_locals.get("self"), "start", None)
        if isinstance(start, dict) and "attempt" in start:
            return int(start["attempt"])
        frame = frame.f_back
    raise LookupError("no host around this run")


def begin(token: str) -> dict:
    stamp = {
        "execution": context.execution_id,
        "attempt": attempt(),
        "scope": context.scope,
        "token": token,
    }
    # One write of a short line to a file that is open for appending is whole.
    file = os.open(EFFECTS, os.O_WRONLY | os.O_APPEND)
    os.write(file, (json.dumps(stamp) + "\n").encode())
    os.close(file)
    return stamp


@workflow(isolation="pooled")
def quick(token: str):
    return begin(token)


@workflow(retry_policy={"max_attempts": 5, "backoff": 0})
def chatty(token: str, lines: int = 40):
    stamp = begin(token)
    for number in range(lines):
        log.log(logging.DEBUG if number % 5 == 4 else logging.INFO, "attempt %d line %d", stamp["attempt"], number)
        if number % 8 == 7:
            time.sleep(0.1)
    return stamp


@workflow
def sleeping(token: str, seconds: float = 1.0):
    stamp = begin(token)
    time.sleep(seconds)
    return stamp


@workflow(isolation="pooled")
def failing(token: str):
    begin(token)
    raise ValueError("as it should")


@workflow(isolation="pooled", retry_policy={"max_attempts": 8, "backoff": 0.2, "max_backoff_seconds": 1})
def retried(token: str):
    stamp = begin(token)
    if stamp["attempt"] < 3:
        raise ConnectionError("not yet")
    return stamp


@workflow(isolation="pooled", concurrency_limit=2)
def lone(token: str):
    stamp = begin(token)
    time.sleep(0.1)
    return stamp


@workflow(isolation="pooled", concurrency_limit=1, concurrency_key="site {site}")
def keyed(token: str, site: str = "a"):
    stamp = begin(token)
    time.sleep(0.1)
    return stamp


@workflow(isolation="pooled")
def delayed(token: str):
    return begin(token)


@workflow
def cancelled(token: str):
    begin(token)
    time.sleep(120)


@workflow(retry_policy={"max_attempts": 5, "backoff": 0})
def long(token: str, seconds: float = 12.0):
    stamp = begin(token)
    until = time.monotonic() + seconds
    number = 0
    while time.monotonic() < until:
        log.info("attempt %d line %d", stamp["attempt"], number)
        number += 1
        time.sleep(0.5)
    return stamp


@workflow
def undefined(token: str):
    from bifrost import _runtime
    from bifrost._host.frames import pack_value

    begin(token)
    frame = {"t": "result", "outcome": "splendid", "result": {"token": token}, "result_type": "json"}
    _runtime.current.connection.send(pack_value(frame))
    time.sleep(60)


@workflow(isolation="pooled", schedule="* * * * *", schedule_overlap="allow", schedule_misfire="all")
def ticks_a():
    return begin("tick")


@workflow(isolation="pooled", schedule="* * * * *", schedule_overlap="allow", schedule_misfire="all")
def ticks_b():
    return begin("tick")


@workflow(isolation="pooled", schedule="*/1 * * * *", schedule_overlap="allow", schedule_misfire="all")
def ticks_c():
    return begin("tick")
