"""What of the file system and the network a run may reach, by the kernel's Landlock. Needs no rights.

Everything is refused that is not listed: the interpreter, the system's libraries, the shared files of the
workspace, and the run's own directory, which alone can be written. A process under Landlock also cannot read
the memory or the environment of one that is not, nor signal it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable, Iterator

from .tree import LIBC

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_PATH, _PORT = 1, 2
_VERSION = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_FILE, MAKE_REG, REFER, TRUNCATE = 1 << 5, 1 << 8, 1 << 13, 1 << 14
_FIRST_FILES = (1 << 13) - 1
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
READ = EXECUTE | READ_FILE | READ_DIR
_CONNECT_TCP = 1 << 1
_SCOPES = 0b11
"""Abstract sockets and signals stay among processes under the same rules."""
TCP_SINCE, _SCOPES_SINCE = 4, 6

RESERVED = (".overlays", ".uploads", ".git", ".env")
"""What of the workspace is not for runs to open: each organization's own files come from the worker."""

_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/sys/devices/system/cpu", "/sys/fs/cgroup"),
    *("/etc/alternatives", "/etc/ca-certificates", "/etc/fonts", "/etc/ssl", "/etc/pki", "/etc/terminfo"),
    *(
        "/etc/crypto-policies",
        "/etc/gai.conf",
        "/etc/group",
        "/etc/host.conf",
        "/etc/hosts",
        "/etc/ld.so.cache",
    ),
    *("/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/magic", "/etc/mime.types"),
    *("/etc/nsswitch.conf", "/etc/os-release", "/etc/passwd", "/etc/protocols", "/etc/resolv.conf"),
    *("/etc/services", "/etc/timezone"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def version() -> int:
    """The kernel's version of Landlock; 0 without one."""
    return max(0, int(LIBC.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)))


def why_not() -> str:
    """Why `version` is 0."""
    LIBC.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)
    number = ctypes.get_errno()
    if number == errno.ENOSYS:
        return "the kernel, or the filter of the container, does not know Landlock (Linux 5.13 has it)"
    if number == errno.EOPNOTSUPP:
        return "Landlock is not enabled: add it to the kernel's `lsm=`"
    return f"Landlock is refused: {os.strerror(number)}"


class Rules:
    """Rules that are collected, and then kept to for good by this process and its children."""

    def __init__(self, known: int, ports: tuple[int, ...] | None) -> None:
        self._files = _FIRST_FILES | (REFER if known >= 2 else 0) | (TRUNCATE if known >= 3 else 0)
        network = _CONNECT_TCP if ports is not None and known >= TCP_SINCE else 0
        parts = [self._files]
        if known >= TCP_SINCE:
            parts.append(network)
        if known >= _SCOPES_SINCE:
            parts.append(_SCOPES)
        attributes = struct.pack(f"{len(parts)}Q", *parts)
        self._handle = int(LIBC.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0))
        if self._handle < 0:
            raise _error("landlock_create_ruleset")
        if network:
            for port in ports or ():
                self._add(_PORT, struct.pack("QQ", _CONNECT_TCP, port))

    def read(self, path: str, *, follow: bool = True) -> None:
        """Let a file, or a folder with all it holds, be read and executed."""
        self._allow(path, READ, follow=follow)

    def use(self, path: str) -> None:
        """Let a folder be used in any way."""
        self._allow(path, self._files)

    def prepare(self, more: Iterable[str]) -> None:
        """What every run may reach."""
        for path in (*_SYSTEM, *interpreter(), *more):
            self.read(path)
        self._allow("/proc", READ_FILE | READ_DIR)
        for path in _DEVICES:
            self._allow(path, READ_FILE | WRITE_FILE)
        # Locks and shared memory of `multiprocessing`, by names that nobody can list.
        self._allow("/dev/shm", READ_FILE | WRITE_FILE | MAKE_REG | REMOVE_FILE | TRUNCATE)

    def share(self, workspace: str) -> None:
        """The files of the workspace, without what belongs to single organizations."""
        try:
            entries = os.scandir(workspace)
        except OSError:
            return
        with entries:
            for entry in entries:
                # A link may lead anywhere; what it leads to within the workspace is listed itself.
                if entry.name.lower() not in RESERVED and not entry.is_symlink():
                    self.read(entry.path, follow=False)

    def keep_to(self) -> None:
        """From now on nothing else can be reached."""
        try:
            if LIBC.syscall(_RESTRICT, self._handle, 0) != 0:
                raise _error("landlock_restrict_self")
        finally:
            os.close(self._handle)

    def _allow(self, path: str, rights: int, *, follow: bool = True) -> None:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
        except OSError:
            return  # what is not there needs no rule
        try:
            is_folder = (os.fstat(handle).st_mode & 0o170000) == 0o040000
            rights &= self._files if is_folder else self._files & _OF_FILES
            self._add(_PATH, struct.pack("=Qi", rights, handle))
        finally:
            os.close(handle)

    def _add(self, kind: int, attributes: bytes) -> None:
        if LIBC.syscall(_ADD, self._handle, kind, attributes, 0) != 0:
            raise _error("landlock_add_rule")


def interpreter() -> Iterator[str]:
    """Where the interpreter and the modules it can import are."""
    found = {os.path.dirname(os.path.realpath(sys.executable)), sys.prefix, sys.base_prefix, sys.exec_prefix}
    found.update(path for path in sys.path if os.path.isabs(path))
    for path in sorted(found):
        # "/" would be a rule for everything.
        if path != os.sep and not path.startswith(("/usr/", "/bin")) and path != "/usr":
            with contextlib.suppress(OSError):
                yield os.path.realpath(path)


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
