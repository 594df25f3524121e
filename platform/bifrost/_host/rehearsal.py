"""The workflows that the template runs for itself, before any other."""

import logging

from bifrost import context, workflow

logger = logging.getLogger(__name__)


@workflow
def plain(number: int) -> dict[str, int]:
    logger.info("run %d of %s", number, context.scope)
    return {"number": number}


@workflow
async def awaited(number: int) -> dict[str, int]:
    return {"number": number}
