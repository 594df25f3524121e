"""Static discovery: what the files of a workspace publish, without executing any of them.

    python3 -s -P -m bifrost._host.index DIR [EXTRA_DIR...]

prints `{"files": [...]}`. A file that cannot be read yields only problems, and never hides another file.
Paths are relative to the directory they were found in; files of an extra directory carry it as `root`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from .declarations import Reader
from .entries import FileEntry

# An index of PostgreSQL takes no longer ones, in bytes.
_LONGEST_PATH = 2000


def index_workspace(paths: Iterable[str]) -> dict[str, Any]:
    """Index the workspace (first path) and further directories, such as shipped examples."""
    files: list[dict[str, Any]] = []
    for number, root in enumerate(paths):
        root = os.path.realpath(root)
        for path in python_files(root):
            entry = index_file(path, os.path.relpath(path, root).replace(os.sep, "/"))
            if number:
                entry["root"] = root
            files.append(entry)
    _report_shared_ids(files)
    return {"files": files}


def python_files(root: str, *, hidden: bool = False) -> Iterator[str]:
    """Python files below `root` in a stable order; with `hidden` those beginning with `_` too."""
    skip = (".",) if hidden else (".", "_")
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(skip) and name != "__pycache__")
        for name in sorted(names):
            if name.endswith(".py") and not name.startswith(skip):
                yield os.path.join(folder, name)


def index_file(path: str, shown_path: str) -> dict[str, Any]:
    """The index entry of a file on disk."""
    name = os.fsencode(shown_path)
    try:
        name.decode()
    except UnicodeDecodeError:
        # Escaped, since two of them must not become one.
        shown_path = name.decode("utf-8", "backslashreplace")
        return _unusable(shown_path, "the name of the file is not UTF-8", "Rename the file or its folder.")
    if len(name) > _LONGEST_PATH:
        return _unusable(
            shown_path, "the path of the file is too long", "Give it or its folders shorter names."
        )
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return _unusable(
                    shown_path, "this is not a regular file", "Remove it, or give it another name."
                )
            source = file.read()
    except OSError as problem:
        return _unusable(shown_path, f"cannot read the file: {problem.strerror}", "Check its permissions.")
    return index_source(source, shown_path)


def _at_once(path: str, flags: int) -> int:
    """Opens without waiting for whoever would write into a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _unusable(shown_path: str, message: str, hint: str) -> dict[str, Any]:
    found = FileEntry()
    found.problem("error", 1, 0, message, hint)
    return found.entry(shown_path, "")


def index_source(source: bytes, shown_path: str) -> dict[str, Any]:
    """The index entry of a file with this content."""
    found = FileEntry()
    try:
        tree = ast.parse(source, shown_path)
    except SyntaxError as problem:
        found.problem(
            "error",
            problem.lineno or 1,
            max((problem.offset or 1) - 1, 0),
            f"syntax error: {problem.msg}",
            (problem.text or "").strip() or "Correct the file; its workflows stay as they last were.",
        )
    except Exception as problem:
        found.problem("error", 1, 0, f"cannot parse the file: {problem}", "Save it as plain UTF-8 Python.")
    else:
        _read(found, tree)
    return found.entry(shown_path, hashlib.sha256(source).hexdigest())


def _read(found: FileEntry, tree: ast.Module) -> None:
    try:
        Reader(found, tree).read()
    except Exception as problem:
        # Nothing rather than a part: with an error alone, the file keeps the workflows it had.
        found.workflows.clear()
        found.data_providers.clear()
        found.problem(
            "error",
            1,
            0,
            f"cannot read the file: {type(problem).__name__}: {problem}",
            "Write what is decorated in a simpler way; its workflows stay as they last were.",
        )


def _report_shared_ids(files: list[dict[str, Any]]) -> None:
    """Two rows cannot have one id: the first file keeps it."""
    owners: dict[str, str] = {}
    for entry in files:
        for item in (*entry["workflows"], *entry["data_providers"]):
            owner = owners.setdefault(item["id"], entry["path"]) if item["id"] else entry["path"]
            if item["id"] and (owner != entry["path"] or item is not _first_with(entry, item["id"])):
                entry["problems"].append(
                    {
                        "severity": "error",
                        "line": item["line"],
                        "column": 0,
                        "message": f"the id of {item['function']} is used in {owner} already",
                        "hint": "Give the copy an id of its own, or none.",
                    }
                )
                item["id"] = None


def _first_with(entry: dict[str, Any], row_id: str) -> dict[str, Any] | None:
    items: list[dict[str, Any]] = [*entry["workflows"], *entry["data_providers"]]
    return next((item for item in items if item["id"] == row_id), None)


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python3 -m bifrost._host.index DIR [EXTRA_DIR...]")
    text = json.dumps(index_workspace(sys.argv[1:]), ensure_ascii=False)
    sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")


if __name__ == "__main__":
    main()
