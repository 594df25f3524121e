"""The control group of each process: what a run and all it has started may have together.

The worker makes a folder for its runs and names it (`crates/runner/src/cgroups.rs`); below it each process
gets its own group, which it enters before anything else, and which goes with it.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

_MEMORY_PEAK = "memory.peak"
_RETRY_MS = 20


class Limits(NamedTuple):
    """What one group may have."""

    folder: str
    """The worker's folder for the groups of its runs."""
    memory: int
    """Bytes."""
    processes: int
    """Processes and threads."""


class Ending(NamedTuple):
    """What a group tells at its end."""

    peak: int = 0
    """Bytes that were held at once, at most; 0 if the kernel does not count it (before Linux 5.19)."""
    out_of_memory: bool = False
    """Whether the kernel ended it because it held more than it may."""


class Cgroups:
    """The groups of this template's processes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._prefix = f"{limits.folder}/{os.getpid()}-"
        self._of: dict[int, str] = {}
        self._left: list[str] = []
        self._next = 0
        self._ready = ""

    def make(self) -> None:
        """Make the group of the next process."""
        self.abandon()  # one that could not be set up
        self._next += 1
        path = f"{self._prefix}{self._next}"
        os.mkdir(path, 0o755)
        self._ready = path
        _write(f"{path}/memory.max", str(self.limits.memory))
        # All of the run or nothing: half of a tree would go on with what is lost.
        _write(f"{path}/memory.oom.group", "1")
        with contextlib.suppress(FileNotFoundError):  # a kernel without swap
            _write(f"{path}/memory.swap.max", "0")
        _write(f"{path}/pids.max", str(self.limits.processes))

    def enter(self) -> int:
        """In the new process: be in its group. Gives a descriptor that tells what the group held, or -1."""
        _write(f"{self._ready}/cgroup.procs", "0")
        try:
            return os.open(f"{self._ready}/{_MEMORY_PEAK}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return -1

    def began(self, pid: int) -> str:
        """The process of the group that was made last; gives the group's name."""
        self._of[pid], self._ready = self._ready, ""
        return os.path.basename(self._of[pid])

    def abandon(self) -> None:
        """No process came of it."""
        if self._ready:
            self._left.append(self._ready)
            self._ready = ""
            self.remove_left()

    def kill(self, pid: int) -> None:
        """End whatever is in the group of a process."""
        if (path := self._of.get(pid)) is not None:
            _kill(path)

    def ended(self, pid: int) -> Ending:
        """After the process and what it has started: what the group tells; then it is removed."""
        if (path := self._of.pop(pid, None)) is None:
            return Ending()
        ending = Ending(_number(f"{path}/{_MEMORY_PEAK}"), _was_killed(f"{path}/memory.events"))
        self._left.append(path)
        self.remove_left()
        return ending

    def pause(self) -> int | None:
        """Milliseconds until `remove_left` is to be called again; None if nothing is left."""
        return _RETRY_MS if self._left else None

    def remove_left(self) -> None:
        """Remove what is empty; what somebody is still dying in is tried again later."""
        tried, self._left = self._left, []
        for path in tried:
            try:
                os.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError:
                _kill(path)
                self._left.append(path)


def peak(handle: int) -> int:
    """What a descriptor of `Cgroups.enter` tells now, in bytes; 0 without one, and if user code closed it."""
    if handle < 0:
        return 0
    try:
        return int(os.pread(handle, 32, 0))
    except (OSError, ValueError):
        return 0


def _kill(path: str) -> None:
    with contextlib.suppress(OSError):
        _write(f"{path}/cgroup.kill", "1")


def _write(path: str, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def _read(path: str) -> bytes:
    # Not `open`, whose objects take as long as all the rest.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(handle, 4096)
    finally:
        os.close(handle)


def _number(path: str) -> int:
    return int(_read(path) or b"0")


def _was_killed(path: str) -> bool:
    events = _read(path)
    return b"\noom_kill " in events and b"\noom_kill 0\n" not in events
