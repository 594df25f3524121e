"""The variables of a run: what the workflow function's locals were when it returned or failed.

No tracing: a frame object that somebody holds keeps its locals after the call is over. So all we need is to
get hold of the frame when the function is entered, once: on 3.12 and later by a `sys.monitoring` event on
that one code object, on 3.11 by a profile hook that removes itself at its first call event. Loops of user
code run at full speed either way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import CodeType, FrameType, ModuleType
from typing import Any

from .convert import VARIABLES_BYTES, describe
from .frames import quote

# A decorator around the workflow may run code of its own before it calls the function we look for: it may
# log, or wait for the event loop. Without one the first events are enough; so many take no millisecond.
_EVENTS_TO_WAIT = 2_000

Capture = tuple[Callable[[], None], Callable[[], FrameType | None]]
"""The second function gives the frame away: who calls it is below that frame, and holds the function."""


def _take(kept: list[FrameType]) -> FrameType | None:
    frame = kept[0] if kept else None
    kept.clear()
    return frame


if sys.version_info >= (3, 12):
    _monitoring = sys.monitoring
    _TOOL = 4

    def capture_frame(code: CodeType) -> Capture:
        """Begin looking for a call of `code`; the second function ends that and gives its frame."""
        kept: list[FrameType] = []

        def on_start(_code: CodeType, _offset: int) -> object:
            kept.append(sys._getframe(1))
            return _monitoring.DISABLE

        def begin() -> None:
            if _monitoring.get_tool(_TOOL) is None:
                _monitoring.use_tool_id(_TOOL, "bifrost")
            _monitoring.restart_events()
            _monitoring.register_callback(_TOOL, _monitoring.events.PY_START, on_start)
            _monitoring.set_local_events(_TOOL, code, _monitoring.events.PY_START)

        def end() -> FrameType | None:
            _monitoring.set_local_events(_TOOL, code, _monitoring.events.NO_EVENTS)
            return _take(kept)

        return begin, end

else:

    def capture_frame(code: CodeType) -> Capture:
        """Begin looking for a call of `code`; the second function ends that and gives its frame."""
        kept: list[FrameType] = []
        events = 0

        def hook(frame: FrameType, event: str, _argument: Any) -> None:
            nonlocal events
            events += 1
            if event == "call" and frame.f_code is code:
                kept.append(frame)
            elif events < _EVENTS_TO_WAIT:
                return
            sys.setprofile(None)

        def end() -> FrameType | None:
            if not kept:
                sys.setprofile(None)
            return _take(kept)

        return lambda: sys.setprofile(hook), end


def parameters_of(code: CodeType) -> frozenset[str]:
    """The names a call fills in."""
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
    return frozenset(code.co_varnames[:count])


def encode_variables(values: Iterable[tuple[str, Any]], hidden: frozenset[str]) -> str:
    """A JSON object of what is worth showing, within 1 MiB; what came first is kept."""
    shown: list[str] = []
    room = VARIABLES_BYTES - 2
    for name, value in values:
        if name in hidden or name[:1] in ("_", ".") or isinstance(value, ModuleType) or callable(value):
            continue
        entry = f"{quote(name)}:{describe(value)}"
        room -= len(entry.encode("utf-8", "replace")) + 1
        if room < 0:
            break
        shown.append(entry)
    return "{" + ",".join(shown) + "}"
