"""What outlives one command: ports, passwords and the identity of the processes we started.

Everything is in one directory per set of services. The state file is the only record of what is ours.
"""

import fcntl
import hashlib
import json
import os
import pwd
import random
import secrets
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ServiceError

CHECKOUT = Path(__file__).resolve().parents[2]
# Each service's own ports; the first is the one that clients use.
PORTS = {"postgres": ("postgres",), "rabbitmq": ("rabbitmq", "rabbitmq_dist", "epmd"), "redis": ("redis",)}


def say(message: str) -> None:
    """Progress goes to stderr: stdout is for `env` and `status`."""
    print(message, file=sys.stderr, flush=True)


def default_name() -> str:
    """A name per checkout, so that two checkouts never share queues or kill each other's services."""
    return f"{CHECKOUT.name}-{hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:6]}"


def service_user() -> pwd.struct_passwd | None:
    """The user that the services run as when we are root; PostgreSQL refuses to be root."""
    if os.geteuid() != 0:
        return None
    for name in ("bifrost", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServiceError("no user to run as: create one with `useradd --system bifrost`")


class State:
    """The directory of one set of services."""

    def __init__(self, name: str) -> None:
        if not name or "/" in name or name.startswith("."):
            raise ServiceError(f"not a usable name: {name!r}")
        self.user = service_user()
        self.directory = base_directory() / name
        self._file = self.directory / "state.json"
        self._write_lock = threading.Lock()
        self._data: dict[str, Any] = {"ports": {}, "durable": False, "processes": {}}
        self._load()

    def _load(self) -> None:
        try:
            self._data |= json.loads(self._file.read_text())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise ServiceError(f"cannot read {self._file}: {error}") from error

    def _save(self) -> None:
        replacement = self._file.with_suffix(".new")
        with open(os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self._data, file, indent=2)
        replacement.replace(self._file)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time changes a set of services."""
        # Passing through is allowed to the service user, listing is not.
        self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        with open(self.directory / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._load()
            yield

    @property
    def ports(self) -> dict[str, int]:
        ports: dict[str, int] = self._data["ports"]
        return ports

    @property
    def durable(self) -> bool:
        return bool(self._data["durable"])

    def set_durable(self, durable: bool) -> None:
        if durable != self.durable:
            self._data["durable"] = durable
            self._save()

    def process(self, name: str) -> dict[str, Any] | None:
        """What was recorded about a process when it was started."""
        identity: dict[str, Any] | None = self._data["processes"].get(name)
        return identity

    def record_process(self, name: str, identity: dict[str, Any] | None) -> None:
        with self._write_lock:
            if identity is None:
                self._data["processes"].pop(name, None)
            else:
                self._data["processes"][name] = identity
            self._save()

    def ensure_ports(self, service: str) -> None:
        """Keeps the ports of a service, or chooses new ones where a stranger took one."""
        for name in PORTS[service]:
            port = self.ports.get(name)
            if port and not is_free(port):
                say(f"{service}: port {port} was taken by another process, moving")
                port = None
            self.ports[name] = port or choose_port(set(self.ports.values()))
        self._save()

    def require_free_ports(self, service: str) -> None:
        for name in PORTS[service]:
            if not is_free(self.ports[name]):
                raise ServiceError(f"{service} cannot come back: another process has port {self.ports[name]}")

    def password(self, service: str) -> str:
        """The generated password of a service."""
        file = self.directory / f"{service}.password"
        try:
            return file.read_text().strip()
        except FileNotFoundError:
            password = secrets.token_hex(16)
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                opened.write(password)
            return password

    def service_directory(self, service: str) -> Path:
        """The directory of a service, writable by the user it runs as and readable by nobody else."""
        directory = self.directory / service
        directory.mkdir(mode=0o700, exist_ok=True)
        self.give_to_service(directory)
        return directory

    def give_to_service(self, path: Path) -> None:
        if self.user:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def write_for_service(self, path: Path, text: str) -> None:
        """Writes a file that only the service's user may read: it may hold a password."""
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        self.give_to_service(path)

    def purge(self) -> None:
        shutil.rmtree(self.directory)


def base_directory() -> Path:
    if configured := os.environ.get("BIFROST_SERVICES_DIR"):
        return Path(configured).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/bifrost-services")
    state_home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state_home) / "bifrost-services"


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def choose_port(taken: set[int]) -> int:
    """A free port below the range of outgoing connections.

    A client that keeps knocking at a dead port inside that range can end up connected to itself, and
    then the service cannot come back on its port.
    """
    try:
        first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        first_outgoing = 32768
    low, high = (10240, first_outgoing) if first_outgoing > 12288 else (20000, 32768)
    for _ in range(1000):
        port = random.randrange(low, high)
        if port not in taken and is_free(port):
            return port
    raise ServiceError("no free port on 127.0.0.1")
