"""The template's heap, shaped so that every fork is cheap.

A fork copies one table entry per page it shares, and its end drops each of them again. Most of what is
imported is never written by a run, so there one entry for 2 MiB instead of 512 pays; what a run does write is
still copied in pages of 4 KiB. Kernels before 6.1 refuse, and then forks cost what they cost.
"""

from __future__ import annotations

import ctypes
import gc

from .libc import LIBC

_HUGE = 2 << 20
_MADV_COLLAPSE = 25
_M_ARENA_MAX = -8


def give_back() -> None:
    """Unmap what importing and compiling have used and freed."""
    gc.collect()
    if hasattr(LIBC, "malloc_trim"):  # glibc's alone
        LIBC.malloc_trim(0)


def share_arenas() -> None:
    """Have threads allocate in common.

    glibc reserves 64 MiB of address space for each thread otherwise, and the address space is what a run's
    memory is limited by: fifteen threads would be the most.
    """
    if hasattr(LIBC, "mallopt"):  # glibc's alone
        LIBC.mallopt(_M_ARENA_MAX, 1)


def use_huge_pages() -> None:
    """Gather the memory this process has written so far; what comes later is what runs write to."""
    madvise = LIBC.madvise
    madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
    for start, end in _writable_memory():
        for at in range(-(-start // _HUGE) * _HUGE, end - _HUGE + 1, _HUGE):
            madvise(at, _HUGE, _MADV_COLLAPSE)


def _writable_memory() -> list[tuple[int, int]]:
    """Address ranges of the heap and of other anonymous memory."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            addresses, rights, _offset, _device, inode, *name = line.split()
            if rights == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
                start, _, end = addresses.partition("-")
                found.append((int(start, 16), int(end, 16)))
    return found
