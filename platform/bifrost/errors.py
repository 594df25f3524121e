"""Exceptions that workflow files raise and catch.

`UserError` is the one whose text the person who started the run may read; every other exception shows them
only that something went wrong.
"""

from __future__ import annotations

import builtins
from typing import Any

__all__ = [
    "BifrostError",
    "ConfigurationError",
    "IntegrationError",
    "PermissionError",
    "TimeoutError",
    "UserError",
    "ValidationError",
    "WorkflowError",
]


class BifrostError(Exception):
    """Common shape: `message`, `error_type`, `details`."""

    def __init__(
        self, message: str = "", *, error_type: str | None = None, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        # `raise UserError(problem)` means its text.
        self.message = message if isinstance(message, str) else str(message)
        self.error_type = error_type or type(self).__name__
        self.details: dict[str, Any] = dict(details or {})

    def __getattr__(self, name: str) -> Any:
        # A class derived from this one may have an `__init__` that does not call ours.
        match name:
            case "message":
                return super().__str__()
            case "error_type":
                return type(self).__name__
            case "details":
                return {}
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __str__(self) -> str:
        return str(self.message)

    def to_dict(self) -> dict[str, Any]:
        return {"error_type": self.error_type, "message": self.message, "details": self.details}


class UserError(BifrostError):
    """Fails the run with a text meant for the person who started it."""


class WorkflowError(BifrostError):
    """`WorkflowError(message)` or `WorkflowError(error_type, message, details)`."""

    def __init__(
        self, error_type: str = "", message: str | None = None, details: dict[str, Any] | None = None
    ) -> None:
        if message is None:
            super().__init__(error_type, details=details)
        else:
            super().__init__(message, error_type=error_type or None, details=details)


class ValidationError(BifrostError):
    """Input that breaks a rule, optionally naming the field."""

    def __init__(
        self, message: str = "", field: str | None = None, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message, details={**({"field": field} if field else {}), **(details or {})})
        self.field = field


class IntegrationError(BifrostError):
    """`IntegrationError(message)` or `IntegrationError(integration, message, status_code)`."""

    def __init__(
        self,
        integration: str = "",
        message: str | None = None,
        status_code: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        named = message is not None
        found: dict[str, Any] = {"integration": integration} if named else {}
        if status_code is not None:
            found["status_code"] = status_code
        super().__init__(
            message if message is not None else integration, details={**found, **(details or {})}
        )
        self.integration = integration if named else None
        self.status_code = status_code


class ConfigurationError(BifrostError):
    """A setting that is missing or unusable."""

    def __init__(
        self, message: str = "", config_key: str | None = None, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(
            message, details={**({"config_key": config_key} if config_key else {}), **(details or {})}
        )
        self.config_key = config_key


class TimeoutError(BifrostError, builtins.TimeoutError):
    """Something took longer than allowed; also the built-in of that name."""


class PermissionError(BifrostError, builtins.PermissionError):
    """The caller lacks the right; also the built-in of that name."""


_BY_NAME: dict[str, type[Exception]] = {
    "ConfigurationError": ConfigurationError,
    "FileNotFoundError": FileNotFoundError,
    "IntegrationError": IntegrationError,
    "KeyError": KeyError,
    "PermissionError": PermissionError,
    "RuntimeError": RuntimeError,
    "TimeoutError": TimeoutError,
    "TypeError": TypeError,
    "UserError": UserError,
    "ValidationError": ValidationError,
    "ValueError": ValueError,
}


def from_reply(name: str, message: str) -> Exception:
    """The exception for an error the worker answered with."""
    known = _BY_NAME.get(name)
    return known(message) if known is not None else WorkflowError(name or "WorkflowError", message)
