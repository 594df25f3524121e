"""Finding Compose, or fetching Debian's."""

import os
import shutil
import subprocess

from .debian import cache_directory, install, unpack
from .errors import ServiceError


def find_compose() -> tuple[list[str], dict[str, str]]:
    """The command that runs Compose, and what it needs in its environment."""
    if works(["docker", "compose", "version"]):
        return ["docker", "compose"], {}
    if works(["docker-compose", "version"]):
        return ["docker-compose"], {}
    if shutil.which("apt-get") is None:
        raise ServiceError("no Compose: install the Docker Compose plugin")
    if os.geteuid() == 0:
        install(["docker-compose"])
        return ["docker-compose"], {}
    root = cache_directory() / "debian/docker-compose"
    if not root.exists():
        cache_directory().mkdir(parents=True, exist_ok=True)
        unpack(["docker-compose"], root)
    return (
        ["/usr/bin/python3", str(root / "usr/bin/docker-compose")],
        {"PYTHONPATH": str(root / "usr/lib/python3/dist-packages")},
    )


def works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
