"""The process tree of a run: killing one process ends all it has started.

- `pid_namespace`: each run is process 1 of a PID namespace of its own, which the kernel kills with it.
- `reaper`: where namespaces are refused. A run adopts its own orphans; when it ends the template, marked as
  subreaper, inherits what is left and kills it until nothing is.
- `session`: a session per run, and no more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Collection

from .libc import CLONE_NEWPID, LIBC

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

_prctl = LIBC.prctl
_unshare = LIBC.unshare
_setns = LIBC.setns
_SIGKILL = int(signal.SIGKILL)


class Tree:
    """How this template ends what its runs have started; found out once, at start."""

    def __init__(self, *, wanted: bool) -> None:
        self._own_namespace = -1
        self.kind = "session"
        if wanted:
            self.kind = "pid_namespace" if self._namespaces_work() else "reaper"
        if self.kind == "reaper":
            _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        elif self.kind == "pid_namespace":
            os.kill = _kill

    def before_fork(self) -> None:
        """Arrange for the next fork to be the first process of a namespace."""
        if self.kind == "pid_namespace" and _unshare(CLONE_NEWPID) != 0:
            raise _error("unshare")

    def after_fork(self) -> None:
        # The kernel refuses a second unshare until we are back in our own namespace.
        if self.kind == "pid_namespace" and _setns(self._own_namespace, CLONE_NEWPID) != 0:
            raise _error("setns")

    def begin_in_child(self) -> None:
        """The first thing a run does, still with the rights of the template."""
        os.setsid()
        if self.kind == "pid_namespace":
            os.close(self._own_namespace)

    def end_with_parent(self) -> None:
        """Once the run is who it will be: the kernel forgets this when the user changes."""
        _prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        if self.kind == "reaper":
            _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def end_remains(self, pid: int, living: Collection[int]) -> None:
        """Kill what a run that just ended left behind; `living` are the runs that go on."""
        if self.kind == "session":
            try:
                os.killpg(pid, signal.SIGKILL)
            except OSError:
                return
        elif self.kind == "reaper":
            while strangers := _children().difference(living):
                for stranger in strangers:
                    os.kill(stranger, signal.SIGKILL)
                    os.waitpid(stranger, 0)

    def _namespaces_work(self) -> bool:
        """Try it in a process of its own: one that cannot get back from a namespace can never fork again.

        Only root in its namespace can: a user namespace of our own would let us make PID namespaces, but not
        return to the one we are in, which somebody else owns.
        """
        try:
            self._own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        pid = os.fork()
        if pid == 0:
            works = False
            with contextlib.suppress(OSError):
                works = self._forks_twice_into_namespaces()
            os._exit(0 if works else 1)
        if os.waitpid(pid, 0)[1] == 0:
            return True
        os.close(self._own_namespace)
        return False

    def _forks_twice_into_namespaces(self) -> bool:
        for _ in range(2):
            if _unshare(CLONE_NEWPID) != 0:
                return False
            pid = os.fork()
            if pid == 0:
                os._exit(0 if os.getpid() == 1 else 1)
            if os.waitpid(pid, 0)[1] != 0 or _setns(self._own_namespace, CLONE_NEWPID) != 0:
                return False
        return True


def _children() -> set[int]:
    """Direct children of this process, adopted ones included."""
    try:
        with open("/proc/thread-self/children") as file:
            return {int(pid) for pid in file.read().split()}
    except OSError:
        pass
    found = set()
    own = os.getpid()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == own:
                found.add(int(entry))
    return found


_os_kill = os.kill


def _kill(pid: int, number: int, /) -> None:
    """`os.kill` in runs: the kernel ignores fatal signals that process 1 of a namespace sends itself."""
    _os_kill(pid, number)
    # Still here: the signal was handled, or ignored only because of who we are.
    if pid in (0, 1) and os.getpid() == 1 and _is_fatal(number):
        _die()


def _is_fatal(number: int) -> bool:
    harmless = (
        0,
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGURG,
        signal.SIGWINCH,
        signal.SIGSTOP,
        signal.SIGTSTP,
    )
    if number in harmless or number in (signal.SIGTTIN, signal.SIGTTOU):
        return False
    return number == signal.SIGKILL or signal.getsignal(number) == signal.SIG_DFL


def _die() -> None:
    """Be killed: a filter that ends us at the next system call takes what no signal of our own can.

    The template tells of it as of the SIGKILL it stands for.
    """
    from . import seccomp

    seccomp.take_on(seccomp.deadly())
    os.getppid()
    os._exit(137)


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
