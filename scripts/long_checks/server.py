"""`bifrost up` on a state of its own, for as long as a check lasts, and people to ask as."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 120.0
PASSWORD = "a long enough password"


@dataclass(frozen=True)
class Person:
    """Somebody who is signed in."""

    email: str
    token: str


class Server:
    """The server. Leaving it stops it, and removes what it wrote."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self._temporary = tempfile.TemporaryDirectory(prefix="bifrost-check-")
        self.folder = Path(self._temporary.name)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{_free_port()}"

    def __enter__(self) -> Server:
        folder = self.folder
        # Runs have no privileges when we are root, and must get through to their sockets.
        folder.chmod(0o711)
        workspace = folder / "workspace"
        workspace.mkdir()
        (workspace / "greet.py").write_text(
            "from bifrost import workflow\n\n\n"
            "@workflow(execution_mode='sync')\n"
            "def greet(name: str, times: int = 1):\n"
            "    return {'greeting': ' '.join([f'Hello {name}'] * times)}\n"
        )
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in ("PATH", "HOME", "LANG", "BIFROST_PG_BIN")
        }
        log = (folder / "log").open("wb")
        arguments = ["up", "--listen", self.url.removeprefix("http://"), "--state-dir", str(folder / "state")]
        arguments += ["--workspace", str(workspace), "--platform", str(ROOT / "platform")]
        self._process = subprocess.Popen(
            [self._binary, *arguments],
            env=kept | {"ENVIRONMENT": "testing", "ACCESS_TOKEN_MINUTES": "240", "DEV_USER_EMAIL": ""},
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self._wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._temporary.cleanup()

    def log(self) -> str:
        """What it printed."""
        return (self.folder / "log").read_text(errors="replace")

    def administrator(self) -> Person:
        """The first who registers."""
        return self._registered("ada@example.com")

    def user(self, administrator: Person) -> Person:
        """A user of an organization, by the domain of the address."""
        organization = {"name": f"Acme {secrets.token_hex(3)}", "domain": "acme.example"}
        self.request("POST", "/api/organizations", organization, administrator)
        return self._registered("ben@acme.example")

    def request(self, method: str, path: str, body: object = None, person: Person | None = None) -> Any:
        """One request; anything but success raises."""
        request = urllib.request.Request(self.url + path, method=method)
        if person is not None:
            request.add_header("Authorization", f"Bearer {person.token}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def _registered(self, email: str) -> Person:
        self.request("POST", "/auth/register", {"email": email, "password": PASSWORD, "name": email})
        form = urllib.parse.urlencode({"username": email, "password": PASSWORD}).encode()
        with urllib.request.urlopen(f"{self.url}/auth/login", form, timeout=60) as answer:
            return Person(email, json.load(answer)["access_token"])

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{self.url}/health/ready", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise RuntimeError(f"the server did not start:\n{self.log()}")


def binary() -> Path:
    """The built `bifrost`, or `BIFROST_BINARY`."""
    found = Path(os.environ.get("BIFROST_BINARY", ROOT / "target/debug/bifrost"))
    if not found.is_file():
        raise SystemExit(f"{found} is missing: run `cargo build --workspace`")
    return found.resolve()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
