"""The Bifrost SDK: what workflow files import.

    from bifrost import workflow, param, context, config, secrets

Inside an execution the modules talk to the worker over the run's private socket; no credential of the
platform is ever in this process.
"""

from . import config, errors, executions, files, forms, oauth, organizations, roles, secrets, workflows
from ._context import Caller, ExecutionContext, Organization, OrganizationContext, context
from ._decorators import data_provider, param, workflow
from .enums import ConfigType, ExecutionStatus, FormFieldType, IntegrationType
from .errors import (
    ConfigurationError,
    IntegrationError,
    PermissionError,
    TimeoutError,
    UserError,
    ValidationError,
    WorkflowError,
)
from .records import Form, OAuthCredentials, Role

__version__ = "0.1.0"

__all__ = [
    "Caller",
    "ConfigType",
    "ConfigurationError",
    "ExecutionContext",
    "ExecutionStatus",
    "Form",
    "FormFieldType",
    "IntegrationError",
    "IntegrationType",
    "OAuthCredentials",
    "Organization",
    "OrganizationContext",
    "PermissionError",
    "Role",
    "TimeoutError",
    "UserError",
    "ValidationError",
    "WorkflowError",
    "config",
    "context",
    "data_provider",
    "errors",
    "executions",
    "files",
    "forms",
    "oauth",
    "organizations",
    "param",
    "roles",
    "secrets",
    "workflow",
    "workflows",
]
