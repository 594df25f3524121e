"""Builds the package without any build tool, so that `pip install` works where no index can be reached.

The package is plain Python without dependencies; a wheel of it is a zip file with three files of metadata.
What PEP 517 asks of a build backend, and no more.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent
_PACKAGES = ("bifrost", "shared", "src")
_TIME = (2020, 1, 1, 0, 0, 0)
_WHEEL = b"Wheel-Version: 1.0\nGenerator: bifrost\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Write the wheel; its name."""
    return _wheel(wheel_directory, {name: path.read_bytes() for name, path in _sources()})


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Write a wheel that only says where the sources are."""
    return _wheel(wheel_directory, {"bifrost-editable.pth": f"{_ROOT}\n".encode()})


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Write the source archive; its name."""
    project = _project()
    base = f"{project['name']}-{project['version']}"
    with tarfile.open(os.path.join(sdist_directory, f"{base}.tar.gz"), "w:gz") as archive:
        own = [(name, _ROOT / name) for name in ("pyproject.toml", "build_backend.py", "README.md")]
        for name, path in [*own, *_sources()]:
            content = path.read_bytes()
            info = tarfile.TarInfo(f"{base}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return f"{base}.tar.gz"


def _project() -> dict[str, Any]:
    with (_ROOT / "pyproject.toml").open("rb") as file:
        return dict(tomllib.load(file)["project"])


def _sources() -> list[tuple[str, Path]]:
    found = [
        path
        for package in _PACKAGES
        for pattern in ("*.py", "py.typed")
        for path in (_ROOT / package).rglob(pattern)
    ]
    return sorted((path.relative_to(_ROOT).as_posix(), path) for path in found)


def _wheel(directory: str, files: dict[str, bytes]) -> str:
    project = _project()
    base = f"{project['name']}-{project['version']}"
    info = f"{base}.dist-info"
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {project['version']}",
        f"Summary: {project['description']}",
        f"License: {project['license']['text']}",
        f"Requires-Python: {project['requires-python']}",
    ]
    files = {
        **files,
        f"{info}/METADATA": ("\n".join(metadata) + "\n").encode(),
        f"{info}/WHEEL": _WHEEL,
    }
    record = "".join(f"{name},{_digest(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    name = f"{base}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, _TIME)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return name


def _digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
