"""How a run's parameters become a call, and what a data provider's answer has to be."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

from .._context import ExecutionContext
from .._decorators import DEFAULTS

_CONTEXT_TYPES = ("ExecutionContext", "OrganizationContext")


def with_defaults(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """What a run is given, and what `@param` says about the rest; it goes before the signature's defaults."""
    defaults = getattr(function, DEFAULTS, None)
    if not isinstance(defaults, dict):
        return given
    # Copies, since the next run of a pooled process starts from the same defaults.
    missing = {name: copy.deepcopy(value) for name, value in defaults.items() if name not in given}
    return given | missing


def bind(
    function: Callable[..., Any], context: ExecutionContext, given: dict[str, Any]
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Positional and keyword arguments for a call, and what the signature has no place for."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return [], dict(given), {}
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if isinstance(function, FunctionType) is False and inspect.ismethod(function):
        names = names[1:]
    args: list[Any] = []
    positional_only = list(code.co_varnames[: code.co_posonlyargcount])
    defaults = getattr(function, "__defaults__", None) or ()
    defaulted = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    default_of = dict(zip(defaulted, defaults, strict=True)) if positional_only else {}
    rest, extra = dict(given), {}
    if code.co_argcount and _wants_context(function, names[0]):
        args.append(context)
        if not positional_only and names[0] in rest:
            extra[names[0]] = rest.pop(names[0])  # it cannot be given twice
        names = names[1:]
        positional_only = positional_only[1:]
    for name in positional_only:
        if name not in rest and name not in default_of:
            break
        args.append(rest.pop(name) if name in rest else default_of[name])
    if code.co_flags & inspect.CO_VARKEYWORDS:
        return args, rest, extra
    kwargs = {name: rest.pop(name) for name in names if name in rest and name not in positional_only}
    return args, kwargs, rest | extra


def _wants_context(function: Callable[..., Any], first: str) -> bool:
    if first == "context":
        return True
    annotation = getattr(function, "__annotations__", {}).get(first)
    if isinstance(annotation, str):
        name = annotation.strip("'\" ")
        known = getattr(function, "__globals__", {})
        return name.rpartition(".")[2] in _CONTEXT_TYPES or known.get(name) is ExecutionContext
    return annotation is ExecutionContext


def options_of(value: Any) -> list[Any]:
    """The answer of a data provider: a list, in which plain strings become options."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"a data provider must return a list, not {type(value).__name__}")
    return [{"label": item, "value": item} if isinstance(item, str) else item for item in value]
