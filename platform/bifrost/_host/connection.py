"""The run's private socket: log lines and results out, start frames in, calls both ways.

One process owns the connection: after a fork by user code the copy is `detached`, so that a worker process of
`multiprocessing` can neither interleave frames nor report a second result. Replies are matched by id, which
lets any number of calls be in flight; whoever waits reads for everybody.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Generator
from typing import Any, NoReturn

from .. import errors
from .frames import FrameBuffer, pack, quote

_READ_SIZE = 1 << 16


class Connection:
    """The child's end of one run connection."""

    def __init__(self) -> None:
        self.fd = -1
        self.detached = True
        self._frames = FrameBuffer()
        self._calls: dict[int, Call] = {}
        self._last_id = 0
        self._start: dict[str, Any] | None = None
        self._sending = threading.Lock()
        self._receiving = threading.RLock()
        self._watchers: dict[AbstractEventLoop, int] = {}

    def attach(self, fd: int) -> None:
        """From now on this process speaks for a run."""
        self.fd = fd
        self.detached = False

    def send(self, frame: bytes) -> None:
        """Write one frame; a vanished worker ends the process, since nobody is left to report to."""
        with self._sending:
            try:
                sent = os.write(self.fd, frame)
                while sent < len(frame):
                    frame = frame[sent:]
                    sent = os.write(self.fd, frame)
            except OSError:
                self._worker_is_gone()

    def next_start(self) -> dict[str, Any]:
        """Block until the worker hands over a run."""
        while self._start is None:
            self._receive()
        start, self._start = self._start, None
        return start

    def call(self, method: str, args: dict[str, Any]) -> Call:
        """Ask the worker; the request is on its way when this returns."""
        if self.detached:
            raise RuntimeError("the Bifrost SDK cannot be used in a forked process")
        self._last_id += 1
        call = Call(self, self._last_id)
        arguments = json.dumps(args, ensure_ascii=False, allow_nan=False)
        frame = pack(f'{{"t":"call","id":{call.id},"method":{quote(method)},"args":{arguments}}}')
        # Known before it is sent, so that the answer finds it; but not before it is sure to be sent, since
        # nobody answers what was refused here, and the run would wait for that at its end.
        self._calls[call.id] = call
        self.send(frame)
        return call

    def settle(self) -> None:
        """Wait for calls nobody awaited, so that what was asked for has happened when the run ends."""
        while self._calls and any(not call.abandoned for call in self._calls.values()):
            self._receive()

    def forget_calls(self) -> None:
        self._calls.clear()

    def detach(self) -> None:
        """This process speaks for no run; called in every one that user code forks."""
        self.detached = True
        self._sending = threading.Lock()
        self._receiving = threading.RLock()

    def wait(self, call: Call) -> None:
        while call.reply is None:
            with self._receiving:
                if call.reply is None:
                    self._receive()

    def watch(self, loop: AbstractEventLoop) -> None:
        waiting = self._watchers.get(loop, 0)
        if not waiting:
            loop.add_reader(self.fd, self._on_readable)
        self._watchers[loop] = waiting + 1

    def unwatch(self, loop: AbstractEventLoop) -> None:
        waiting = self._watchers.pop(loop) - 1
        if waiting:
            self._watchers[loop] = waiting
        else:
            loop.remove_reader(self.fd)

    def _on_readable(self) -> None:
        # Another thread that waits is reading already and dispatches for us.
        if self._receiving.acquire(blocking=False):
            try:
                self._receive()
            finally:
                self._receiving.release()

    def _receive(self) -> None:
        try:
            data = os.read(self.fd, _READ_SIZE)
        except ConnectionError:
            data = b""
        if not data:
            self._worker_is_gone()
        self._frames.feed(data)
        while (frame := self._frames.next()) is not None:
            if frame.get("t") == "start":
                self._start = frame
            elif (call := self._calls.pop(frame.get("id", 0), None)) is not None:
                call.resolve(frame)

    def _worker_is_gone(self) -> NoReturn:
        os._exit(0)


class Call:
    """An outstanding question: `await` it, or take `result()` and block."""

    __slots__ = ("_connection", "_loop", "_waiter", "abandoned", "id", "reply")

    def __init__(self, connection: Connection, call_id: int) -> None:
        self.id = call_id
        self.reply: dict[str, Any] | None = None
        self.abandoned = False
        self._connection = connection
        self._waiter: Future[None] | None = None
        self._loop: AbstractEventLoop | None = None

    def resolve(self, reply: dict[str, Any]) -> None:
        self.reply = reply
        waiter, loop = self._waiter, self._loop
        if waiter is None or loop is None:
            return
        if asyncio._get_running_loop() is loop:
            _wake(waiter)
        else:
            loop.call_soon_threadsafe(_wake, waiter)

    def result(self) -> Any:
        """The answer, blocking until it is there."""
        self._connection.wait(self)
        return self._unwrap()

    def __await__(self) -> Generator[Any, None, Any]:
        if self.reply is None:
            self._loop = loop = asyncio.get_running_loop()
            if self._waiter is None or self._waiter.done():
                self._waiter = loop.create_future()
            self._connection.watch(loop)
            try:
                yield from self._waiter
            except asyncio.CancelledError:
                self.abandoned = True
                raise
            finally:
                self._connection.unwatch(loop)
        return self._unwrap()

    def _unwrap(self) -> Any:
        assert self.reply is not None
        error = self.reply.get("error")
        if error is not None:
            raise errors.from_reply(str(error.get("type", "")), str(error.get("message", "")))
        return self.reply.get("ok")


def _wake(waiter: Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
