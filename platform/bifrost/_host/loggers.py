"""How `logging` is set up, put back before the next run of a warm process.

What files have set while they were loaded stays; but the lines of all runs go on being heard: the handler of
the run remains that of the root logger, whatever a file has configured.
"""

from __future__ import annotations

import logging
from logging import Logger
from operator import attrgetter
from typing import Any

from . import logs

_State = tuple[int, bool, bool, list[Any], list[Any]]
_AS_MADE: _State = (logging.NOTSET, True, False, [], [])
_state = attrgetter("level", "propagate", "disabled", "handlers", "filters")


class Loggers:
    """Made in the template, when logging is set up as each run is to find it."""

    def __init__(self, handler: logs.WorkspaceHandler) -> None:
        self._handler = handler
        # Configuring logging from a file or a dict clears the list that this comes first in.
        self._first_handler = logging._handlerList[0]  # type: ignore[attr-defined]
        self._root = (logging.root.level, [*logging.root.filters])
        self._own = (handler.level, [*handler.filters])
        self._factory = logging.getLogRecordFactory()
        self._known: dict[str, object] = {}
        self._named: list[Logger] = []
        self._kept: list[_State] = []

    def keep(self) -> None:
        """Take what files have set while they were loaded for what later runs find."""
        if self._is_configured():
            # Such a configuration switches off all loggers that it does not name.
            was_off = {logger for logger, kept in zip(self._named, self._kept, strict=True) if kept[2]}
            for logger in _named():
                logger.disabled = logger in was_off
            self._put_first_handler()
        self._remember()
        self._factory = logging.getLogRecordFactory()
        if logging.root.handlers == [self._handler]:
            self._root = (logging.root.level, [*logging.root.filters])
            self._own = (self._handler.level, [*self._handler.filters])

    def restore(self) -> None:
        if not self._are_as_kept():
            self._restore_root()
        # Compared as a whole, since there may be hundreds.
        if logging.root.manager.loggerDict != self._known or [*map(_state, self._named)] != self._kept:
            self._restore_named()

    def _remember(self) -> None:
        self._known = {**logging.root.manager.loggerDict}
        self._named = _named()
        states = map(_state, self._named)
        self._kept = [(*plain, [*handlers], [*filters]) for *plain, handlers, filters in states]

    def _are_as_kept(self) -> bool:
        root, own = logging.root, self._handler
        return (
            root.handlers == [own]
            and (root.level, root.filters) == self._root
            and (own.level, own.filters) == self._own
            and not root.disabled
            and not root.manager.disable
            and not self._is_configured()
            and logging.getLogRecordFactory() is self._factory
        )

    def _is_configured(self) -> bool:
        known = logging._handlerList  # type: ignore[attr-defined]
        return not known or known[0] is not self._first_handler

    def _put_first_handler(self) -> None:
        logging._handlerList.insert(0, self._first_handler)  # type: ignore[attr-defined]

    def _restore_root(self) -> None:
        root, own = logging.root, self._handler
        root.handlers[:] = [own]
        root.disabled = False
        logging.disable(logging.NOTSET)
        root.setLevel(self._root[0])
        own.setLevel(self._own[0])
        root.filters[:], own.filters[:] = self._root[1], self._own[1]
        logging.setLogRecordFactory(self._factory)
        if self._is_configured():
            self._put_first_handler()

    def _restore_named(self) -> None:
        kept = dict(zip(self._named, self._kept, strict=True))
        for logger in _named():
            state = kept.get(logger, _AS_MADE)
            if _state(logger) != state:
                logger.setLevel(state[0])  # which has all forget what they know of levels
                logger.propagate, logger.disabled = state[1:3]
                logger.handlers, logger.filters = [*state[3]], [*state[4]]
        self._remember()


def _named() -> list[Logger]:
    return [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, Logger)]
