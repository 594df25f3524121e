"""What the names in a file stand for: our decorators and the context, whatever they are imported as."""

from __future__ import annotations

import ast

DECORATORS = ("workflow", "data_provider", "param")
_CONTEXT_TYPES = ("ExecutionContext", "OrganizationContext")
_DECORATOR_MODULES = ("bifrost", "shared.decorators", "src.sdk.decorators")
_CONTEXT_MODULES = ("bifrost", "shared.context", "src.sdk.context")


class Names:
    """The names of one file."""

    def __init__(self, tree: ast.Module) -> None:
        # Bare ones count without their import, for files that import everything.
        self._decorators = {name: name for name in DECORATORS}
        self._contexts = {*_CONTEXT_TYPES}
        self._modules = {*_DECORATOR_MODULES}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                self._read_import(node)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name in _DECORATOR_MODULES and alias.asname:
                        self._modules.add(alias.asname)

    def _read_import(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or alias.name
            if node.module in _DECORATOR_MODULES and alias.name in DECORATORS:
                self._decorators[name] = alias.name
            elif node.module in _CONTEXT_MODULES and alias.name in _CONTEXT_TYPES:
                self._contexts.add(name)

    def kind(self, decorator: ast.expr) -> str | None:
        """Which of our decorators it is, if any."""
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(target, ast.Name):
            return self._decorators.get(target.id)
        if isinstance(target, ast.Attribute) and target.attr in DECORATORS:
            return target.attr if _dotted(target.value) in self._modules else None
        return None

    def is_context(self, argument: ast.arg) -> bool:
        """Whether this first parameter is given the execution's context."""
        if argument.arg == "context":
            return True
        annotation = argument.annotation
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            return self._is_context_type(annotation.value.strip("'\" "))
        return annotation is not None and self._is_context_type(_dotted(annotation))

    def _is_context_type(self, name: str) -> bool:
        return name in self._contexts or name.rpartition(".")[2] in _CONTEXT_TYPES


def _dotted(node: ast.expr) -> str:
    """`a.b.c` as it is written; empty for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""
