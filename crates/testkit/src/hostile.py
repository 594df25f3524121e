"""What a hostile tenant runs: each of these takes all it can get for five seconds, or ends for having taken too much."""

import logging
import os
import time

from bifrost import workflow

logger = logging.getLogger(__name__)


@workflow(isolation="process", timeout_seconds=5)
def hostile_forks() -> None:
    """Starts as many processes as it may, again and again."""
    logger.info("begun")
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.05)


@workflow(isolation="process", timeout_seconds=5)
def hostile_memory() -> None:
    """Takes all memory it may, and begins anew."""
    logger.info("begun")
    while True:
        held = []
        try:
            while True:
                held.append(bytearray(16 << 20))
        except MemoryError:
            pass


@workflow(isolation="process", timeout_seconds=5)
def hostile_lines() -> None:
    """Logs as fast as it can."""
    while True:
        logger.info("x" * 512)


@workflow(isolation="process", timeout_seconds=30)
def hostile_result() -> str:
    """Gives back more than a result may have, however long the machine takes to make it."""
    logger.info("begun")
    return "x" * (200 << 20)
