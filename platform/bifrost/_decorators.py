"""`@workflow`, `@data_provider` and `@param`: marks that the index reads from the source.

They return the function itself, so a workflow is still an ordinary function for tests and other files.
What they are given is read statically by the index, which also reports arguments it does not know. Only what
`@param` says of parameters that are left out is kept on the function.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])

PARAMETER_TYPES = ("string", "int", "bool", "float", "json", "list", "email")
DEFAULTS = "__bifrost_defaults__"
"""The attribute of a function that holds what `@param` says of parameters that are left out, by parameter:
the default, or None where it only says that they are not required."""


@overload
def workflow(name: F, /) -> F: ...
@overload
def workflow(
    name: str | None = None,
    description: str | None = None,
    category: str = "General",
    tags: list[str] | None = None,
    execution_mode: str | None = None,
    timeout_seconds: int = 1800,
    retry_policy: dict[str, Any] | None = None,
    schedule: str | None = None,
    endpoint_enabled: bool = False,
    allowed_methods: list[str] | None = None,
    disable_global_key: bool = False,
    public_endpoint: bool = False,
    *,
    id: str | None = None,
    schedule_timezone: str = "UTC",
    schedule_overlap: str = "skip",
    schedule_misfire: str = "latest",
    isolation: str = "process",
    signature: dict[str, Any] | None = None,
    concurrency_limit: int | None = None,
    concurrency_key: str | None = None,
    rate_limit: str | None = None,
    endpoint_rate_limit: str | None = None,
    **unknown: Any,
) -> Callable[[F], F]: ...
def workflow(name: Any = None, *_args: Any, **_kwargs: Any) -> Any:
    """Publish a module-level function as a workflow."""
    return name if callable(name) else _unchanged


@overload
def data_provider(name: F, /) -> F: ...
@overload
def data_provider(
    name: str | None = None,
    description: str | None = None,
    category: str = "General",
    cache_ttl_seconds: int = 300,
    *,
    id: str | None = None,
    **unknown: Any,
) -> Callable[[F], F]: ...
def data_provider(name: Any = None, *_args: Any, **_kwargs: Any) -> Any:
    """Publish a module-level function as the source of a form field's options."""
    return name if callable(name) else _unchanged


@overload
def param(name: F, /) -> F: ...
@overload
def param(
    name: str | None = None,
    type: str | None = None,
    label: str | None = None,
    required: bool | None = None,
    validation: dict[str, Any] | None = None,
    data_provider: str | None = None,
    default_value: Any = None,
    help_text: str | None = None,
    *,
    description: str | None = None,
    default: Any = None,
    options: list[Any] | None = None,
    **unknown: Any,
) -> Callable[[F], F]: ...
def param(
    name: Any = None,
    type: str | None = None,
    label: str | None = None,
    required: bool | None = None,
    validation: dict[str, Any] | None = None,
    data_provider: str | None = None,
    default_value: Any = None,
    *_args: Any,
    default: Any = None,
    **_kwargs: Any,
) -> Any:
    """Describe one parameter; what is left out here is taken from the function's signature."""
    if type is not None and type not in PARAMETER_TYPES:
        raise ValueError(f"unknown parameter type {type!r}; use one of {', '.join(PARAMETER_TYPES)}")
    if callable(name):
        return name
    value = default if default_value is None else default_value
    is_kept = isinstance(name, str) and (value is not None or required is False)
    return _defaulting(name, value) if is_kept else _unchanged


def _unchanged(function: F) -> F:
    return function


def _defaulting(name: str, value: Any) -> Callable[[F], F]:
    def keep(function: F) -> F:
        # A new dict: what `functools.wraps` has copied belongs to the function inside as well.
        known = getattr(function, DEFAULTS, {})
        # Not everything that can be called takes attributes.
        with contextlib.suppress(AttributeError, TypeError):
            setattr(function, DEFAULTS, {**known, name: value})
        return function

    return keep
