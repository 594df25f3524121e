"""What a run is enclosed in: the pieces, which of them this kernel grants, and putting them on.

- process tree: see `tree`.
- user: where the template is root, each process has a user of its own, so that its files, its memory and its
  count of processes are nobody else's.
- system calls: see `seccomp`; file system, and the network where ports are named: see `landlock`.
- memory: what a process has is bounded by `limits`, what a run and all it has started have together by
  `cgroups`; and neither the template nor a run can be read by others.

A piece that cannot be had is left out and named; with `required` the template does not start without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import cgroups, landlock, seccomp
from .libc import LIBC
from .tree import Tree

MODES = ("required", "best-effort", "off")
_CLONE_NEWNET = 0x40000000
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_SHARED_MEMORY = "/dev/shm"
_CAPABILITIES, _NONE = struct.pack("Ii", 0x20080522, 0), bytes(24)

Owner = tuple[int, int]
"""User id and group id."""


class Refused(Exception):
    """What is required cannot be had."""


class Piece(NamedTuple):
    """One part of the isolation."""

    name: str
    available: bool
    used: bool
    needed: bool
    """Whether `required` insists on it."""
    detail: str
    """What it does, or why it cannot be had."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the worker asks for."""

    mode: str = "best-effort"
    network: str = "open"
    """`open`, `none`, or the TCP ports that may be connected to, separated by commas."""
    owner: Owner | None = None
    owners: int = 1
    """How many users there are, counted from `owner`."""
    folder: str | None = None
    """Where each process has its private directory."""
    workspace: str = ""
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    cgroup: cgroups.Limits | None = None
    """The control group of each process; None where the worker has none to give."""

    @property
    def ports(self) -> tuple[int, ...] | None:
        """The ports that may be connected to; None if it is not about ports."""
        if self.network in ("open", "none"):
            return None
        return tuple(int(port) for port in self.network.split(","))


class Isolation:
    """How this template encloses its runs; found out once, at start, and then the same for all."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        is_on = wanted.mode != "off"
        # Every child inherits it: no setuid program gives a run more rights than it has.
        LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        self.tree = Tree(wanted=is_on)
        self.kind = self.tree.kind
        self.pieces = find_pieces(wanted, self.kind)
        missing = [piece for piece in self.pieces if piece.needed and not piece.available]
        if wanted.mode == "required" and missing:
            raise Refused("; ".join(f"{piece.name}: {piece.detail}" for piece in missing))
        self._reach: landlock.Reach | None = None
        if self._uses("file system"):
            self._reach = landlock.Reach(landlock.version(), wanted.ports, wanted.workspace)
            self._reach.readable, self._reach.writable = wanted.readable, wanted.writable
        self._rules: landlock.Rules | None = None
        self._cgroups = cgroups.Cgroups(wanted.cgroup) if wanted.cgroup is not None else None
        self._peak = -1
        # Two templates of one host begin at different users.
        self._serial = int.from_bytes(os.urandom(2)) if wanted.owners > 1 else 0
        self._users: dict[int, int] = {}
        """Who the processes are, where each has a user of its own."""
        self.folder: str | None = None
        """The private directory of this process, in a run."""
        if is_on:
            LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        if wanted.network == "none" and self._uses("network"):
            LIBC.unshare(_CLONE_NEWNET)
        here = seccomp.machine()
        if here is not None and self._uses("system calls"):
            seccomp.take_on(seccomp.program(here, makes_pid_namespaces=self.kind == "pid_namespace"))

    def _uses(self, name: str) -> bool:
        return any(piece.used for piece in self.pieces if piece.name == name)

    def next_run(self, pipe: int) -> int:
        """Settle who the next process is, and give the number that names its directory.

        `pipe` becomes its own, so that it may open `/dev/stdout`, which asks for rights on what it leads to.
        """
        self._serial += 1
        if (owner := self._owner()) is not None:
            os.fchown(pipe, *owner)
        if self._cgroups is not None:
            self._cgroups.make()
        return self._serial

    def began(self, pid: int) -> str | None:
        """The process is there; gives the name of its control group."""
        if self.wanted.owners > 1 and (owner := self._owner()) is not None:
            self._users[pid] = owner[0]
        return self._cgroups.began(pid) if self._cgroups is not None else None

    def before_fork(self) -> None:
        # Here, where nothing has to be copied for it, and not in the new process.
        if self._reach is not None:
            self._rules = self._reach.rules()
        self.tree.before_fork()

    def after_fork(self) -> None:
        if self._rules is not None:
            os.close(self._rules.handle)
            self._rules = None
        if self._cgroups is not None:
            self._cgroups.abandon()
        self.tree.after_fork()

    def in_child(self) -> None:
        """What a process does first, still with the rights of the template."""
        if self._cgroups is not None:
            self._peak = self._cgroups.enter()
        self.tree.begin_in_child()
        owner = self._owner()
        if self.wanted.folder is not None:
            self.folder = f"{self.wanted.folder}/{self._serial}"
            os.mkdir(self.folder, 0o700)
            if owner is not None:
                os.chown(self.folder, *owner)
        if owner is not None:
            _become(*owner)
        elif self.wanted.mode != "off" and os.geteuid() == 0:
            LIBC.capset(_CAPABILITIES, _NONE)  # root by name, for what it owns, and nothing else
        self.tree.end_with_parent()

    def keep(self, first: int) -> int:
        """Move what the process needs of us to descriptors from `first` on; gives the one after them."""
        if self._peak >= 0:
            os.dup2(self._peak, first, inheritable=False)
            self._peak = first
            first += 1
        if self._rules is not None:
            os.dup2(self._rules.handle, first, inheritable=False)
            self._rules.handle = first
            first += 1
        return first

    def stand_ready(self) -> None:
        """Do what takes time before a run is waiting; no descriptor of the template is open any more."""
        if self._rules is not None and self._reach is not None:
            self._reach.forget()
            if self.folder is not None:
                self._rules.use(self.folder)

    def enclose(self) -> None:
        """Before the first line of user code; a pooled process stays enclosed."""
        if self._rules is not None and self._reach is not None:
            self._reach.share_again(self._rules)
            self._rules.keep_to()
            self._rules = None

    def peak(self) -> int:
        """Bytes that this process and all it has started held at once, at most; 0 where nobody counts."""
        return cgroups.peak(self._peak)

    def end_remains(self, pid: int, living: Collection[int]) -> cgroups.Ending:
        """End what a process that just ended has started; `living` are the ones that go on."""
        ending = self._end_remains(pid, living)
        if (user := self._users.pop(pid, None)) is not None:
            _remove_all_of(user, _SHARED_MEMORY)
        return ending

    def _end_remains(self, pid: int, living: Collection[int]) -> cgroups.Ending:
        if self._cgroups is None:
            self.tree.end_remains(pid, living)
            return cgroups.Ending()
        if self.kind != "pid_namespace":
            self._cgroups.kill(pid)
        self.tree.end_remains(pid, living)
        return self._cgroups.ended(pid)

    def pause(self) -> int | None:
        """Milliseconds until `tidy` is to be called; None if there is nothing to tidy."""
        return self._cgroups.pause() if self._cgroups is not None else None

    def tidy(self) -> None:
        """Remove what could not be removed when its process ended."""
        if self._cgroups is not None:
            self._cgroups.remove_left()

    def _owner(self) -> Owner | None:
        if self.wanted.owner is None:
            return None
        offset = self._serial % self.wanted.owners
        return self.wanted.owner[0] + offset, self.wanted.owner[1] + offset


def find_pieces(wanted: Wanted, tree: str) -> list[Piece]:
    """Try each piece, in processes of their own."""
    is_on = wanted.mode != "off"
    pieces = [_tree_piece(tree, is_on), _user_piece(wanted)]
    calls = seccomp.machine() is not None and _works(_filter_works)
    detail = f"{_count()} calls are refused, and new namespaces" if calls else _why_no_filter()
    pieces.append(Piece("system calls", calls, calls and is_on, True, detail))
    known = landlock.version()
    files = known > 0 and _works(_rules_work)
    detail = f"Landlock {known}: only what a run needs can be reached" if files else landlock.why_not()
    pieces.append(Piece("file system", files, files and is_on, True, detail))
    pieces.append(_network_piece(wanted, known, is_on))
    detail = "each process of a run is limited"
    pieces.append(Piece("memory", True, True, False, detail))
    return pieces


def _tree_piece(kind: str, is_on: bool) -> Piece:
    details = {
        "pid_namespace": "each run has a PID namespace of its own",
        "reaper": "PID namespaces are refused (they need root); what a run leaves behind is found and killed",
        "session": "switched off: a session per run and no more",
    }
    return Piece("process tree", True, is_on, True, details[kind])


def _user_piece(wanted: Wanted) -> Piece:
    if wanted.owner is None:
        return Piece(
            "user", False, False, False, "runs have the user of the worker, which only root can change"
        )
    if wanted.owners == 1:
        return Piece("user", True, True, False, f"runs share the user {wanted.owner[0]}")
    last = wanted.owner[0] + wanted.owners - 1
    return Piece("user", True, True, False, f"each process has its own user, {wanted.owner[0]} to {last}")


def _network_piece(wanted: Wanted, known: int, is_on: bool) -> Piece:
    if wanted.network == "open":
        return Piece("network", True, False, False, "runs may connect to anything (RUN_NETWORK is open)")
    if wanted.network == "none":
        works = _works(lambda: LIBC.unshare(_CLONE_NEWNET) == 0)
        detail = "runs have no network" if works else "network namespaces are refused (they need root)"
    else:
        works = known >= landlock.TCP_SINCE
        why = "naming ports needs Landlock 4 (Linux 6.7)"
        detail = f"runs may connect to the TCP ports {wanted.network}" if works else why
    return Piece("network", works, works and is_on, True, detail)


def _works(trial: Callable[[], bool]) -> bool:
    """Try it in a process that ends afterwards."""
    pid = os.fork()
    if pid == 0:
        works = False
        with contextlib.suppress(BaseException):
            works = trial()
        os._exit(0 if works else 1)
    return os.waitpid(pid, 0)[1] == 0


def _filter_works() -> bool:
    here = seccomp.machine()
    assert here is not None
    LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if not seccomp.take_on(seccomp.program(here, makes_pid_namespaces=False)):
        return False
    # Asking for the serial number of no key: harmless, and answered with another error without the filter.
    return LIBC.syscall(here.refused["keyctl"], 99, 0, 0, 0, 0) == -1 and ctypes.get_errno() == 1


def _rules_work() -> bool:
    LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    landlock.Rules(landlock.version(), None).keep_to()
    try:
        os.close(os.open(__file__, os.O_RDONLY))
    except PermissionError:
        return True
    return False


def _count() -> int:
    here = seccomp.machine()
    return len(here.refused) + len(seccomp.EVERYWHERE) if here else 0


def _why_no_filter() -> str:
    if seccomp.machine() is None:
        return f"the numbers of system calls of {os.uname().machine} are not known"
    return "the kernel refuses filters (CONFIG_SECCOMP_FILTER)"


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # Runs may share a user, and that alone would let one read the memory of another.
    LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _remove_all_of(user: int, folder: str) -> None:
    """Remove what a user without a process has left in a folder that all share."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_uid != user:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def report(pieces: list[Piece]) -> list[dict[str, Any]]:
    """As the worker and `bifrost doctor` read it."""
    return [piece._asdict() for piece in pieces]
