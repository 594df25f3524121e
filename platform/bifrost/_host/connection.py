"""The run's private socket: log lines and results out, start frames in, calls both ways.

One process owns the connection: after a fork by user code the copy is `detached`, so that a worker process of
`multiprocessing` can neither interleave frames nor report a second result. Replies are matched by id, which
lets any number of calls be in flight; whoever waits reads for everybody. Only one thread reads at a time, as
another would wait for what the first has taken, and after each read all look whether theirs has come.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import threading
from _thread import get_ident
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Generator
from itertools import count
from typing import Any, NoReturn

from .. import errors
from .frames import FrameBuffer, pack, quote

_READ_SIZE = 1 << 16
_DETACHED = "the Bifrost SDK cannot be used in a forked process"
_ENDED = {"error": {"message": "the run has ended"}}


class Connection:
    """The child's end of one run connection."""

    def __init__(self) -> None:
        self.fd = -1
        self.detached = True
        self._frames = FrameBuffer()
        self._calls: dict[int, Call] = {}
        self._ids = count(1)
        self._start: dict[str, Any] | None = None
        self._sending = threading.Lock()
        self._turn = threading.Condition()
        self._reader = 0
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
        # A thread that a run left behind may be reading.
        self._read_until(lambda: self._start is not None)
        assert self._start is not None
        start, self._start = self._start, None
        return start

    def call(self, method: str, args: dict[str, Any]) -> Call:
        """Ask the worker; the request is on its way when this returns."""
        if self.detached:
            raise RuntimeError(_DETACHED)
        call = Call(self, next(self._ids))
        arguments = json.dumps(args, ensure_ascii=False, allow_nan=False)
        frame = pack(f'{{"t":"call","id":{call.id},"method":{quote(method)},"args":{arguments}}}')
        # Known before it is sent, so that the answer finds it; but not before it is sure to be sent, since
        # nobody answers what was refused here, and the run would wait for that at its end.
        self._calls[call.id] = call
        self.send(frame)
        return call

    def settle(self) -> None:
        """Wait for calls nobody awaited, so that what was asked for has happened when the run ends."""
        # Copied, since threads of the run go on calling; what they ask from here on comes too late.
        for call in list(self._calls.values()):
            self._read_until(call.is_settled)

    def forget_calls(self) -> None:
        """Answer what is still open, so that no thread waits, and reads, in the run after this one."""
        for call in list(self._calls.values()):
            if self._calls.pop(call.id, None) is not None:
                call.resolve(_ENDED)

    def detach(self) -> None:
        """This process speaks for no run; called in every one that user code forks."""
        self.detached = True
        self._sending = threading.Lock()
        self._turn = threading.Condition()
        self._reader = 0
        # Their answers belong to the process that asked.
        self._calls.clear()

    def wait(self, call: Call) -> None:
        if call.reply is None:
            if self.detached:
                raise RuntimeError(_DETACHED)
            self._read_until(call.is_answered)

    def watch(self, loop: AbstractEventLoop) -> None:
        if self.detached:
            raise RuntimeError(_DETACHED)
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
        is_reading = False
        try:
            with self._turn:
                if self._reader:
                    return  # it dispatches for us
                self._reader = get_ident()
                is_reading = True
            # What the loop was told of may have been read since: to wait for more would stop the loop.
            if self._is_readable():
                self._receive()
        finally:
            if is_reading:
                self._pass_turn(0)

    def _read_until(self, is_over: Callable[[], bool]) -> None:
        """Read, or let another thread read, until `is_over`."""
        own = get_ident()
        while not is_over():
            is_reading, before = False, 0
            try:
                with self._turn:
                    # In a handler that interrupted our own reading, nobody else would do it.
                    while self._reader not in (0, own) and not is_over():
                        self._turn.wait()
                    if is_over():
                        return
                    before = self._reader
                    self._reader = own
                    is_reading = True
                self._receive()
            finally:
                if is_reading:
                    self._pass_turn(before)

    def _pass_turn(self, reader: int) -> None:
        with self._turn:
            self._reader = reader
            self._turn.notify_all()

    def _is_readable(self) -> bool:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(0))

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

    def is_answered(self) -> bool:
        return self.reply is not None

    def is_settled(self) -> bool:
        return self.reply is not None or self.abandoned

    def resolve(self, reply: dict[str, Any]) -> None:
        self.reply = reply
        waiter, loop = self._waiter, self._loop
        if waiter is None or loop is None or waiter.done():
            return
        if asyncio._get_running_loop() is loop:
            _wake(waiter)
            return
        try:
            loop.call_soon_threadsafe(_wake, waiter)
        except RuntimeError:
            # Its loop is closed, so nobody waits any more; whoever reads for everybody must not fail by that.
            return

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
