"""For older files: the enums of `bifrost`."""

from bifrost import ConfigType, ExecutionStatus, FormFieldType

__all__ = ["ConfigType", "ExecutionStatus", "FormFieldType"]
