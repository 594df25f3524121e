"""Tools of the long checks, each in an environment of its own below `.bifrost/`, pinned."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from .server import ROOT


def python_environment(name: str, requirements: list[str]) -> Path:
    """Makes `.bifrost/NAME` with these packages, unless it is there already; gives its folder of programs."""
    folder = ROOT / ".bifrost" / name
    installed = folder / "installed.txt"
    wanted = "\n".join(requirements) + "\n"
    if not installed.is_file() or installed.read_text() != wanted:
        print(f"making {folder.relative_to(ROOT)}", file=sys.stderr)
        subprocess.run([_newest_python(), "-m", "venv", "--clear", folder], check=True)
        pip: list[str | Path] = [folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *requirements], check=True)
        installed.write_text(wanted)
    return folder / "bin"


def _newest_python() -> str:
    """Some 3.11 fail to parse from deep within a call (gh-106905), which generators of data do."""
    for name in ("python3.13", "python3.12"):
        found = shutil.which(name)
        # A shim of a version manager may be there without its Python.
        if found and subprocess.run([found, "-c", ""], check=False, capture_output=True).returncode == 0:
            return found
    return sys.executable


def node_packages(name: str, packages: list[str]) -> Path:
    """The same for packages of npm; gives the folder that holds `node_modules`."""
    folder = ROOT / ".bifrost" / name
    installed = folder / "installed.txt"
    wanted = "\n".join(packages) + "\n"
    if not installed.is_file() or installed.read_text() != wanted:
        print(f"making {folder.relative_to(ROOT)}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"name": "check", "private": true, "type": "module"}\n')
        npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact"]
        subprocess.run([*npm, *packages], cwd=folder, check=True)
        installed.write_text(wanted)
    return folder
