"""How a run's parameters become a call, and what a data provider's answer has to be."""

from __future__ import annotations

import copy
import inspect
import types
import typing
from collections.abc import Callable
from types import CodeType, FunctionType, NoneType
from typing import Any, get_args, get_origin

from .._context import ExecutionContext
from .._decorators import DEFAULTS
from .signature import allows_none

_CONTEXT_TYPES = ("ExecutionContext", "OrganizationContext")


def with_omitted(
    function: Callable[..., Any], target: Callable[..., Any], given: dict[str, Any]
) -> dict[str, Any]:
    """What a run is given, and what stands for the rest.

    That is the default of `@param`, which goes before the one in the signature, and None for what may be left
    out and has neither. `function` is what the decorators made of `target`.
    """
    described = getattr(function, DEFAULTS, None)
    omitted: dict[str, Any] = {}
    if isinstance(described, dict):
        for name, value in described.items():
            if name not in given and value is not None:
                # A copy, since the next run of a pooled process starts from the same default.
                omitted[name] = copy.deepcopy(value)
    else:
        described = {}
    for name in _without_default(target):
        if name not in given and name not in omitted and (name in described or _may_be_none(target, name)):
            omitted[name] = None
    return given | omitted if omitted else given


def _without_default(function: Callable[..., Any]) -> list[str]:
    """The parameters for which the signature has no default, but for the context."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or not code.co_argcount + code.co_kwonlyargcount:
        return []
    count = code.co_argcount
    names = [*code.co_varnames[: count - len(getattr(function, "__defaults__", None) or ())]]
    if names and _wants_context(function, names[0]):
        del names[0]
    by_name = code.co_varnames[count : count + code.co_kwonlyargcount]
    defaults = getattr(function, "__kwdefaults__", None) or {}
    return names + [name for name in by_name if name not in defaults]


def _may_be_none(function: Callable[..., Any], name: str) -> bool:
    """Whether the signature allows None, as the index reads it."""
    return _allows_none(getattr(function, "__annotations__", {}).get(name, object))


def _allows_none(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return allows_none(annotation)
    if annotation is None or annotation is NoneType:
        return True
    members = get_args(annotation)
    match get_origin(annotation):
        case typing.Union | types.UnionType:
            return any(map(_allows_none, members))
        case typing.Annotated:
            return _allows_none(members[0])
    return False


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
