"""Checks one workflow file without executing it.

    python3 -s -P -m bifrost._host.validate WORKSPACE  <  {"path": ..., "content": ...}

prints `{"path", "valid", "issues", "workflow"}`. Imports are resolved, not carried out: whoever may ask for a
check need not be allowed to run code.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from .importer import PROTECTED
from .index import index_source

_GENERAL = "General"
# Discovery falls back to the default for these; who asks whether a file is right wants to know.
_MUST_BE_RIGHT = ("execution_mode", "timeout_seconds", "type")

Issue = dict[str, Any]


def validate(workspace: str, path: str, content: str | None) -> dict[str, Any]:
    """The issues of the file in the order of the checks, and the first workflow it declares."""
    shown, full = _locate(workspace, path)
    answer: dict[str, Any] = {"path": shown, "valid": False, "issues": [], "workflow": None}
    if full is None:
        answer["issues"].append(_issue(None, "the path is outside of the workspace"))
        return answer
    if content is None:
        try:
            with open(full, "rb") as file:
                source = file.read()
        except OSError:
            answer["issues"].append(_issue(None, f"there is no file {shown}"))
            return answer
    else:
        source = content.encode("utf-8", "surrogatepass")
    issues, answer["workflow"] = _check(workspace, full, source, shown)
    answer["issues"] = issues
    answer["valid"] = all(issue["severity"] != "error" for issue in issues)
    return answer


def _check(workspace: str, full: str, source: bytes, shown: str) -> tuple[list[Issue], dict[str, Any] | None]:
    entry = index_source(source, shown)
    reported = [_of_problem(problem) for problem in entry["problems"]]
    try:
        tree = ast.parse(source, shown)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return reported, None
    issues = [*_missing_imports(tree, workspace, os.path.dirname(full))]
    workflows = entry["workflows"]
    if not workflows and not any(issue["severity"] == "error" for issue in reported):
        issues.append(_issue(None, "the file has no function with @workflow"))
    for workflow in workflows:
        name, line = workflow["name"], workflow["line"]
        if not workflow["description"]:
            issues.append(_issue(line, f"{name} has no description: write a docstring, or description=..."))
        if workflow["category"] == _GENERAL:
            issues.append(_issue(line, f"{name} is in the category {_GENERAL}", "warning"))
        if not workflow["tags"]:
            issues.append(_issue(line, f"{name} has no tags", "warning"))
    return issues + reported, workflows[0] if workflows else None


def _locate(workspace: str, path: str) -> tuple[str, str | None]:
    """The path relative to the workspace, and where that is; None for what leads outside."""
    root = os.path.realpath(workspace)
    relative = path.removeprefix("/workspace/").strip("/") or path
    full = os.path.realpath(os.path.join(root, relative))
    shown = os.path.relpath(full, root).replace(os.sep, "/")
    return (relative, None) if shown.startswith("../") or shown in ("..", ".") else (shown, full)


def _missing_imports(tree: ast.Module, workspace: str, folder: str) -> Iterator[Issue]:
    """Imports at module level that lead nowhere; those inside `try` are meant to be missing sometimes."""
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            names = [statement.module]
        else:
            continue
        for name in names:
            if not _exists(name, workspace, folder):
                yield _issue(statement.lineno, f"import: there is no module {name}")


def _exists(name: str, workspace: str, folder: str) -> bool:
    top, *inner = name.split(".")
    if top not in PROTECTED:
        for place in (folder, os.path.realpath(workspace)):
            base = os.path.join(place, top)
            if os.path.isfile(base + ".py") or os.path.isdir(base):
                below = os.path.join(base, *inner)
                return os.path.isfile(below + ".py") or os.path.isdir(below)
    try:
        # The package itself is found without importing it; what is inside would need that.
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _of_problem(problem: dict[str, Any]) -> Issue:
    text = f"{problem['message']}. {problem['hint']}" if problem["hint"] else problem["message"]
    severity = "error" if problem.get("argument") in _MUST_BE_RIGHT else problem["severity"]
    return _issue(problem["line"], text, severity)


def _issue(line: int | None, message: str, severity: str = "error") -> Issue:
    return {"line": line, "message": message, "severity": severity}


def main() -> None:
    question = json.loads(sys.stdin.buffer.read())
    answer = validate(sys.argv[1], question["path"], question.get("content"))
    sys.stdout.buffer.write(json.dumps(answer).encode("utf-8", "replace") + b"\n")


if __name__ == "__main__":
    main()
