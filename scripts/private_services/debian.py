"""Debian packages: installed as root without starting anything, or unpacked into a cache."""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ServiceError
from .state import say

QUIET = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}


def install(packages: list[str]) -> None:
    """Installs Debian packages without letting them start or enable anything."""
    say(f"installing {', '.join(packages)} from Debian")
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
    with nothing_starts():
        if not has_lists([], packages):
            call(["apt-get", "update", "-qq"])
        try:
            call([*command, *packages])
        except ServiceError:
            call(["apt-get", "update", "-qq"])  # stale lists name files that are gone
            call([*command, *packages])
    if Path("/run/systemd/system").exists():
        # The next boot must not start them either; packages without a unit of their name do not matter.
        for package in packages:
            subprocess.run(["systemctl", "disable", "--quiet", package], capture_output=True, check=False)


@contextmanager
def nothing_starts() -> Iterator[None]:
    """Debian asks this file whether an installed service may start; the answer is no."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


def unpack(packages: list[str], target: Path, *, installed_too: bool = False) -> None:
    """Unpacks Debian packages into `target`: nothing is installed, and nothing but a download needs root.

    Dependencies come along unless they are installed; with `installed_too` exactly `packages` do.
    """
    say(f"fetching {', '.join(packages)} from Debian into {target}")
    options = [] if has_lists([], packages) else private_lists()
    wanted = packages
    if not installed_too:
        plan = call(["apt-get", *options, "install", "--simulate", "--no-install-recommends", *packages])
        wanted = sorted(set(re.findall(r"^Inst (\S+)", plan, re.MULTILINE)))
    if not wanted:
        raise ServiceError(f"Debian calls {', '.join(packages)} installed, but the programs were not found")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "archives").mkdir(parents=True)
    # root would hand the download to the user _apt, who cannot write here
    call(["apt-get", *options, "-o", "APT::Sandbox::User=root", "download", *wanted], partial / "archives")
    for archive in sorted((partial / "archives").glob("*.deb")):
        call(["dpkg", "-x", str(archive), str(partial)])
    shutil.rmtree(partial / "archives")
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(target)


def has_lists(options: list[str], packages: list[str]) -> bool:
    answer = subprocess.run(
        ["apt-cache", *options, "show", *packages], capture_output=True, check=False, env=os.environ | QUIET
    )
    return answer.returncode == 0


def private_lists() -> list[str]:
    """Package lists of our own, for an unprivileged user on a machine that has none."""
    state, cache = cache_directory() / "apt/state", cache_directory() / "apt/cache"
    (state / "lists/partial").mkdir(parents=True, exist_ok=True)
    (cache / "archives/partial").mkdir(parents=True, exist_ok=True)
    options = ["-o", f"Dir::State={state}", "-o", f"Dir::Cache={cache}"]
    options += ["-o", "Dir::State::status=/var/lib/dpkg/status"]
    call(["apt-get", *options, "update", "-qq"])
    return options


def cache_directory() -> Path:
    if configured := os.environ.get("BIFROST_CACHE_DIR"):
        return Path(configured).absolute()
    if os.geteuid() == 0:
        return Path("/var/cache/bifrost")  # readable by the service user, which root's home is not
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bifrost"


@contextmanager
def cache_locked() -> Iterator[None]:
    """Two commands never fetch the same thing side by side."""
    cache_directory().mkdir(parents=True, exist_ok=True)
    with open(cache_directory() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def call(command: list[str], directory: Path | None = None) -> str:
    """Runs a command and returns its output, or raises with the last lines of it."""
    try:
        finished = subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            env=os.environ | QUIET,
        )
    except OSError as error:
        raise ServiceError(f"cannot run {command[0]}: {error}") from error
    if finished.returncode != 0:
        tail = "\n".join(finished.stdout.strip().splitlines()[-5:])
        raise ServiceError(f"`{' '.join(command)}` failed: {tail}")
    return finished.stdout
