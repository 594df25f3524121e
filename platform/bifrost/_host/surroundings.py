"""Settings of a whole process that a run may change, put back before the next run of a pooled one.

What files set while they are loaded stays, as their modules do: those are not executed again. All else that
is named here is put back to what the first run found; settings of the interpreter beyond it, such as warnings
and the recursion limit, are not. Most runs change nothing, and are not to pay for those that do: what can be
compared for next to nothing is written only where it differs.
"""

from __future__ import annotations

import asyncio
import decimal
import functools
import os
import random
import signal
import socket
import sys
import time
from _signal import getsignal  # type: ignore[import-not-found]  # that of `signal` looks for an enum first
from asyncio import AbstractEventLoop
from contextvars import copy_context
from typing import Any

from . import logs
from .loggers import Loggers

_SIGNALS = (
    *(signal.SIGTERM, signal.SIGXCPU, signal.SIGINT, signal.SIGALRM, signal.SIGCHLD),
    *(signal.SIGPIPE, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
)
_SPENT = object()
"""Stands for the loop of plain code that was given none, since there has been one before."""


class Surroundings:
    """Made in the template, when it is set up as each run is to find it."""

    def __init__(self, handler: logs.WorkspaceHandler, out: logs.PrintStream, err: logs.PrintStream) -> None:
        self._out, self._err = out, err
        self._signals = [(int(number), getsignal(number)) for number in _SIGNALS]
        self._mask = os.umask(0o077)
        os.umask(self._mask)
        self._folder = os.getcwd()
        self._loggers = Loggers(handler)
        self._environment: dict[bytes, bytes] = {}
        self._timeout: float | None = None
        self._path: list[str] = []
        self._arithmetic: decimal.Context | None = None
        """Of `decimal`, where it was used: one object that a context variable holds, and runs can change."""
        self._generator = _Generator()

    def keep(self) -> None:
        """Take what files have set while they were loaded for what later runs find."""
        self._environment = _environment().copy()
        self._timeout = socket.getdefaulttimeout()
        self._path = sys.path.copy()
        self._loggers.keep()
        self._generator.keep()
        is_used = any(isinstance(value, decimal.Context) for value in copy_context().values())
        self._arithmetic = decimal.getcontext().copy() if is_used else None

    def set_variable(self, name: str, value: str | None) -> None:
        """Change the environment, for this run and those after it."""
        kept, key = self._environment, name.encode()
        if value is not None:
            os.environ[name] = value
            kept[key] = os.fsencode(value)
        elif key in _environment():
            del os.environ[name]
            kept.pop(key, None)

    def restore(self) -> None:
        # To ask for these would take as long as to set them.
        os.chdir(self._folder)
        os.umask(self._mask)
        signal.alarm(0)
        for number, handler in self._signals:
            if getsignal(number) is not handler:
                signal.signal(number, handler)
        self._generator.restore()
        if sys.stdout is not self._out or sys.stderr is not self._err:
            sys.stdout, sys.stderr = self._out, self._err
        self._loggers.restore()
        if sys.gettrace() is not None:
            sys.settrace(None)
        if sys.getprofile() is not None:
            sys.setprofile(None)
        if socket.getdefaulttimeout() != self._timeout:
            socket.setdefaulttimeout(self._timeout)
        if sys.path != self._path:
            sys.path = self._path.copy()
        if self._arithmetic is not None:
            decimal.setcontext(self._arithmetic.copy())
        if _environment() != self._environment:
            self._restore_environment()

    def _restore_environment(self) -> None:
        now, kept = _environment(), self._environment
        zone = now.get(b"TZ")
        for name in [name for name in now if name not in kept]:
            del os.environ[os.fsdecode(name)]
        for name, value in kept.items():
            if now.get(name) != value:
                os.environ[os.fsdecode(name)] = os.fsdecode(value)
        if zone != kept.get(b"TZ"):
            time.tzset()


def _environment() -> dict[bytes, bytes]:
    return os.environ._data  # type: ignore[attr-defined,no-any-return]


class _Generator:
    """The generator of random numbers that `random` shares: what repeats in one run must not in others.

    What it is set to cannot be seen for little, and to seed it takes a while; so it tells when it was set.
    Where a file sets it while it is loaded, each run begins there, as it would in a process of its own.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._kept: Any = None
        self._set_to = random.setstate
        random.seed = self._telling(random.seed)
        random.setstate = self._telling(random.setstate)

    def _telling(self, function: Any) -> Any:
        def tell(*args: Any, **kwargs: Any) -> None:
            self._is_set = True
            function(*args, **kwargs)

        return functools.wraps(function)(tell)

    def keep(self) -> None:
        if self._is_set:
            self._kept, self._is_set = random.getstate(), False

    def restore(self) -> None:
        if self._kept is not None:
            self._set_to(self._kept)
        elif self._is_set:
            random.seed()
        self._is_set = False


def are_programs_alive() -> bool:
    """Whether what runs have started goes on. Collects what has ended, orphans too, as nobody else would."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def has_children() -> bool:
    """Whether there are processes of ours, going on or not collected yet."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def renew_loop(loop: AbstractEventLoop | None) -> AbstractEventLoop | None:
    """The loop for the next run: the same if nothing is left in it; plain code is given this one, too."""
    if loop is None and asyncio.events._event_loop_policy is None:  # type: ignore[attr-defined]
        return None
    if loop is not None and not _is_as_made(loop):
        loop.close()
        loop = None
    if _loop_of_plain_code() is not loop:
        forget_loops()
        if loop is not None:
            asyncio.set_event_loop(loop)
    return loop


def forget_loops() -> None:
    """Have asyncio forget the loops there were."""
    if sys.version_info < (3, 14):
        # One without a loop would remember that there was one, and make none for plain code that asks.
        asyncio.set_event_loop_policy(None)
    else:
        asyncio.set_event_loop(None)


def _loop_of_plain_code() -> object:
    """What `get_event_loop` would find, without having it make one."""
    policy = asyncio.events._event_loop_policy  # type: ignore[attr-defined]
    if policy is None:
        return None
    if type(policy).__module__ != "asyncio.unix_events":
        return _SPENT
    local = policy._local
    return local._loop or (_SPENT if getattr(local, "_set_called", False) else None)


def _is_as_made(loop: Any) -> bool:
    try:
        return not (
            loop._closed
            or loop._ready
            or loop._signal_handlers
            or loop._default_executor is not None
            or loop._exception_handler is not None
            or loop._task_factory is not None
            or loop._debug
            or (loop._scheduled and not all(timer._cancelled for timer in loop._scheduled))
        )
    except AttributeError:
        return False  # of another make: it does not show what is left in it
