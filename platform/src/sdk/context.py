"""For older files: the context types of `bifrost`."""

from bifrost import Caller, ExecutionContext, Organization, OrganizationContext, context

__all__ = ["Caller", "ExecutionContext", "Organization", "OrganizationContext", "context"]
