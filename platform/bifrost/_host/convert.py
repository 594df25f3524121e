"""From Python values to JSON: what a workflow may return, and what its variables show.

Results are strict: what JSON cannot hold fails the run, rather than reaching a client half right. Variables
are lenient: they are a debugging aid, so whatever does not fit is named instead. So are fields of log lines,
whose values have the types of results too: somebody has chosen to log them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from .._awaitable import Reply, _Ready

VARIABLE_BYTES = 64 * 1024
VARIABLES_BYTES = 1024 * 1024
_MAX_DEPTH = 64
_PLAIN = frozenset((type(None), bool, int, float, str, dict, list, tuple))


class ResultNotSerializable(Exception):
    """JSON cannot hold what the workflow returned."""


class ResultTooLarge(Exception):
    """The result exceeds the size that is stored."""


def encode_result(value: Any, limit: int) -> tuple[str, str | None]:
    """The result as JSON text, and its kind: `json`, `html`, `text` or None."""
    try:
        text = _RESULT_ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as problem:
        try:
            text = _RESULT_ENCODER.encode(_with_text_keys(value, 0))
        except (TypeError, ValueError, RecursionError, OverflowError):
            reason = str(problem) or type(problem).__name__
            raise ResultNotSerializable(f"the result cannot be stored as JSON: {reason}") from problem
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as problem:
        raise ResultNotSerializable("the result contains text that is not valid Unicode") from problem
    if size > limit:
        raise ResultTooLarge(f"the result is {size} bytes long, more than the {limit} allowed")
    if text[0] == '"':
        return text, "html" if json.loads(text).lstrip().startswith("<") else "text"
    return text, None if text == "null" else "json"


def _utf8_size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _convert(value: Any) -> Any:
    """`default` of the result encoder: one step towards JSON for the types we know."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"{value} is not a JSON number")
        return float(value) if value.as_tuple().exponent < 0 else int(value)  # type: ignore[operator]
    if isinstance(value, UUID | PurePath):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        try:
            return sorted(value)
        except TypeError:
            return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump = getattr(type(value), "model_dump", None)
    if dump is not None:
        try:
            return dump(value)
        except MemoryError:
            raise
        except Exception as problem:
            raise ValueError(f"{type(value).__name__}.model_dump() raised {problem!r}") from problem
    plain = getattr(type(value), "__json__", None)
    if plain is not None:
        return plain(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


_RESULT_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_convert
)


def _with_text_keys(value: Any, depth: int) -> Any:
    """A copy whose dict keys are text, for the few results keyed by dates, ids or enums."""
    if depth > 200:
        raise ValueError("nested too deeply")
    if isinstance(value, Mapping):
        return {_key(k): _with_text_keys(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_with_text_keys(v, depth + 1) for v in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return _with_text_keys(_convert(value), depth + 1)


def _key(key: Any) -> Any:
    if key is None or isinstance(key, str | int | float):
        return key
    converted = _convert(key)
    if not isinstance(converted, str | int | float):
        raise TypeError(f"{type(key).__name__} cannot be a key")
    return converted


class _TooLarge(Exception):
    pass


class _Budget:
    __slots__ = ("converts", "left")

    def __init__(self, left: int, converts: bool) -> None:
        self.left = left
        self.converts = converts

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise _TooLarge


def describe(value: Any, limit: int = VARIABLE_BYTES, *, converts: bool = False) -> str:
    """JSON text for a variable or log field, never more than `limit` bytes and never an exception.

    With `converts` values of the types that results may have are shown as results have them, which may run
    their code.
    """
    if issubclass(type(value), str) and len(value := str.__str__(value)) * 6 > limit:
        value = _shorten(value, limit)
    try:
        text = json.dumps(
            _lenient(value, _Budget(limit, converts), set(), 0), ensure_ascii=False, separators=(",", ":")
        )
    except _TooLarge:
        return f'"<{_type_name(value)} too large to show>"'
    except (ValueError, RuntimeError):  # nested too deeply, or changed by another thread meanwhile
        return f'"<{_type_name(value)}>"'
    if _utf8_size(text) > limit:
        return f'"<{_type_name(value)} too large to show>"'
    return text


def _shorten(text: str, limit: int) -> str:
    """The beginning of a long text, such that its JSON form fits."""
    if len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")) <= limit:
        return text
    kept = text[: limit - 64]
    while len(json.dumps(kept, ensure_ascii=False).encode("utf-8", "replace")) > limit - 32:
        kept = kept[: len(kept) * 3 // 4]
    return kept + "… [truncated]"


def _understood(value: Any) -> tuple[Any, type]:
    """What a value of the SDK stands for, and the plain type that a value is of; runs none of its code."""
    kind = type(value)
    if kind is Reply and value._value is not None:  # to ask for it would wait
        return value._value, dict
    if issubclass(kind, _Ready):
        value = value._plain()
        return value, type(value)
    if issubclass(kind, str):
        return str.__str__(value), str
    return value, next((base for base in (dict, list, tuple) if issubclass(kind, base)), kind)


def _lenient(value: Any, budget: _Budget, above: set[int], depth: int) -> Any:
    kind = type(value)
    if kind not in _PLAIN:
        value, kind = _understood(value)
    if value is None or kind is bool:
        budget.take(4)
        return value
    if kind is int:
        budget.take(1 + value.bit_length() // 4)
        return value
    if kind is str:
        budget.take(len(value) + 2)
        return value
    if kind is float:
        budget.take(8)
        return value if value - value == 0.0 else "<float>"
    is_other = kind not in (dict, list, tuple)
    if is_other and (not budget.converts or kind is Reply):  # to ask a reply would wait
        return f"<{_type_name(value)}>"
    if id(value) in above:
        return "[Circular Reference]"
    if depth >= _MAX_DEPTH:
        return f"<{_type_name(value)}>"
    above.add(id(value))
    budget.take(2)
    try:
        if is_other:
            return _lenient(_converted(value), budget, above, depth + 1)
        if kind is dict:
            shown = {}
            for key, item in dict.items(value):
                name = _name_of(key)
                budget.take(len(name) + 4)
                shown[name] = _lenient(item, budget, above, depth + 1)
            return shown
        return [_lenient(item, budget, above, depth + 1) for item in kind.__iter__(value)]
    finally:
        above.discard(id(value))


def _converted(value: Any) -> Any:
    """One step towards JSON as for results, or the name of a type that has none."""
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):
        return int.__int__(value)
    try:
        return _convert(value)
    except MemoryError:
        raise
    except Exception:  # code of the type may do anything, and a log line must not end a run
        return f"<{_type_name(value)}>"


def _name_of(key: Any) -> str:
    if issubclass(type(key), str):
        return str.__str__(key)
    return str(key) if type(key) is int else f"<{_type_name(key)}>"


def _type_name(value: Any) -> str:
    return type(value).__name__
