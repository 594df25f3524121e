"""What the SDK modules know about the run they are part of.

A process serves one run at a time, so this is a plain module global: threads that user code starts see the
same run, which a context variable would hide from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._host.connection import Call, Connection


@dataclass(slots=True)
class Run:
    """The execution this process is working on."""

    connection: Connection
    workspace: str
    temp_dir: str | None


current: Run | None = None


def require(what: str) -> Run:
    """The current run; only a worker can answer for `what`."""
    if current is None:
        raise RuntimeError(f"{what} is only available inside a Bifrost execution")
    return current


def call(method: str, args: dict[str, Any]) -> Call:
    return require(method).connection.call(method, {k: v for k, v in args.items() if v is not None})
