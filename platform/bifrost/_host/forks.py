"""What happens in a process when it is copied.

`logging` and `threading` renew their locks in every copy, in case another thread held one. The template has
no other thread, and each page those renewals write is one the run has to copy; so they are left out where the
template forks a run, and take place where user code forks.
"""

from __future__ import annotations

import os
import signal
from _thread import get_ident
from collections.abc import Callable
from typing import Any

Hook = Callable[[], object]

_NEEDLESS_IN_RUNS = ("logging", "threading")

_before: list[Hook] = []
_in_child: list[Hook] = []
_in_parent: list[Hook] = []
_register = os.register_at_fork
_starting_run = False
_masks: dict[int, set[int | signal.Signals]] = {}
"""Which signals the threads that are forking had blocked before."""


def install() -> None:
    """Take over registrations; call it before the modules above are imported."""

    def register_at_fork(
        *, before: Hook | None = None, after_in_child: Hook | None = None, after_in_parent: Hook | None = None
    ) -> None:
        hooks = {"before": before, "after_in_child": after_in_child, "after_in_parent": after_in_parent}
        given: dict[str, Any] = {name: hook for name, hook in hooks.items() if hook is not None}
        if not all(getattr(hook, "__module__", "") in _NEEDLESS_IN_RUNS for hook in given.values()):
            _register(**given)
            return
        if before is not None:
            _before.insert(0, before)
        if after_in_child is not None:
            _in_child.append(after_in_child)
        if after_in_parent is not None:
            _in_parent.append(after_in_parent)

    os.register_at_fork = register_at_fork
    _register(before=_run_before, after_in_child=_run_in_child, after_in_parent=_run_in_parent)


def in_copies_of_runs(hook: Hook) -> None:
    """Have `hook` called in each process that user code forks."""
    _in_child.append(hook)


def fork_run() -> int:
    """Fork the process of a run; only from a process with a single thread."""
    global _starting_run
    _starting_run = True
    try:
        return os.fork()
    finally:
        _starting_run = False


def _run_before() -> None:
    if not _starting_run:
        # A SIGTERM that reached a copy before our handler is gone from it would be lost: it waits until then.
        _masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
        for hook in _before:
            hook()


def _run_in_child() -> None:
    if not _starting_run:
        for hook in _in_child:
            hook()
        _unblock()


def _run_in_parent() -> None:
    if not _starting_run:
        for hook in _in_parent:
            hook()
        _unblock()


def _unblock() -> None:
    if (mask := _masks.pop(get_ident(), None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
