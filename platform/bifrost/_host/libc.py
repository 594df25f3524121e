"""The C library of this process, for calls that Python has no name for."""

from __future__ import annotations

import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)

CLONE_NEWPID = 0x20000000
