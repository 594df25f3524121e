"""Checks one workflow file without executing it.

    python3 -s -P -m bifrost._host.validate WORKSPACE  <  {"path": ..., "source": Base64}

prints `{"valid", "issues", "workflow"}`. Imports are resolved, not carried out: whoever may ask for a check
need not be allowed to run code. No file is read here either: which ones may be is decided by who asks.
"""

from __future__ import annotations

import ast
import base64
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


def validate(workspace: str, path: str, source: bytes) -> dict[str, Any]:
    """The issues of a file in the order of the checks, and the first workflow it declares."""
    issues, workflow = _check(workspace, os.path.join(workspace, path), source, path)
    valid = all(issue["severity"] != "error" for issue in issues)
    return {"valid": valid, "issues": issues, "workflow": workflow}


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
    answer = validate(sys.argv[1], question["path"], base64.b64decode(question["source"]))
    sys.stdout.buffer.write(json.dumps(answer).encode("utf-8", "replace") + b"\n")


if __name__ == "__main__":
    main()
