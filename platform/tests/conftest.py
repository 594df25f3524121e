"""A small worker: starts the real template, connects as the Rust side does, and talks in frames."""

from __future__ import annotations

import array
import base64
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PLATFORM = Path(__file__).resolve().parent.parent
PATIENCE = 10.0
NOBODY = 65534
OWN_USERS = ("--run-as", "2000000000:2000000000", "--run-as-count", "1000")
is_root = os.geteuid() == 0
# The interpreter of the tests may lie where another user cannot go.
OPEN_PYTHON = "/usr/bin/python3" if is_root else sys.executable

Frame = dict[str, Any]
Answer = Callable[[Frame], Frame | None]
Flow = Callable[..., str]
"""Writes a workflow file, and gives its path."""


def pack(frame: Frame) -> bytes:
    body = json.dumps(frame).encode()
    return struct.pack(">I", len(body)) + body


def read_frame(read: Callable[[int], bytes]) -> Frame | None:
    head = _exactly(read, 4)
    if head is None:
        return None
    body = _exactly(read, struct.unpack(">I", head)[0])
    return None if body is None else json.loads(body)


def _exactly(read: Callable[[int], bytes], size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        part = read(size - len(data))
        if not part:
            return None
        data += part
    return data


@dataclass
class Outcome:
    """What the worker has seen of one run."""

    frames: list[Frame] = field(default_factory=list)
    output: bytes = b""
    exit: Frame | None = None

    @property
    def result(self) -> Frame:
        return next(frame for frame in self.frames if frame["t"] == "result")

    @property
    def has_result(self) -> bool:
        return any(frame["t"] == "result" for frame in self.frames)

    @property
    def logs(self) -> list[tuple[str, str]]:
        return [(frame["level"], frame["message"]) for frame in self.frames if frame["t"] == "log"]

    def messages(self, level: str) -> list[str]:
        return [message for found, message in self.logs if found == level]


class RunConnection:
    """The worker's end of one connection; `pid` names the process to kill."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        fds = array.array("i")
        data, ancillary, _, _ = self.socket.recvmsg(4, socket.CMSG_LEN(fds.itemsize))
        for level, kind, body in ancillary:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds.frombytes(body)
        frame = json.loads(_exactly(self.socket.recv, struct.unpack(">I", data)[0]) or b"")
        assert frame["t"] == "pid"
        self.pid = int(frame["pid"])
        self.output_fd = fds[0]

    def send(self, frame: Frame) -> None:
        self.socket.sendall(pack(frame))

    def receive(self) -> Frame | None:
        return read_frame(self.socket.recv)

    def until(self, predicate: Callable[[Frame], bool], outcome: Outcome | None = None) -> Frame:
        while (frame := self.receive()) is not None:
            if outcome is not None:
                outcome.frames.append(frame)
            if predicate(frame):
                return frame
        raise AssertionError("the run ended before the awaited frame")

    def output(self) -> bytes:
        """Everything written to descriptor 1 and 2; call it when the run is over."""
        data = b""
        while part := os.read(self.output_fd, 65536):
            data += part
        return data

    def close(self) -> None:
        self.socket.close()
        os.close(self.output_fd)


class Template:
    """A running template over a workspace."""

    def __init__(
        self,
        workspace: Path,
        folder: Path,
        *,
        isolation: str = "best-effort",
        extra_path: str = "",
        options: tuple[str, ...] = (),
        python: str = sys.executable,
    ) -> None:
        self.workspace = workspace
        self.path = str(folder / "t.sock")
        self.process = subprocess.Popen(
            [
                *(python, "-s", "-P", "-m", "bifrost._host.template"),
                *("--socket", self.path, "--workspace", str(workspace), "--isolation", isolation, *options),
            ],
            cwd="/",
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "LANG": "C.UTF-8",
                "TZ": "UTC",
                "PYTHONPATH": f"{PLATFORM}:{extra_path}" if extra_path else str(PLATFORM),
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.exits: dict[int, Frame] = {}
        self.ready = self._control()

    def _control(self) -> Frame:
        assert self.process.stdout is not None
        frame = read_frame(self.process.stdout.read)
        assert frame is not None, "the template ended"
        return frame

    def connect(self) -> RunConnection:
        return RunConnection(self.path)

    def exit_of(self, pid: int) -> Frame:
        while pid not in self.exits:
            frame = self._control()
            self.exits[frame["pid"]] = frame
        return self.exits.pop(pid)

    def start_frame(self, function: str = "run", path: str = "flow.py", **more: Any) -> Frame:
        organization = more.pop("organization", None)
        frame = {
            "t": "start",
            "execution_id": "0190aaaa-0000-7000-8000-000000000001",
            "attempt": 1,
            "workflow": {"path": path, "function": function, "name": function},
            "code": None,
            "script_name": None,
            "kind": "workflow",
            "parameters": {},
            "startup": None,
            "context": {
                "user_id": "u1",
                "email": "ann@example.com",
                "name": "Ann",
                "scope": organization["id"] if organization else "GLOBAL",
                "organization": organization,
                "is_platform_admin": False,
                "is_function_key": False,
            },
            "limits": {"result_bytes": 16777216},
            "temp_dir": None,
            "capture_variables": True,
            "pooled": False,
            "generation": "g1",
        }
        frame.update(more)
        return frame

    def run(self, function: str = "run", *, answer: Answer | None = None, **more: Any) -> Outcome:
        """One process run from connection to exit; `answer` replies to its calls."""
        connection = self.connect()
        connection.send(self.start_frame(function, **more))
        outcome = Outcome()
        while (frame := connection.receive()) is not None:
            outcome.frames.append(frame)
            if frame["t"] == "call" and answer is not None and (reply := answer(frame)) is not None:
                connection.send({"t": "reply", "id": frame["id"], **reply})
        outcome.output = connection.output()
        outcome.exit = self.exit_of(connection.pid)
        connection.close()
        return outcome

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


class Pooled:
    """One pooled process."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self.connection = template.connect()
        self.last = False

    def run(self, path: str, function: str = "run", **more: Any) -> Outcome:
        self.connection.send(self.template.start_frame(function, path, pooled=True, **more))
        outcome = Outcome()
        self.last = bool(self.connection.until(lambda frame: frame["t"] == "result", outcome).get("last"))
        return outcome

    def result(self, path: str, function: str = "run", **more: Any) -> Any:
        frame = self.run(path, function, **more).result
        assert frame["outcome"] == "success", frame["error"]
        return frame["result"]

    def has_ended(self) -> bool:
        """Whether it said with its result that it takes no further run, and ended."""
        if not self.last:
            return False
        end = self.template.exit_of(self.connection.pid)
        return (end["code"], end["signal"]) == (0, None)


class Files:
    """A worker that holds files in memory and gives them in pieces."""

    def __init__(
        self,
        held: dict[str, bytes],
        *,
        piece: int = 4096,
        then: dict[str, bytes] | None = None,
        restless: bool = False,
    ) -> None:
        self.held = held
        self.piece = piece
        self.then = then
        self.restless = restless
        self.reads = 0

    def answer(self, call: Frame) -> Frame:
        arguments = call["args"]
        path = arguments.get("path", "")
        match call["method"]:
            case "files.read":
                self.reads += 1
                content, offset = self.held[path], arguments["offset"]
                state = f"{content!r}{self.reads if self.restless else ''}"
                data = base64.b64encode(content[offset : offset + self.piece]).decode()
                if self.then is not None:
                    self.held, self.then = self.then, None
                return {"ok": {"data": data, "size": len(content), "state": state}}
            case "files.write":
                self.held[path] = base64.b64decode(arguments["data"])
            case "files.delete":
                del self.held[path]
            case "files.exists":
                return {"ok": path in self.held}
            case "files.list":
                return {"ok": sorted(name.rpartition("/")[2] for name in self.held)}
        return {"ok": None}


def daemon_dies(template: Template, flow: Callable[..., str], fifo: Path, answered: bool) -> None:
    """A run detaches a daemon, which holds `fifo` open; it must be gone when the run's end is told."""
    os.mkfifo(fifo)
    fifo.chmod(0o666)
    path = flow(
        "import os, time\n"
        "def run(fifo, wait):\n"
        "    read, write = os.pipe()\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0:\n"
        "            alive = os.open(fifo, os.O_WRONLY)\n"
        "            os.write(write, b'x')\n"
        "            time.sleep(600)\n"
        "        os._exit(0)\n"
        "    os.read(read, 1)\n"
        "    print('daemon is up')\n"
        "    if wait: time.sleep(600)\n"
    )
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    connection = template.connect()
    arguments = {"fifo": str(fifo), "wait": not answered}
    connection.send(template.start_frame(path=path, parameters=arguments))
    connection.until(lambda frame: frame.get("message") == "daemon is up")
    if not answered:
        os.kill(connection.pid, signal.SIGKILL)
    template.exit_of(connection.pid)
    # The exit is reported when the whole tree is gone: nobody holds the other end any more.
    os.set_blocking(reader, False)
    assert os.read(reader, 1) == b""
    os.close(reader)
    connection.close()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="session")
def template(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    """One template for the whole suite; files written later are compiled by the run."""
    # Tests look at what runs write into their folders.
    reach = ("--writable", str(tmp_path_factory.getbasetemp()))
    running = Template(workspace, tmp_path_factory.mktemp("template"), options=reach)
    yield running
    running.stop()


@pytest.fixture
def pooled(template: Template) -> Iterator[Pooled]:
    process = Pooled(template)
    yield process
    process.connection.close()


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A workspace and a folder for runs that everybody can pass into; those of pytest are for their owner."""
    folder = Path(tempfile.mkdtemp(prefix="bifrost-tests-"))
    folder.chmod(0o755)
    for name, mode in (("workspace", 0o755), ("runs", 0o711), ("apart", 0o711)):
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    if is_root:
        shutil.chown(folder / "runs", NOBODY)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def open_workspace(place: Path) -> Path:
    return place / "workspace"


@pytest.fixture(scope="session")
def apart(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template | None]:
    """A template of root, with a user for each process; None without root."""
    if not is_root:
        yield None
        return
    options = (*OWN_USERS, "--folder", str(place / "apart"))
    folder = tmp_path_factory.mktemp("apart")
    running = Template(place / "workspace", folder, options=options, python=OPEN_PYTHON)
    yield running
    running.stop()


@pytest.fixture
def flow(workspace: Path, request: pytest.FixtureRequest) -> Flow:
    """For files of this test's own."""

    def write(source: str, name: str | None = None) -> str:
        path = name or f"{request.node.name.split('[')[0]}.py"
        target = workspace / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source)
        return path

    return write
