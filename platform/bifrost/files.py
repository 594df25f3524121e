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
import posixpath
import tempfile
from collections.abc import Iterator
from typing import Any

from . import _http, _runtime
from ._awaitable import Bytes, Done, Flag, List, Text
from .errors import PermissionError

LOCATIONS = ("workspace", "temp", "uploads")
AnyPath = str | os.PathLike[str]
_SHOWN_ROOT = "/workspace/"
_TRIES = 5
"""How often a file that changes while it is read is read anew."""


def read(path: AnyPath, location: str = "workspace") -> Text:
    """A file as text."""
    if _runtime.current is None:
        return Text(_outside("read", path, location))
    return Text(_read(path, location).decode())


def read_bytes(path: AnyPath, location: str = "workspace") -> Bytes:
    """A file as bytes."""
    if _runtime.current is None:
        return Bytes(_outside("read", path, location).encode())
    return Bytes(_read(path, location))


def write(path: AnyPath, content: str, location: str = "workspace") -> Done:
    """Create or replace a text file, and the folders it is in."""
    if not isinstance(content, str):
        raise TypeError(f"write takes text, not {type(content).__name__}; write_bytes takes bytes")
    if _runtime.current is None:
        _outside("write", path, location, content=content)
        return Done()
    return write_bytes(path, content.encode(), location)


def write_bytes(path: AnyPath, content: bytes, location: str = "workspace") -> Done:
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
        with _refusing(path, location):
            _write_temp(_temp(path, location), content)
    return Done()


def list(directory: AnyPath = "", location: str = "workspace") -> List[str]:
    """Names in a folder, folders with a trailing `/`."""
    if _runtime.current is None:
        return List(_listed(_sent(directory, location), location))
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


def delete(path: AnyPath, location: str = "workspace") -> Done:
    """Remove a file."""
    if _runtime.current is None:
        _outside("delete", path, location)
    elif location == "workspace":
        _ask("files.delete", path=_relative(path))
    else:
        with _refusing(path, location):
            os.unlink(_temp(path, location))
    return Done()


def exists(path: AnyPath, location: str = "workspace") -> Flag:
    """Whether there is a file or folder of that name."""
    if _runtime.current is None:
        folder, _, name = _sent(path, location).rpartition("/")
        try:
            names = _listed(folder, location)
        except FileNotFoundError:
            return Flag(False)
        return Flag(not name or name in names or name + "/" in names)
    if location == "uploads":
        return Flag(bool(_ask("uploads.exists", path=_text(path))))
    if location == "workspace":
        return Flag(bool(_ask("files.exists", path=_relative(path))))
    return Flag(os.path.exists(_temp(path, location)))


def _ask(method: str, **arguments: Any) -> Any:
    return _runtime.call(method, arguments).result()


def _read(path: AnyPath, location: str) -> bytes:
    if location == "uploads":
        return _pieces("uploads.read", _text(path))
    if location == "workspace":
        return _pieces("files.read", _relative(path))
    with _refusing(path, location), open(_temp(path, location), "rb") as file:
        return file.read()


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


def _uploaded_names(directory: AnyPath) -> builtins.list[str]:
    """What is in a folder of the uploads, folders with a trailing `/`."""
    directory = _text(directory)
    first, _, below_it = directory.strip("/").partition("/")
    prefix = below_it.strip("/") if first == "uploads" else directory.strip("/")
    prefix = prefix + "/" if prefix else ""
    paths = [p for p in _ask("uploads.list") if p.startswith(prefix)]
    if not paths and prefix:
        raise FileNotFoundError(f"there is no folder {directory} in uploads")
    below = [p[len(prefix) :].partition("/") for p in paths]
    return sorted({name + slash for name, slash, _ in below})


def _text(path: AnyPath) -> str:
    """A path as it is written."""
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"a path is text, not {type(text).__name__}")
    if "\0" in text:
        raise ValueError("a path cannot contain a null character")
    return text


def _relative(path: AnyPath) -> str:
    """A path as the worker takes it: below the workspace."""
    run = _runtime.require("files")
    return _below(_text(path), (run.workspace.rstrip("/") + "/", _SHOWN_ROOT), "workspace")


def _below(path: str, roots: tuple[str, ...], what: str) -> str:
    """The path without the root that it begins with; one that has no root is below it."""
    if path.startswith("/"):
        for root in roots:
            if (path + "/").startswith(root):
                return path[len(root) :]
        raise ValueError(f"{path} is outside of the {what}")
    return path


def _sent(path: AnyPath, location: str) -> str:
    """A path as the API takes it, which has no names of this machine."""
    roots, what = ((_SHOWN_ROOT,), "workspace") if location == "workspace" else ((), "folder")
    plain = posixpath.normpath(_below(_text(path), roots, what)).lstrip("/")
    if plain == ".." or plain.startswith("../"):
        raise ValueError(f"{path} is outside of the {what}")
    return "" if plain == "." else plain


def _outside(action: str, path: AnyPath, location: str, **more: Any) -> Any:
    """What the API answers where no worker runs the file."""
    return _http.post(f"files/{action}", "files", path=_sent(path, location), location=location, **more)


def _listed(folder: str, location: str) -> builtins.list[str]:
    names: builtins.list[str] = _http.post("files/list", "files", directory=folder, location=location)
    return names


def _temp(path: AnyPath, location: str) -> str:
    """A path below the run's own folder, links resolved; what leads outside is refused."""
    run = _runtime.require("files")
    if location == "uploads":
        raise PermissionError("uploads are read only")
    if location != "temp":
        raise ValueError(f"unknown location {location!r}; use one of {', '.join(LOCATIONS)}")
    if run.temp_dir is None:
        raise RuntimeError("this execution has no folder for temporary files")
    root = os.path.realpath(run.temp_dir)
    full = os.path.realpath(os.path.join(root, _text(path)))
    if full != root and not full.startswith(root + os.sep):
        raise ValueError(f"{path} is outside of the folder")
    return full


@contextlib.contextmanager
def _refusing(path: AnyPath, location: str) -> Iterator[None]:
    """Failures as the workspace has them, without the names that the machine has for files."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"there is no file {path} in {location}") from None
    except IsADirectoryError:
        raise ValueError(f"{path or 'this'} is a folder") from None


def _write_temp(target: str, content: bytes) -> None:
    if os.path.isdir(target):
        raise IsADirectoryError(target)
    folder = os.path.dirname(target)
    try:
        os.makedirs(folder, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError("a folder of the path is a file") from None
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
