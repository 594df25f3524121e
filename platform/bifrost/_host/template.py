"""The warm process that runs are forked from.

It imports what runs will need, once, compiles the workspace's files, and then only accepts, forks and reaps.
It holds no connection and no thread, and never executes workspace code: that happens in the children.
"""

from __future__ import annotations

import argparse
import ast
import fcntl
import gc
import importlib.util
import os
import sys
import time

from . import forks, isolation, memory
from . import options as isolation_options
from .index import python_files

COMMON = (
    *("asyncio", "base64", "collections", "concurrent.futures", "contextlib", "csv", "dataclasses"),
    *(
        "datetime",
        "decimal",
        "email.message",
        "enum",
        "functools",
        "hashlib",
        "hmac",
        "html",
        "importlib.abc",
    ),
    *("http.client", "io", "itertools", "json", "logging", "math", "operator", "pathlib", "random"),
    *("re", "secrets", "shutil", "socket", "ssl", "statistics", "string", "subprocess", "tempfile"),
    *("textwrap", "time", "traceback", "typing", "unicodedata", "urllib.error", "urllib.parse"),
    *("urllib.request", "uuid", "zoneinfo"),
)
# Modules of the standard library that act when they are imported.
_ACTING = frozenset(
    ("__hello__", "__phello__", "antigravity", "idlelib", "lib2to3", "rlcompleter", "this", "turtledemo")
)
# The SDK's modules, so that a run finds all of them in memory.
SDK = ("bifrost", "bifrost._http")


def preload(names: list[str]) -> None:
    """Import what can be imported; a module that fails will fail again, visibly, in the run that needs it."""
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException as problem:
            print(f"template: cannot preload {name}: {problem!r}", file=sys.stderr, flush=True)


def scan(paths: list[str]) -> list[str]:
    """Name the modules of the standard library that workspace files import.

    Others are imported by each run: what they draw at random, or take hold of, runs must not share. A module
    that is loaded here would also hide another version of it among the packages of the workspace.
    """
    wanted: set[str] = set()
    for path in paths:
        try:
            with open(path, "rb") as file:
                tree = ast.parse(file.read())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue  # the index reports it
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                wanted.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                wanted.add(node.module)
    return sorted(name for name in wanted if _is_harmless(name))


def _is_harmless(name: str) -> bool:
    top = name.partition(".")[0]
    if top not in sys.stdlib_module_names or top in _ACTING or name.endswith(".__main__"):
        return False
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def add_packages(folder: str) -> None:
    """Let runs import what is in this folder: before what the interpreter has, after the standard library.

    Nothing of it is imported here: it came from a package index, and what it does on import it does in a run,
    with the rights of a run.
    """
    places = ("site-packages", "dist-packages")
    at = next((at for at, path in enumerate(sys.path) if path.rstrip(os.sep).endswith(places)), len(sys.path))
    sys.path.insert(at, folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m bifrost._host.template")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--preload", default="")
    parser.add_argument("--packages", default="", help="folder of the packages of the workspace")
    isolation_options.add(parser)
    options = parser.parse_args()
    workspace = os.path.realpath(options.workspace)
    wanted = isolation_options.wanted(parser, options, workspace)

    began = time.monotonic()
    # What an import prints must not end up between the control frames.
    control = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    os.dup2(2, 1)
    forks.install()
    memory.share_arenas()
    preload([*COMMON, *SDK, *filter(None, options.preload.split(","))])
    # Opening a pipe would wait for whoever writes into it.
    paths = [path for path in python_files(workspace, hidden=True) if os.path.isfile(path)]
    preload(scan(paths))
    memory.give_back()
    memory.use_huge_pages()
    # Last, so that what every run touches lies close together: each page of it is copied in each run.
    from . import logs, server

    if options.packages:
        add_packages(options.packages)
    logs.prepare()
    try:
        loop = server.Server(options.socket, control=control, wanted=wanted)
    except isolation.Refused as problem:
        server.complain(f"ISOLATION is required, and cannot be had: {problem}")
        raise SystemExit(1) from None
    loop.compile(paths)
    loop.rehearse()
    # The heap of the template is shared with its children: no collection may touch, and so copy, its pages.
    memory.give_back()
    gc.freeze()
    gc.disable()
    loop.announce(len(sys.modules), began)
    loop.serve()


if __name__ == "__main__":
    main()
