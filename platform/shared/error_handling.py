"""For older files: the exceptions of `bifrost`."""

from bifrost import (
    ConfigurationError,
    IntegrationError,
    PermissionError,
    TimeoutError,
    UserError,
    ValidationError,
    WorkflowError,
)

__all__ = [
    "ConfigurationError",
    "IntegrationError",
    "PermissionError",
    "TimeoutError",
    "UserError",
    "ValidationError",
    "WorkflowError",
]
