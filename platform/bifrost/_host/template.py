"""The warm process that runs are forked from.

It imports what runs will need, once, compiles the workspace's files, and then only accepts, forks and reaps.
It holds no connection and no thread, and never executes workspace code: that happens in the children.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fcntl
import gc
import importlib.util
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from typing import NoReturn

from . import child, logs, memory
from .frames import pack, pack_value
from .importer import PROTECTED, CodeCache, install
from .index import python_files
from .isolation import Isolation
from .limits import address_space

COMMON = (
    *("asyncio", "base64", "collections", "concurrent.futures", "contextlib", "csv", "dataclasses"),
    *("datetime", "decimal", "email.message", "enum", "functools", "hashlib", "hmac", "html"),
    *("http.client", "io", "itertools", "json", "logging", "math", "operator", "pathlib", "random"),
    *("re", "secrets", "shutil", "socket", "ssl", "statistics", "string", "subprocess", "tempfile"),
    *("textwrap", "time", "traceback", "typing", "unicodedata", "urllib.error", "urllib.parse"),
    *("urllib.request", "uuid", "zoneinfo"),
)
# The SDK's modules, so that a run finds all of them in memory.
SDK = ("bifrost", "bifrost._http")

_PROTOCOL_FD = 200
_LISTEN_BACKLOG = 128


class Template:
    """The accept, fork and reap loop."""

    def __init__(self, path: str, workspace: str, *, control: int, sandbox: bool, cache: CodeCache) -> None:
        self.isolation = Isolation(sandbox=sandbox)
        self.child = child.Child(install(workspace, cache), address_space())
        self.runs: set[int] = set()
        self.null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.wake_read, self.wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, child.on_sigterm)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self.listener = _listen(path)
        self.control = control
        self.private = (control, self.listener.fileno(), self.null, self.wake_read, self.wake_write)

    def announce(self, modules: int, began: float) -> None:
        ready = {
            "t": "ready",
            "pid": os.getpid(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "isolation": self.isolation.kind,
            "modules": modules,
            "startup_ms": round((time.monotonic() - began) * 1000),
        }
        os.write(self.control, pack_value(ready))

    def serve(self) -> NoReturn:
        poll = select.poll()
        listener, lifeline = self.listener.fileno(), 0
        poll.register(listener, select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        poll.register(lifeline, select.POLLIN)
        while True:
            for fd, _event in poll.poll():
                if fd == listener:
                    self._accept()
                elif fd == self.wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self.wake_read, 4096)
                    self._reap()
                elif not os.read(lifeline, 4096):
                    self._end()

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError as problem:
            print(f"template: accept failed: {problem}", file=sys.stderr, flush=True)
            return
        with connection:
            try:
                self._fork(connection)
            except OSError as problem:
                # The worker sees the connection close without a pid and tries another time.
                print(f"template: cannot start a run: {problem}", file=sys.stderr, flush=True)

    def _fork(self, connection: socket.socket) -> None:
        output, captured = os.pipe2(os.O_CLOEXEC)
        try:
            self.isolation.before_fork()
            try:
                pid = os.fork()
                if pid == 0:
                    self._become_child(connection.fileno(), output, captured)
            finally:
                self.isolation.after_fork()
            self.runs.add(pid)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", output))]
            try:
                connection.sendmsg([pack(f'{{"t":"pid","pid":{pid}}}')], rights)
            except OSError:
                os.kill(pid, signal.SIGKILL)  # the worker hung up: nobody will start this run
        finally:
            os.close(output)
            os.close(captured)

    def _become_child(self, connection: int, output: int, captured: int) -> NoReturn:
        """Never returns: what follows in the caller belongs to the template alone."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.isolation.in_child()
            protocol = fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, _PROTOCOL_FD)
            os.dup2(self.null, 0)
            os.dup2(captured, 1)
            os.dup2(captured, 2)
            for fd in (connection, output, captured, *self.private):
                os.close(fd)
            self.child.serve(protocol)
        except BaseException as problem:
            os.write(2, f"the run could not be set up: {problem!r}\n".encode())
            os._exit(70)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid not in self.runs:
                continue  # an orphan of a run that is over
            self.runs.remove(pid)
            self.isolation.end_remains(pid, self.runs)
            killed = os.WIFSIGNALED(status)
            code = "null" if killed else os.WEXITSTATUS(status)
            name = os.WTERMSIG(status) if killed else "null"
            cpu = usage.ru_utime + usage.ru_stime
            frame = (
                f'{{"t":"exit","pid":{pid},"code":{code},"signal":{name},'
                f'"peak_memory_bytes":{usage.ru_maxrss * 1024},"cpu_seconds":{cpu:.6f}}}'
            )
            try:
                os.write(self.control, pack(frame))
            except OSError:
                self._end()

    def _end(self) -> NoReturn:
        """The worker is gone: end with everything that was started."""
        for pid in self.runs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in list(self.runs):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            self.runs.discard(pid)
            self.isolation.end_remains(pid, self.runs)
        os._exit(0)


def _listen(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    listener.listen(_LISTEN_BACKLOG)
    return listener


def preload(names: list[str]) -> None:
    """Import what can be imported; a module that fails will fail again, visibly, in the run that needs it."""
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException as problem:
            print(f"template: cannot preload {name}: {problem!r}", file=sys.stderr, flush=True)


def scan(workspace: str, cache: CodeCache) -> list[str]:
    """Compile the workspace's files, and name the installed modules they import."""
    wanted: set[str] = set()
    own: set[str] = set()
    for path in python_files(workspace, hidden=True):
        own.update(os.path.relpath(path, workspace).removesuffix(".py").split(os.sep))
        try:
            cache.load(path)
            with open(path, "rb") as file:
                tree = ast.parse(file.read())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue  # the index reports it
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                wanted.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                wanted.add(node.module)
    return sorted(name for name in wanted if _is_installed(name, own))


def _is_installed(name: str, own: set[str]) -> bool:
    top = name.partition(".")[0]
    if top in ("bifrost", "shared", "src") or (top in own and top not in PROTECTED):
        return False
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m bifrost._host.template")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--preload", default="")
    parser.add_argument("--sandbox", choices=("auto", "off"), default="auto")
    options = parser.parse_args()

    began = time.monotonic()
    # What an import prints must not end up between the control frames.
    control = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    os.dup2(2, 1)
    workspace = os.path.realpath(options.workspace)
    cache = CodeCache()
    extra = [name for name in options.preload.split(",") if name]
    preload([*COMMON, *SDK, *extra, *scan(workspace, cache)])
    logs.prepare()
    sandbox = options.sandbox == "auto"
    template = Template(options.socket, workspace, control=control, sandbox=sandbox, cache=cache)
    # The heap of the template is shared with its children: no collection may touch, and so copy, its pages.
    gc.collect()
    gc.freeze()
    gc.disable()
    memory.use_huge_pages()
    template.announce(len(sys.modules), began)
    template.serve()


if __name__ == "__main__":
    main()
