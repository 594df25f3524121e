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
import stat
import struct
import sys
import time
from collections.abc import Iterator

from .libc import LIBC

_syscall = LIBC.syscall
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_PATH, _PORT = 1, 2
_VERSION = 1
_LOOK_AGAIN = 5.0
"""Seconds after which files of the system that were exchanged, such as /etc/resolv.conf, are found again."""

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
    return max(0, int(_syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)))


def why_not() -> str:
    """Why `version` is 0."""
    _syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)
    number = ctypes.get_errno()
    if number == errno.ENOSYS:
        return "the kernel, or the filter of the container, does not know Landlock (Linux 5.13 has it)"
    if number == errno.EOPNOTSUPP:
        return "Landlock is not enabled: add it to the kernel's `lsm=`"
    return f"Landlock is refused: {os.strerror(number)}"


class Rules:
    """Rules that are collected, and then kept to for good by this process and its children."""

    def __init__(self, known: int, ports: tuple[int, ...] | None) -> None:
        self.rights = _FIRST_FILES | (REFER if known >= 2 else 0) | (TRUNCATE if known >= 3 else 0)
        network = _CONNECT_TCP if ports is not None and known >= TCP_SINCE else 0
        parts = [self.rights]
        if known >= TCP_SINCE:
            parts.append(network)
        if known >= _SCOPES_SINCE:
            parts.append(_SCOPES)
        attributes = struct.pack(f"{len(parts)}Q", *parts)
        self.handle = int(_syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0))
        if self.handle < 0:
            raise _error("landlock_create_ruleset")
        if network:
            for port in ports or ():
                self.add(_PORT, struct.pack("QQ", _CONNECT_TCP, port))

    def use(self, path: str) -> None:
        """Let a folder be used in any way."""
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                self.add(_PATH, struct.pack("=Qi", self.rights, handle))
            finally:
                os.close(handle)

    def add(self, kind: int, attributes: bytes) -> None:
        if _syscall(_ADD, self.handle, kind, attributes, 0) != 0:
            raise _error("landlock_add_rule")

    def keep_to(self) -> None:
        """From now on nothing else can be reached."""
        try:
            if _syscall(_RESTRICT, self.handle, 0) != 0:
                raise _error("landlock_restrict_self")
        finally:
            os.close(self.handle)


class Reach:
    """What every run may reach, held open by the template, so that the rules of a process are made fast."""

    def __init__(self, known: int, ports: tuple[int, ...] | None, workspace: str) -> None:
        self._known, self._ports, self._workspace = known, ports, workspace
        self._rights = Rules(known, ports)
        os.close(self._rights.handle)
        self.readable: tuple[str, ...] = ()
        self.writable: tuple[str, ...] = ()
        self._attributes: list[bytes] = []
        self._handles: list[int] = []
        self._looked = float("-inf")
        self._changed = -1

    def rules(self) -> Rules:
        """Rules for one more process; it adds its own directory."""
        changed = self.workspace_changed()
        if changed != self._changed or time.monotonic() - self._looked > _LOOK_AGAIN:
            self._look(changed)
        rules = Rules(self._known, self._ports)
        for attributes in self._attributes:
            rules.add(_PATH, attributes)
        return rules

    def share_again(self, rules: Rules) -> None:
        """Add what has come into the workspace since the rules were made."""
        changed = self.workspace_changed()
        if changed != self._changed:
            self._look(changed)
            for attributes in self._attributes:
                rules.add(_PATH, attributes)
            self._close()

    def workspace_changed(self) -> int:
        """When a file or folder came into the workspace's root, or left it, for the last time."""
        try:
            return os.stat(self._workspace).st_mtime_ns
        except OSError:
            return -1

    def _look(self, changed: int) -> None:
        self._close()
        self._changed, self._looked = changed, time.monotonic()
        for path in (*_SYSTEM, *interpreter(), *self.readable):
            self._hold(path, READ)
        self._hold("/proc", READ_FILE | READ_DIR)
        for path in _DEVICES:
            self._hold(path, READ_FILE | WRITE_FILE)
        # Locks and shared memory of `multiprocessing`, by names that nobody can list.
        self._hold("/dev/shm", READ_FILE | WRITE_FILE | MAKE_REG | REMOVE_FILE | TRUNCATE)
        for path in self.writable:
            self._hold(path, self._rights.rights)
        with contextlib.suppress(OSError), os.scandir(self._workspace) as entries:
            for entry in entries:
                # A link may lead anywhere; what it leads to within the workspace is listed itself.
                if not _is_reserved(entry.name.lower()) and not entry.is_symlink():
                    self._hold(entry.path, READ, os.O_NOFOLLOW)

    def _hold(self, path: str, rights: int, more: int = 0) -> None:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC | more)
        except OSError:
            return  # what is not there needs no rule
        self._handles.append(handle)
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        rights &= self._rights.rights if is_folder else self._rights.rights & _OF_FILES
        self._attributes.append(struct.pack("=Qi", rights, handle))

    def _close(self) -> None:
        for handle in self._handles:
            os.close(handle)
        self._handles.clear()
        self._attributes.clear()

    def forget(self) -> None:
        """In a run, which has closed what the template holds."""
        self._handles = []
        self._attributes = []


def _is_reserved(name: str) -> bool:
    # `.env.production` and the like are as secret.
    return name in RESERVED or name.startswith(".env.")


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
