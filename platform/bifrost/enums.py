"""Values that appear in the records the SDK returns."""

from enum import StrEnum


class ExecutionStatus(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCESS = "Success"
    FAILED = "Failed"
    TIMEOUT = "Timeout"
    COMPLETED_WITH_ERRORS = "CompletedWithErrors"
    CANCELLING = "Cancelling"
    CANCELLED = "Cancelled"


class ConfigType(StrEnum):
    STRING = "string"
    INT = "int"
    BOOL = "bool"
    JSON = "json"
    SECRET = "secret"


class FormFieldType(StrEnum):
    TEXT = "text"
    EMAIL = "email"
    NUMBER = "number"
    SELECT = "select"
    CHECKBOX = "checkbox"
    TEXTAREA = "textarea"
    RADIO = "radio"
    DATETIME = "datetime"
    MARKDOWN = "markdown"
    HTML = "html"
    FILE = "file"


class IntegrationType(StrEnum):
    """Kinds of services that workflows connect to."""

    OAUTH = "oauth"
    API_KEY = "api_key"
    WEBHOOK = "webhook"
    MSGRAPH = "msgraph"
    HALOPSA = "halopsa"
