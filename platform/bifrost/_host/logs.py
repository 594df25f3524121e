"""Log lines: `logging` records of workspace files, and whatever is printed.

Records of third-party libraries are dropped: they are not what the author of a workflow wrote, and can hold
what a customer must not read.
"""

from __future__ import annotations

import ctypes
import io
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable
from logging import Handler, LogRecord
from typing import IO, Any, cast

from .connection import Connection
from .convert import describe
from .frames import pack, quote
from .libc import LIBC

TRACEBACK = 45
_IONBF = 2
MAX_MESSAGE = 256 * 1024
_PLAIN = len(vars(logging.makeLogRecord({})))
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def send_line(
    connection: Connection, level: str, message: str, data: str = "", at: int = 0, cut: str = ""
) -> None:
    """One log line at `at` (microseconds, default now); `data` is the text of a JSON object.

    `cut` is the text of members which say that the line is a piece of a longer one.
    """
    if len(message) > MAX_MESSAGE:
        message = message[:MAX_MESSAGE] + "… [truncated]"
    extra = f',"data":{data}' if data else ""
    moment = at or time.time_ns() // 1000
    connection.send(
        pack(f'{{"t":"log","level":"{level}","message":{quote(message)}{extra},"at":{moment}{cut}}}')
    )


def level_name(number: int) -> str:
    """The nearest level of ours that is not above `number`."""
    if number < logging.INFO:
        return "DEBUG"
    if number < logging.WARNING:
        return "INFO"
    if number < logging.ERROR:
        return "WARNING"
    if number < TRACEBACK:
        return "ERROR"
    return "TRACEBACK" if number < logging.CRITICAL else "CRITICAL"


class WorkspaceHandler(Handler):
    """The root logger's handler in a run."""

    def __init__(self, connection: Connection, workspace: str) -> None:
        super().__init__()
        self._connection = connection
        self._workspace = workspace + os.sep
        self.script: str | None = None

    def emit(self, record: LogRecord) -> None:
        path = record.pathname
        if not path.startswith(self._workspace) and path != self.script:
            return
        try:
            message = record.getMessage()
        except Exception as problem:
            message = f"{record.msg!s} (arguments do not fit: {problem})"
        if self._connection.detached:
            os.write(2, f"{record.levelname}: {message}\n".encode("utf-8", "replace"))
            return
        data = _extra(record.__dict__) if len(record.__dict__) > _PLAIN else ""
        level, at = level_name(record.levelno), int(record.created * 1e6)
        send_line(self._connection, level, message, data, at)
        if record.exc_info and record.exc_info[0] is not None:
            text = "".join(traceback.format_exception(*record.exc_info))
            send_line(self._connection, "TRACEBACK", text.rstrip(), at=at)
        if record.stack_info:
            send_line(self._connection, "TRACEBACK", self._own_part(record.stack_info), at=at)

    def _own_part(self, stack: str) -> str:
        """The text of a stack from the first frame that is not ours."""
        title, _, frames = stack.partition("\n")
        begins = (frames.find(f'  File "{place}') for place in (self._workspace, self.script) if place)
        return f"{title}\n{frames[min((at for at in begins if at >= 0), default=0) :]}"


def _extra(members: dict[str, Any]) -> str:
    """What `extra=` has added to a record."""
    extra = sorted(members.keys() - _STANDARD)
    return _object((name, members[name]) for name in extra) if extra else ""


def _object(members: Iterable[tuple[str, Any]]) -> str:
    shown = (f"{json.dumps(name)}:{describe(value, converts=True)}" for name, value in members)
    return "{" + ",".join(shown) + "}"


class PrintStream(io.TextIOBase):
    """`sys.stdout` and `sys.stderr` of a run: each finished line is a DEBUG log line.

    `buffer` and `fileno()` lead to the real descriptor, which the worker captures as well.
    """

    def __init__(self, connection: Connection, fd: int) -> None:
        self._connection = connection
        self._fd = fd
        self._line = ""
        self._continues = False
        self._raw: IO[bytes] | None = None

    encoding = "utf-8"
    errors = "replace"

    @property
    def buffer(self) -> IO[bytes]:
        if self._raw is None or self._raw.closed:
            self._raw = cast("IO[bytes]", os.fdopen(os.dup(self._fd), "wb", 0))
        return self._raw

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def reconfigure(self, **_options: Any) -> None:
        """Accepted, as scripts ask for UTF-8; there is nothing to choose."""

    def close(self) -> None:
        """Whoever prints after it, the next run of a warm process for one, is heard all the same."""
        self.finish()

    def write(self, text: str, /) -> int:
        if self._connection.detached:
            return os.write(self._fd, text.encode("utf-8", "replace"))
        if "\n" in text:
            *lines, rest = text.split("\n")
            lines[0] = self._line + lines[0]
            self._line = rest
            for line in lines:
                self._send(line)
        else:
            self._line += text
            while len(self._line) > MAX_MESSAGE:
                piece, self._line = self._line[:MAX_MESSAGE], self._line[MAX_MESSAGE:]
                self._send(piece, goes_on=True)
        return len(text)

    def finish(self) -> None:
        """Send a last line that has no newline."""
        if self._line:
            line, self._line = self._line, ""
            self._send(line)

    def _send(self, text: str, goes_on: bool = False) -> None:
        # A secret that lies across two pieces is masked in both: the worker is told which lines are pieces.
        cut = (',"continues":true' if self._continues else "") + (',"goes_on":true' if goes_on else "")
        self._continues = goes_on
        send_line(self._connection, "DEBUG", text, cut=cut)


def activate(handler: WorkspaceHandler, out: PrintStream, err: PrintStream) -> None:
    """Route logging and printing of this process into the run."""
    logging.getLogger().handlers[:] = [handler]
    sys.stdout, sys.stderr = out, err


def prepare() -> None:
    """What every run needs and the template can do once."""
    logging.addLevelName(TRACEBACK, "TRACEBACK")
    logging.getLogger().setLevel(logging.DEBUG)
    # asyncio announces its selector at DEBUG for every loop, which nobody would get to see.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # Runs leave by `_exit`, which would lose what C code has printed into a buffer.
    LIBC.setvbuf(ctypes.c_void_p.in_dll(LIBC, "stdout"), None, _IONBF, 0)
