"""Streams syslog lines into the log of the run, as a collector would."""

import asyncio
import logging
from itertools import cycle, islice
from typing import Any

from bifrost import param, workflow

logger = logging.getLogger(__name__)

LINES = [
    (logging.INFO, "sshd", "Accepted publickey for deploy from 10.20.4.17 port 51022"),
    (logging.INFO, "dhcpd", "DHCPACK on 10.21.0.88 to 54:ee:75:00:1a:2b via eth1"),
    (logging.WARNING, "kernel", "eth0: link is down"),
    (logging.INFO, "kernel", "eth0: link is up at 1000 Mbps, full duplex"),
    (logging.ERROR, "smartd", "Device: /dev/sdb, 8 currently unreadable sectors"),
    (logging.DEBUG, "cron", "(root) CMD (/usr/local/sbin/rotate-backups)"),
]
YIELD_EVERY = 100


@workflow(
    description="Stream syslog lines",
    category="Logs",
    tags=["streaming"],
    isolation="pooled",
    timeout_seconds=300,
)
@param("lines", label="Lines", validation={"min": 1, "max": 20_000})
async def stream_syslog(lines: int = 1000) -> dict[str, Any]:
    by_level: dict[str, int] = {}
    for number, (level, source, text) in enumerate(islice(cycle(LINES), lines), 1):
        logger.log(level, "%s: %s", source, text, extra={"line": number})
        name = logging.getLevelName(level)
        by_level[name] = by_level.get(name, 0) + 1
        if number % YIELD_EVERY == 0:
            await asyncio.sleep(0)
    return {"lines": lines, "by_level": by_level}
