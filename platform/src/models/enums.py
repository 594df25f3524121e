"""For older files: the enums of `bifrost`."""

from bifrost import ConfigType, ExecutionStatus, FormFieldType, IntegrationType

__all__ = ["ConfigType", "ExecutionStatus", "FormFieldType", "IntegrationType"]
