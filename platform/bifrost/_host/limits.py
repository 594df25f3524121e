"""Resource limits of a run, and how running into one is told apart from an ordinary exception."""

from __future__ import annotations

import dis
import errno
import resource
import signal
from types import CodeType, FrameType
from typing import Any

_PAGE = resource.getpagesize()
_counts_cpu = False
# Functions that fail with EAGAIN if there may be no more processes; others do for reasons of their own.
_START_PROCESSES = frozenset(("fork", "forkpty", "fork_exec", "_fork_exec", "posix_spawn", "posix_spawnp"))


class Interrupted(KeyboardInterrupt):
    """Base of what the host raises into user code.

    A `KeyboardInterrupt`, because `except Exception` must not swallow it and asyncio lets it end the loop.
    """


class CpuLimit(Interrupted):
    """The CPU time of the run is used up."""


def address_space() -> int:
    """Bytes of address space this process has mapped."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * _PAGE


class Limits:
    """Applies the limits of a start frame.

    A run cannot lift them: those of a pooled process are put back for each run and never move up, but for
    that of CPU time.
    """

    def __init__(self, base_address_space: int) -> None:
        self._base = base_address_space
        self._wanted: dict[str, Any] = {}

    def apply(self, wanted: dict[str, Any]) -> None:
        self._wanted = wanted
        if memory := wanted.get("memory_bytes"):
            # What the warm template has mapped already is not the run's.
            _bound(resource.RLIMIT_AS, self._base + memory)
        global _counts_cpu
        if seconds := wanted.get("cpu_seconds"):
            _counts_cpu = True
            used = resource.getrusage(resource.RUSAGE_SELF)
            soft = max(1, int(used.ru_utime + used.ru_stime + seconds + 0.999))
            # Soft only: the limit moves on for the next run of a pooled process. The kernel repeats the
            # signal every second, so a run that swallows it is stopped by the next one.
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            resource.setrlimit(resource.RLIMIT_CPU, (_within(hard, soft), hard))
        if processes := wanted.get("processes"):
            _bound(resource.RLIMIT_NPROC, processes)
        if size := wanted.get("file_size_bytes"):
            _bound(resource.RLIMIT_FSIZE, size)
        if files := wanted.get("open_files"):
            _bound(resource.RLIMIT_NOFILE, files)

    def lift_cpu(self) -> None:
        """Let the host finish: report the result of a run that has used up its CPU time."""
        global _counts_cpu
        _counts_cpu = False

    def explain(self, error: BaseException) -> str | None:
        """Which limit `error` is the consequence of, if any."""
        if isinstance(error, CpuLimit):
            return f"the run used more than {self._wanted['cpu_seconds']} s of CPU time"
        if isinstance(error, MemoryError):
            allowed = self._wanted.get("memory_bytes")
            return f"the run needs more than {allowed} bytes of memory" if allowed else "out of memory"
        if isinstance(error, OSError):
            if error.errno == errno.EFBIG and self._wanted.get("file_size_bytes"):
                return f"a file grew beyond {self._wanted['file_size_bytes']} bytes"
            if error.errno == errno.EMFILE and self._wanted.get("open_files"):
                return f"more than {self._wanted['open_files']} files are open"
            if error.errno == errno.EAGAIN and self._wanted.get("processes") and _was_starting(error):
                return f"more than {self._wanted['processes']} processes are running"
        if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
            return "the run cannot start another thread"
        return None


def _bound(which: int, most: int) -> None:
    """Set the soft limit, and the hard one so that it stays, within the one that is in force."""
    most = _within(resource.getrlimit(which)[1], most)
    resource.setrlimit(which, (most, most))


def _within(hard: int, most: int) -> int:
    """`most`, or the hard limit if that is less."""
    return most if hard == resource.RLIM_INFINITY else min(most, hard)


def _was_starting(error: BaseException) -> bool:
    """Whether what failed was to start a process."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    # What a new process reports before it becomes another program is raised there, by the old one.
    if code.co_name == "_execute_child" and trace.tb_frame.f_globals.get("__name__") == "subprocess":
        return True
    return not _START_PROCESSES.isdisjoint(_names_at(code, trace.tb_lasti))


def _names_at(code: CodeType, offset: int) -> set[str]:
    """The names in the expression that was being evaluated: functions written in C have no frame to ask."""
    instructions = list(dis.get_instructions(code))
    at = next((i.positions for i in instructions if i.offset == offset), None)
    if at is None or None in at:
        return {*code.co_names}
    begin, end = (at.lineno, at.col_offset), (at.end_lineno, at.end_col_offset)
    found = set()
    for instruction in instructions:
        there = instruction.positions
        if there is None or None in there or not isinstance(instruction.argval, str):
            continue
        if begin <= (there.lineno, there.col_offset) and (there.end_lineno, there.end_col_offset) <= end:
            found.add(instruction.argval)
    return found


def catch_cpu_signal() -> None:
    """Have SIGXCPU end a run; the template does it for its children."""
    signal.signal(signal.SIGXCPU, _out_of_cpu)


def _out_of_cpu(_signal: int, _frame: FrameType | None) -> None:
    if _counts_cpu:
        raise CpuLimit
