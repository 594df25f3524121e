"""System calls that no workflow needs, refused by the kernel.

The template takes the filter on once, and every process forked from it inherits it at no cost. What is
refused answers "not permitted", as it would without the rights; nothing is killed for asking.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import NamedTuple

from .libc import CLONE_NEWPID, LIBC

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_NEW_NAMESPACES = 0x7E020000
_TIOCSTI = 0x5412
_X32 = 0x40000000
_FAMILIES = (1, 2, 10, 16)
"""Unix, IPv4, IPv6 and netlink, which resolvers read addresses of the host from."""

# Numbers that all architectures share, because they are young.
EVERYWHERE = {
    **{"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427},
    **{"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433},
    **{"pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443},
    "open_tree_attr": 467,
}
_CLONE3 = 435


class Machine(NamedTuple):
    """What differs between architectures."""

    audit: int
    refused: dict[str, int]
    clone: int
    ioctl: int
    setns: int
    socket: int
    unshare: int


MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        {
            **{"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312},
            **{"mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "open_by_handle_at": 304},
            **{"add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298},
            **{"kexec_load": 246, "kexec_file_load": 320, "reboot": 169, "swapon": 167, "swapoff": 168},
            **{"init_module": 175, "finit_module": 313, "delete_module": 176, "iopl": 172, "ioperm": 173},
            **{"settimeofday": 164, "clock_settime": 227, "clock_adjtime": 305, "sethostname": 170},
            **{"setdomainname": 171, "syslog": 103, "acct": 163, "quotactl": 179, "vhangup": 153},
            **{"userfaultfd": 323, "fanotify_init": 300, "lookup_dcookie": 212, "uselib": 134},
            **{"ustat": 136, "sysfs": 139},
            # What these make outlives a run, and counts towards none of its limits.
            **{"shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240},
        },
        clone=56,
        ioctl=16,
        setns=308,
        socket=41,
        unshare=272,
    ),
    "aarch64": Machine(
        0xC00000B7,
        {
            **{"ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272},
            **{"mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "open_by_handle_at": 265},
            **{"add_key": 217, "request_key": 218, "keyctl": 219, "bpf": 280, "perf_event_open": 241},
            **{"kexec_load": 104, "kexec_file_load": 294, "reboot": 142, "swapon": 224, "swapoff": 225},
            **{"init_module": 105, "finit_module": 273, "delete_module": 106},
            **{"settimeofday": 170, "clock_settime": 112, "clock_adjtime": 266, "sethostname": 161},
            **{"setdomainname": 162, "syslog": 116, "acct": 89, "quotactl": 60, "vhangup": 58},
            **{"userfaultfd": 282, "fanotify_init": 262, "lookup_dcookie": 18},
            **{"shmget": 194, "semget": 190, "msgget": 186, "mq_open": 180},
        },
        clone=220,
        ioctl=29,
        setns=268,
        socket=198,
        unshare=97,
    ),
}

Instruction = tuple[int, int, int, int]


def machine() -> Machine | None:
    """This architecture, or None where the numbers are not known."""
    return MACHINES.get(os.uname().machine) if struct.calcsize("P") == 8 else None


def program(here: Machine, *, makes_pid_namespaces: bool) -> list[Instruction]:
    """The filter. With `makes_pid_namespaces` the template can make them; who has no rights still cannot."""
    namespace = [_allow_if_argument(_argument(0), CLONE_NEWPID)] if makes_pid_namespaces else []
    kind = [_allow_if_argument(_argument(1), CLONE_NEWPID)] if makes_pid_namespaces else []
    families = [_allow_if_argument(_argument(0), family) for family in _FAMILIES]
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, here.audit),
        _refuse(errno.ENOSYS),
        (_LOAD, 0, 0, _NUMBER),
        # The second set of numbers that x86-64 has for the same calls.
        (_AT_LEAST, 0, 1, _X32),
        _refuse(errno.ENOSYS),
        *(step for number in (*here.refused.values(), *EVERYWHERE.values()) for step in _is_refused(number)),
        # Its arguments are behind a pointer, out of sight; the C library turns to `clone` then.
        (_EQUAL, 0, 1, _CLONE3),
        _refuse(errno.ENOSYS),
        *_when(
            here.clone,
            [(_LOAD, 0, 0, _argument(0)), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), _refuse(errno.EPERM), _allow()],
        ),
        *_when(here.unshare, [*_flat(namespace), _refuse(errno.EPERM)]),
        *_when(here.setns, [*_flat(kind), _refuse(errno.EPERM)]),
        *_when(here.socket, [*_flat(families), _refuse(errno.EAFNOSUPPORT)]),
        *_when(
            here.ioctl,
            [(_LOAD, 0, 0, _argument(1)), (_EQUAL, 0, 1, _TIOCSTI), _refuse(errno.EPERM), _allow()],
        ),
        _allow(),
    ]


def refusing(here: Machine, numbers: tuple[int, ...], error: int) -> list[Instruction]:
    """A filter that answers these calls with `error`; a kernel without them looks like that."""
    steps = [step for number in numbers for step in ((_EQUAL, 0, 1, number), _refuse(error))]
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, here.audit),
        _allow(),
        (_LOAD, 0, 0, 0),
        *steps,
        _allow(),
    ]


def deadly() -> list[Instruction]:
    """A filter after which any system call ends the process."""
    return [(_RETURN, 0, 0, 0x80000000)]


def take_on(steps: list[Instruction]) -> bool:
    """Put a filter on this process and all it will fork. Needs `no_new_privs`."""
    packed = b"".join(struct.pack("HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(packed, len(packed))
    head = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(held))
    return bool(LIBC.prctl(_PR_SET_SECCOMP, _MODE_FILTER, head, 0, 0) == 0)


def _argument(index: int) -> int:
    """Where the lower half of an argument is; flags and families have no upper one."""
    return 16 + 8 * index


def _allow() -> Instruction:
    return (_RETURN, 0, 0, _ALLOW)


def _refuse(error: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | error)


def _is_refused(number: int) -> list[Instruction]:
    return [(_EQUAL, 0, 1, number), _refuse(errno.EPERM)]


def _when(number: int, steps: list[Instruction]) -> list[Instruction]:
    return [(_EQUAL, 0, len(steps), number), *steps]


def _allow_if_argument(where: int, value: int) -> list[Instruction]:
    return [(_LOAD, 0, 0, where), (_EQUAL, 0, 1, value), _allow()]


def _flat(parts: list[list[Instruction]]) -> list[Instruction]:
    return [step for part in parts for step in part]
