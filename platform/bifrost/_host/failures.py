"""How a run can fail by our doing, and what is shown of an exception."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable
from types import TracebackType

from . import logs

_HOST = os.path.dirname(__file__) + os.sep


class WorkflowNotFound(Exception):
    """The file or the function is not there."""


class WorkflowLoadError(Exception):
    """The file could not be executed to define its functions."""


class NoResult(Exception):
    """The run ended without returning."""


class ResourceLimit(Exception):
    """The run hit one of its limits."""


def message_of(error: BaseException) -> str:
    """The text of an exception, bounded, whatever its class does."""
    try:
        text = str(error)
    except Exception:
        text = f"<{type(error).__name__} without readable text>"
    return text if len(text) <= logs.MAX_MESSAGE else text[: logs.MAX_MESSAGE] + "… [truncated]"


def traceback_of(error: BaseException) -> str:
    """The traceback from the first frame that is not ours."""
    error = error.__cause__ if isinstance(error, WorkflowLoadError) and error.__cause__ else error
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_HOST):
        trace = trace.tb_next
    try:
        return "".join(_lines(error, trace)).rstrip()
    except Exception as problem:
        return f"{type(error).__name__} (its traceback cannot be shown: {problem!r})"


def _lines(error: BaseException, trace: TracebackType | None) -> Iterable[str]:
    return traceback.format_exception(type(error), error, trace)
