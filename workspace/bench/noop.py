"""What the benchmark runs: the smallest workflows of each kind, and one that only logs."""

import logging

from bifrost import workflow

logger = logging.getLogger(__name__)


@workflow(description="Do nothing, in a process of its own", category="Benchmark", tags=["benchmark"])
def noop() -> dict[str, bool]:
    return {"ok": True}


@workflow(
    description="Do nothing, in a process of its own, while the caller waits",
    category="Benchmark",
    tags=["benchmark"],
    execution_mode="sync",
)
def noop_sync() -> dict[str, bool]:
    return {"ok": True}


@workflow(
    description="Do nothing, in a warm process", category="Benchmark", tags=["benchmark"], isolation="pooled"
)
def noop_pooled() -> dict[str, bool]:
    return {"ok": True}


@workflow(
    description="Do nothing, in a warm process, while the caller waits",
    category="Benchmark",
    tags=["benchmark"],
    execution_mode="sync",
    isolation="pooled",
)
def noop_pooled_sync() -> dict[str, bool]:
    return {"ok": True}


@workflow(description="Write n log lines", category="Benchmark", tags=["benchmark"], isolation="pooled")
def log_lines(n: int = 1000) -> dict[str, int]:
    for number in range(1, n + 1):
        logger.info("line %d of %d", number, n)
    return {"lines": n}
