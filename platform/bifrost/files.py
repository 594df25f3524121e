"""Files of the workspace, of this execution, and those people uploaded.

An execution of an organization sees that organization's private overlay in front of the shared files, and
writes only there: the worker answers for both, since no run may open what belongs to single organizations.
Temporary files are this execution's own. Every function acts when called; its value may be awaited or used as
it is.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import os
import tempfile
from typing import Any

from . import _http, _runtime
from ._awaitable import Bytes, Done, Flag, List, Text
from .errors import PermissionError

LOCATIONS = ("workspace", "temp", "uploads")
_SHOWN_ROOT = "/workspace/"
_TRIES = 5
"""How often a file that changes while it is read is read anew."""


def read(path: str, location: str = "workspace") -> Text:
    """A file as text."""
    if _runtime.current is None:
        return Text(_http.post("files/read", "files", path=path, location=location))
    return Text(_read(path, location).decode())


def read_bytes(path: str, location: str = "workspace") -> Bytes:
    """A file as bytes."""
    if _runtime.current is None:
        return Bytes(_http.post("files/read", "files", path=path, location=location).encode())
    return Bytes(_read(path, location))


def write(path: str, content: str, location: str = "workspace") -> Done:
    """Create or replace a text file, and the folders it is in."""
    if _runtime.current is None:
        _http.post("files/write", "files", path=path, content=content, location=location)
        return Done()
    return write_bytes(path, content.encode(), location)


def write_bytes(path: str, content: bytes, location: str = "workspace") -> Done:
    """Create or replace a file, and the folders it is in; one of the workspace may have 10 MiB."""
    if _runtime.current is None:
        try:
            text = bytes(content).decode()
        except UnicodeDecodeError:
            raise ValueError("outside of a worker only UTF-8 text can be written") from None
        return write(path, text, location)
    if location == "workspace":
        _ask("files.write", path=_relative(path), data=base64.b64encode(content).decode())
    else:
        _write_temp(_temp(path, location), content)
    return Done()


def list(directory: str = "", location: str = "workspace") -> List[str]:
    """Names in a folder, folders with a trailing `/`."""
    if _runtime.current is None:
        return List(_http.post("files/list", "files", directory=directory, location=location))
    if location == "uploads":
        return List(_uploaded_names(directory))
    if location == "workspace":
        return List(_ask("files.list", directory=_relative(directory)))
    folder = _temp(directory, location)
    try:
        with os.scandir(folder) as entries:
            names = [e.name + "/" if e.is_dir() else e.name for e in entries if not e.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"there is no folder {directory} in {location}") from None
    return List(sorted(names))


def delete(path: str, location: str = "workspace") -> Done:
    """Remove a file."""
    if _runtime.current is None:
        _http.post("files/delete", "files", path=path, location=location)
    elif location == "workspace":
        _ask("files.delete", path=_relative(path))
    else:
        try:
            os.unlink(_temp(path, location))
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"there is no file {path} in {location}") from None
    return Done()


def exists(path: str, location: str = "workspace") -> Flag:
    """Whether there is a file or folder of that name."""
    if _runtime.current is None:
        folder, _, name = path.rstrip("/").rpartition("/")
        try:
            names = _http.post("files/list", "files", directory=folder, location=location)
        except FileNotFoundError:
            return Flag(False)
        return Flag(name in names or name + "/" in names)
    if location == "uploads":
        return Flag(bool(_ask("uploads.exists", path=path)))
    if location == "workspace":
        return Flag(bool(_ask("files.exists", path=_relative(path))))
    return Flag(os.path.exists(_temp(path, location)))


def _ask(method: str, **arguments: Any) -> Any:
    return _runtime.call(method, arguments).result()


def _read(path: str, location: str) -> bytes:
    if location == "uploads":
        return _pieces("uploads.read", path)
    if location == "workspace":
        return _pieces("files.read", _relative(path))
    try:
        with open(_temp(path, location), "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"there is no file {path} in {location}") from None


def _pieces(method: str, path: str) -> bytes:
    """A file, piece by piece from the worker; all of them of the same state of it."""
    for _ in range(_TRIES):
        content, state = bytearray(), None
        while True:
            answer = _ask(method, path=path, offset=len(content))
            if content and answer.get("state") != state:
                break
            state = answer.get("state")
            piece = base64.b64decode(answer["data"])
            content += piece
            if not piece or len(content) >= answer["size"]:
                return bytes(content)
    raise RuntimeError(f"{path} changes faster than it can be read")


def _uploaded_names(directory: str) -> builtins.list[str]:
    """What is in a folder of the uploads, folders with a trailing `/`."""
    first, _, below_it = directory.strip("/").partition("/")
    prefix = below_it.strip("/") if first == "uploads" else directory.strip("/")
    prefix = prefix + "/" if prefix else ""
    paths = [p for p in _ask("uploads.list") if p.startswith(prefix)]
    if not paths and prefix:
        raise FileNotFoundError(f"there is no folder {directory} in uploads")
    below = [p[len(prefix) :].partition("/") for p in paths]
    return sorted({name + slash for name, slash, _ in below})


def _relative(path: str) -> str:
    """A path as the worker takes it: below the workspace."""
    run = _runtime.require("files")
    if "\0" in path:
        raise ValueError("a path cannot contain a null character")
    if path.startswith("/"):
        for root in (run.workspace.rstrip("/") + "/", _SHOWN_ROOT):
            if (path + "/").startswith(root):
                return path[len(root) :]
        raise ValueError(f"{path} is outside of the workspace")
    return path


def _temp(path: str, location: str) -> str:
    """A path below the run's own folder, links resolved; what leads outside is refused."""
    run = _runtime.require("files")
    if location == "uploads":
        raise PermissionError("uploads are read only")
    if location != "temp":
        raise ValueError(f"unknown location {location!r}; use one of {', '.join(LOCATIONS)}")
    if run.temp_dir is None:
        raise RuntimeError("this execution has no folder for temporary files")
    if "\0" in path:
        raise ValueError("a path cannot contain a null character")
    root = os.path.realpath(run.temp_dir)
    full = os.path.realpath(os.path.join(root, path))
    if full != root and not full.startswith(root + os.sep):
        raise ValueError(f"{path} is outside of the folder")
    return full


def _write_temp(target: str, content: bytes) -> None:
    folder = os.path.dirname(target)
    os.makedirs(folder, exist_ok=True)
    # Readers see the old file or the new one, never half of it.
    handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
