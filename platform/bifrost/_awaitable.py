"""Values that may be awaited but need not be.

Existing workflow files write both `text = files.read(p)` and `text = await files.read(p)`; these are what
makes the two mean the same.
"""

from __future__ import annotations

import builtins
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ._host.connection import Call

T = TypeVar("T")


class _Ready:
    """Awaitable without waiting, and enough of a coroutine for `asyncio.create_task` and `gather`."""

    __slots__ = ()

    def _plain(self) -> Any:
        raise NotImplementedError

    def __await__(self) -> Generator[Any, None, Any]:
        return self._plain()
        yield  # what makes it a generator, which is what `await` needs

    def send(self, _value: None) -> Any:
        raise StopIteration(self._plain())

    def throw(self, *problem: Any) -> Any:
        raise problem[0]

    def close(self) -> None: ...


class Text(_Ready, str):
    """A `str` that gives itself when awaited."""

    __slots__ = ()

    def _plain(self) -> str:
        return str(self)


class Bytes(_Ready, bytes):
    """A `bytes` that gives itself when awaited."""

    __slots__ = ()

    def _plain(self) -> bytes:
        return bytes(self)


class List(_Ready, builtins.list[T]):
    """A `list` that gives itself when awaited."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]  # `gather` keeps what it is given in a dict

    def _plain(self) -> builtins.list[T]:
        return builtins.list(self)


class Flag(_Ready):
    """A truth value that gives a `bool` when awaited."""

    __slots__ = ("_value",)

    def __init__(self, value: bool) -> None:
        self._value = value

    def _plain(self) -> bool:
        return self._value

    __json__ = __bool__ = _plain

    def __int__(self) -> int:
        return int(self._value)

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        return self._value == (other._value if isinstance(other, Flag) else other)

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return repr(self._value)


class Done(_Ready):
    """The answer of an operation that has none: false, and None when awaited."""

    __slots__ = ()

    def _plain(self) -> None:
        return None

    __json__ = _plain

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "None"


class Reply(Mapping[str, Any]):
    """The dict a call will answer with: `await` gives it, and so does looking inside, which then blocks."""

    __slots__ = ("_call", "_steps", "_value")
    __hash__ = object.__hash__  # `gather` keeps what it is given in a dict

    def __init__(self, call: Call) -> None:
        self._call = call
        self._value: dict[str, Any] | None = None
        self._steps: Generator[Any, None, dict[str, Any]] | None = None

    def _dict(self) -> dict[str, Any]:
        if self._value is None:
            self._value = dict(self._call.result())
        return self._value

    def __await__(self) -> Generator[Any, None, dict[str, Any]]:
        if self._value is None:
            self._value = dict((yield from self._call.__await__()))
        return self._value

    # The rest of a coroutine, so that `asyncio.create_task` takes it.

    def send(self, value: Any) -> Any:
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, *problem: Any) -> Any:
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.throw(*problem)

    def close(self) -> None:
        if self._steps is not None:
            self._steps.close()

    def __getitem__(self, key: str) -> Any:
        return self._dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._dict())

    def __len__(self) -> int:
        return len(self._dict())

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return self._dict() | dict(other)

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return dict(other) | self._dict()

    def copy(self) -> dict[str, Any]:
        return self._dict().copy()

    def __repr__(self) -> str:
        return repr(self._dict())

    def __json__(self) -> dict[str, Any]:
        return self._dict()
