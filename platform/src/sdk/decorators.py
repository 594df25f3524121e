"""For older files: the decorators of `bifrost`."""

from bifrost import data_provider, param, workflow

__all__ = ["data_provider", "param", "workflow"]
