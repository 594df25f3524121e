"""Files of the workspace, of this execution, and those people uploaded.

An execution of an organization sees that organization's private overlay in front of the shared files, and
writes only there. Every function acts when called; its value may be awaited or used as it is.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import os
import tempfile

from . import _http, _runtime
from ._awaitable import Bytes, Done, Flag, List, Text
from .errors import PermissionError

LOCATIONS = ("workspace", "temp", "uploads")
OVERLAYS = ".overlays"
UPLOADS = ".uploads"


def read(path: str, location: str = "workspace") -> Text:
    """A file as text."""
    if _runtime.current is None:
        return Text(_http.post("files/read", "files", path=path, location=location))
    return Text(_read(path, location).decode())


def read_bytes(path: str, location: str = "workspace") -> Bytes:
    """A file as bytes."""
    return Bytes(_read(path, location))


def write(path: str, content: str, location: str = "workspace") -> Done:
    """Create or replace a text file, and the folders it is in."""
    if _runtime.current is None:
        _http.post("files/write", "files", path=path, content=content, location=location)
        return Done()
    return write_bytes(path, content.encode(), location)


def write_bytes(path: str, content: bytes, location: str = "workspace") -> Done:
    """Create or replace a file, and the folders it is in."""
    target = _target(path, location)
    folder = os.path.dirname(target)
    os.makedirs(folder, exist_ok=True)
    # Readers see the old file or the new one, never half of it.
    handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return Done()


def list(directory: str = "", location: str = "workspace") -> List[str]:
    """Names in a folder, folders with a trailing `/`."""
    if _runtime.current is None:
        return List(_http.post("files/list", "files", directory=directory, location=location))
    if location == "uploads":
        return List(_uploaded_names(directory))
    names: set[str] = set()
    found = False
    for root in _read_roots(location):
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(_inside(root, directory)) as entries,
        ):
            found = True
            names.update(
                e.name + "/" if e.is_dir() else e.name for e in entries if not e.name.startswith(".")
            )
    if not found and directory.strip("/."):
        raise FileNotFoundError(f"there is no folder {directory} in {location}")
    return List(sorted(names))


def delete(path: str, location: str = "workspace") -> Done:
    """Remove a file."""
    if _runtime.current is None:
        _http.post("files/delete", "files", path=path, location=location)
        return Done()
    try:
        os.unlink(_target(path, location))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"there is no file {path} in {location}") from None
    return Done()


def exists(path: str, location: str = "workspace") -> Flag:
    """Whether there is a file or folder of that name."""
    if location == "uploads":
        return Flag(bool(_runtime.call("uploads.exists", {"path": path}).result()))
    return Flag(any(os.path.exists(_inside(root, path)) for root in _read_roots(location)))


def _read(path: str, location: str) -> bytes:
    if location == "uploads":
        return _uploaded(path)
    for root in _read_roots(location):
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            open(_inside(root, path), "rb") as file,
        ):
            return file.read()
    raise FileNotFoundError(f"there is no file {path} in {location}")


def _uploaded(path: str) -> bytes:
    """A file that was uploaded for the form of this execution, piece by piece from the worker."""
    content = bytearray()
    while True:
        answer = _runtime.call("uploads.read", {"path": path, "offset": len(content)}).result()
        piece = base64.b64decode(answer["data"])
        content += piece
        if not piece or len(content) >= answer["size"]:
            return bytes(content)


def _uploaded_names(directory: str) -> builtins.list[str]:
    """What is in a folder of the uploads, folders with a trailing `/`."""
    prefix = directory.strip("/").removeprefix("uploads").strip("/")
    prefix = prefix + "/" if prefix else ""
    paths = [p for p in _runtime.call("uploads.list", {}).result() if p.startswith(prefix)]
    if not paths and prefix:
        raise FileNotFoundError(f"there is no folder {directory} in uploads")
    below = [p[len(prefix) :].partition("/") for p in paths]
    return sorted({name + slash for name, slash, _ in below})


def _read_roots(location: str) -> tuple[str, ...]:
    """Where to look, in this order."""
    run = _runtime.require("files")
    organization = run.context.org_id
    if location == "workspace":
        if organization is None:
            return (run.workspace,)
        return os.path.join(run.workspace, OVERLAYS, organization), run.workspace
    return (_write_root(location),)


def _write_root(location: str) -> str:
    run = _runtime.require("files")
    if location == "workspace":
        organization = run.context.org_id
        return os.path.join(run.workspace, OVERLAYS, organization) if organization else run.workspace
    if location == "temp":
        if run.temp_dir is None:
            raise RuntimeError("this execution has no folder for temporary files")
        return run.temp_dir
    if location == "uploads":
        raise PermissionError("uploads are read only")
    raise ValueError(f"unknown location {location!r}; use one of {', '.join(LOCATIONS)}")


def _target(path: str, location: str) -> str:
    """The file to write or delete."""
    run = _runtime.require("files")
    target = _inside(_write_root(location), path)
    if location == "workspace" and run.context.org_id is None and not run.context.is_platform_admin:
        name = os.path.basename(target)
        if name.endswith((".py", ".form.json")) or name == "requirements.txt":
            raise PermissionError(f"only platform admins may change {name} in the shared workspace")
    return target


def _inside(root: str, path: str) -> str:
    """The path below `root`, links resolved; what leads outside, or into folders of ours, is refused."""
    if "\0" in path:
        raise ValueError("a path cannot contain a null character")
    root = os.path.realpath(root)
    full = os.path.realpath(os.path.join(root, path))
    if full != root and not full.startswith(root + os.sep):
        raise ValueError(f"{path} is outside of the folder")
    below = full[len(root) + 1 :].split(os.sep, 1)[0]
    if below in (OVERLAYS, UPLOADS):
        raise ValueError(f"{path} is not yours to open")
    return full
