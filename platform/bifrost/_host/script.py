"""Inline scripts: module-level code in which `await` and `return` are allowed."""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any

_FUNCTION = "__script__"
_OURS = sys.modules["__main__"]


def main_module(filename: str) -> dict[str, Any]:
    """The names of a new module `__main__`.

    Others find it there: `pickle`, for one, and `typing`.
    """
    module = ModuleType("__main__")
    # A new interpreter, as `multiprocessing` can start one, is prepared by the file otherwise; there is none.
    module.__spec__ = _OURS.__spec__
    module.__file__ = filename
    sys.modules["__main__"] = module
    return module.__dict__


def forget_main_module() -> None:
    """Have no later run find, nor memory hold, what a script has left in its names."""
    sys.modules["__main__"] = _OURS


def compile_script(source: str, filename: str) -> tuple[CodeType, bool]:
    """The code of a script, and whether it defines a function to call rather than being the body.

    A script without a top-level `return` is compiled as the module it is. With one it becomes the body of a
    function whose names are all global, so that both kinds leave their variables in the same place. What may
    not stand in a function, or not with global names, is rewritten where it stands; see `_ForFunction`.
    """
    source = source.removeprefix("\ufeff")  # as of a file
    lines = source.splitlines(keepends=True)
    linecache.cache[filename] = (len(source), None, lines, filename)
    tree = ast.parse(source, filename)
    if not _returns(tree.body):
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        return compile(tree, filename, "exec", flags=flags, dont_inherit=True), False
    body: list[ast.stmt] = _ForFunction().visit(tree).body
    wrapped = _wrap(body, [])
    names = _assigned_names(compile(wrapped, filename, "exec", dont_inherit=True))
    return compile(_wrap(body, names), filename, "exec", dont_inherit=True), True


def function_of(namespace: dict[str, Any]) -> Any:
    return namespace.pop(_FUNCTION)


def _wrap(body: list[ast.stmt], names: list[str]) -> ast.Module:
    declared: list[ast.stmt] = [ast.Global(names=names)] if names else []
    future = [s for s in body if isinstance(s, ast.ImportFrom) and s.module == "__future__"]
    rest = [s for s in body if s not in future]
    kind = ast.AsyncFunctionDef if any(_awaits(s) for s in rest) else ast.FunctionDef
    none = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    function = kind(name=_FUNCTION, args=none, body=declared + rest, decorator_list=[])
    if "type_params" in kind._fields:
        function.type_params = []  # type: ignore[union-attr,unused-ignore]
    return ast.fix_missing_locations(ast.Module(body=[*future, function], type_ignores=[]))


def _assigned_names(module: CodeType) -> list[str]:
    function = next(c for c in module.co_consts if isinstance(c, CodeType) and c.co_name == _FUNCTION)
    return sorted({*function.co_varnames[: function.co_nlocals], *function.co_cellvars})


class _ForFunction(ast.NodeTransformer):
    """Rewrites statements of a module to ones that mean the same in a function whose names are global.

    A star import becomes `exec("from a import *", globals())`, in its place, at the top level and inside of
    blocks alike: moved to the front it would come before what it may need, such as a change of `sys.path`.
    """

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        """`x: int = 1` as `x = 1`: an annotated name cannot be declared global."""
        if not isinstance(node.target, ast.Name):
            return node
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        if node.names[0].name != "*":
            return node
        (statement,) = ast.parse(f"exec({ast.unparse(node)!r}, globals())").body
        for part in ast.walk(statement):
            ast.copy_location(part, node)
        return statement

    def _keep(self, node: ast.AST) -> ast.AST:
        """Functions and classes have names of their own."""
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = visit_ClassDef = _keep


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """`node` and what is below it in the same scope."""
    yield node
    if not isinstance(node, _SCOPES):
        for child in ast.iter_child_nodes(node):
            yield from _own_nodes(child)


def _returns(body: list[ast.stmt]) -> bool:
    return any(isinstance(node, ast.Return) for statement in body for node in _own_nodes(statement))


def _awaits(statement: ast.stmt) -> bool:
    for node in _own_nodes(statement):
        if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
            return True
        if isinstance(node, ast.comprehension) and node.is_async:
            return True
    return False
