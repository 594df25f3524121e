"""The accept, fork and reap loop of the template.

Every object that is touched here or in a run is a page to copy, on both sides of the fork. That is why what
all runs have in common is set up once, in the template, for its children to inherit.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from _socket import socket as RawSocket
from itertools import product
from typing import NoReturn

from . import child, forks
from .frames import pack, pack_value
from .importer import CodeCache, install
from .isolation import Isolation, Wanted
from .limits import address_space, catch_cpu_signal

_PROTOCOL_FD, _LAST_FD = 200, 1 << 20
_LISTEN_BACKLOG = 128
_REHEARSALS = 40
_LAST_TIDYINGS = 50
_DESCRIPTOR, _PEER = struct.Struct("i"), struct.Struct("3i")


class Server:
    """Forks a run for each connection. It holds no connection and no thread of its own."""

    def __init__(self, path: str, *, control: int, wanted: Wanted) -> None:
        self.isolation = Isolation(wanted)
        self.cache = CodeCache()
        self.worker = os.getppid()
        self.runs: dict[int, int] = {}
        """Processes, by the descriptor that becomes readable when they end."""
        self.poll = select.poll()
        self.null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        signal.signal(signal.SIGTERM, child.on_sigterm)
        catch_cpu_signal()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self.listener = _listen(path)
        self.control = control
        # Last, as it remembers how runs are to find the process.
        self.child = child.Child(install(wanted.workspace, self.cache), address_space(), self.isolation)

    def compile(self, paths: list[str]) -> None:
        """Have the code of workspace files at hand for all runs."""
        finder = self.child.finder
        for path in paths:
            finder.file(os.path.relpath(path, finder.root))
            with contextlib.suppress(OSError, SyntaxError, ValueError, RecursionError, MemoryError):
                self.cache.load(path)

    def rehearse(self) -> None:
        """Run workflows of our own, in this process, until the interpreter has settled into the code.

        CPython fills caches inside the code it runs and goes on doing so for a dozen calls. Each run would
        begin that anew, in copies of pages that it need not have copied.
        """
        path = os.path.join(os.path.dirname(__file__), "rehearsal.py")
        there, here = socket.socketpair()
        with there, here:
            for number, function in product(range(_REHEARSALS), ("plain", "awaited")):
                start = {
                    "t": "start",
                    "workflow": {"path": path, "function": function},
                    "context": {"organization": {"id": "o", "name": "Rehearsal"}},
                    "parameters": {"number": number},
                    "limits": {"result_bytes": 1 << 20},
                    "capture_variables": True,
                }
                here.sendall(pack_value(start))
                self.child.rehearse(there.fileno(), path)
                here.recv(1 << 16)
        self.child.end_rehearsals()

    def announce(self, modules: int, began: float) -> None:
        ready = {
            "t": "ready",
            "pid": os.getpid(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "isolation": self.isolation.kind,
            "pieces": [piece.name for piece in self.isolation.pieces if piece.used],
            "modules": modules,
            "startup_ms": round((time.monotonic() - began) * 1000),
        }
        os.write(self.control, pack_value(ready))

    def serve(self) -> NoReturn:
        listener, lifeline = self.listener.fileno(), 0
        self.poll.register(listener, select.POLLIN)
        self.poll.register(lifeline, select.POLLIN)
        while True:
            for fd, _events in self.poll.poll(pause := self.isolation.pause()):
                if fd == listener:
                    self._accept()
                elif fd in self.runs:
                    self._reap(fd)
                elif not os.read(lifeline, 4096):
                    self._end()
            if pause is not None:
                self.isolation.tidy()

    def _accept(self) -> None:
        try:
            # The plain type: `accept` would make enums of what we know, in an object ten times as large.
            descriptor, _ = self.listener._accept()  # type: ignore[attr-defined]
        except OSError as problem:
            complain(f"accept failed: {problem}")
            return
        connection = RawSocket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
        try:
            if self._is_worker(connection):
                self._fork(connection)
        except OSError as problem:
            # The worker sees the connection close without a pid and tries another time.
            complain(f"cannot start a run: {problem}")
        finally:
            connection.close()

    def _is_worker(self, connection: RawSocket) -> bool:
        """Whether our worker connected; a run that has its user, and so can open the socket, gets nothing."""
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        return bool(_PEER.unpack(peer)[0] == self.worker)

    def _fork(self, connection: RawSocket) -> None:
        output, captured = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                number = self.isolation.next_run(captured)
                self.isolation.before_fork()
                pid = forks.fork_run()
                if pid == 0:
                    self._become_child(connection.fileno(), captured)
                group = self.isolation.began(pid)
            finally:
                self.isolation.after_fork()
            self._watch(pid)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTOR.pack(output))]
            try:
                connection.sendmsg([pack(_forked(pid, number, group))], rights)
            except OSError:
                os.kill(pid, signal.SIGKILL)  # the worker hung up: nobody will start this run
        finally:
            os.close(output)
            os.close(captured)

    def _watch(self, pid: int) -> None:
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self.isolation.end_remains(pid, self.runs.values())
            raise
        self.runs[handle] = pid
        self.poll.register(handle, select.POLLIN)

    def _become_child(self, connection: int, captured: int) -> NoReturn:
        """Never returns: what follows in the caller belongs to the template alone."""
        try:
            self.isolation.in_child()
            os.dup2(self.null, 0)
            os.dup2(captured, 1)
            os.dup2(captured, 2)
            os.dup2(connection, _PROTOCOL_FD, inheritable=False)
            free = self.isolation.keep(_PROTOCOL_FD + 1)
            os.closerange(3, _PROTOCOL_FD)
            os.closerange(free, _LAST_FD)
            self.isolation.stand_ready()
            self.child.enter(self.isolation.folder)
            self.child.serve(_PROTOCOL_FD)
        except BaseException as problem:
            os.write(2, f"the run could not be set up: {problem!r}\n".encode())
            os._exit(70)

    def _reap(self, handle: int) -> None:
        pid = self.runs.pop(handle)
        self.poll.unregister(handle)
        os.close(handle)
        _, status, usage = os.wait4(pid, 0)
        group = self.isolation.end_remains(pid, self.runs.values())
        killed = os.WIFSIGNALED(status)
        code = "null" if killed else os.WEXITSTATUS(status)
        name: int | str = os.WTERMSIG(status) if killed else "null"
        if name == signal.SIGSYS and self.isolation.kind == "pid_namespace":
            name = int(signal.SIGKILL)  # see `tree`: no run dies of it otherwise
        cpu = usage.ru_utime + usage.ru_stime
        frame = (
            f'{{"t":"exit","pid":{pid},"code":{code},"signal":{name},'
            f'"peak_memory_bytes":{max(usage.ru_maxrss * 1024, group.peak)},"cpu_seconds":{cpu:.6f},'
            f'"out_of_memory":{"true" if group.out_of_memory else "false"}}}'
        )
        try:
            os.write(self.control, pack(frame))
        except OSError:
            self._end()

    def _end(self) -> NoReturn:
        """The worker is gone: end with everything that was started."""
        pids = list(self.runs.values())
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for at, pid in enumerate(pids, 1):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            self.isolation.end_remains(pid, pids[at:])
        for _ in range(_LAST_TIDYINGS):
            if (pause := self.isolation.pause()) is None:
                break
            time.sleep(pause / 1000)
            self.isolation.tidy()
        os._exit(0)


def _forked(pid: int, number: int, group: str | None) -> str:
    named = f'"{group}"' if group is not None else "null"
    return f'{{"t":"pid","pid":{pid},"number":{number},"cgroup":{named}}}'


def complain(problem: str) -> None:
    """A diagnostic of the template itself, for the worker's standard error."""
    os.write(2, f"template: {problem}\n".encode("utf-8", "replace"))


def _listen(path: str) -> RawSocket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = RawSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    listener.listen(_LISTEN_BACKLOG)
    return listener
