"""Private Redis: a password, no persistence (what is in it may be lost by design)."""

import os
import signal
import socket
from pathlib import Path

from . import process
from .binaries import library_environment
from .service import Service


class Redis(Service):
    name = "redis"
    process_names = ("redis",)

    def url(self) -> str:
        return f"redis://:{self.state.password(self.name)}@127.0.0.1:{self.port}/0"

    def launch(self, binary_directory: Path) -> None:
        settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "requirepass": self.state.password(self.name),
            "appendonly": "no",
            "save": '""',
            "dir": self.directory,
            "daemonize": "no",
        }
        file = self.directory / "redis.conf"
        self.state.write_for_service(file, "".join(f"{name} {value}\n" for name, value in settings.items()))
        command = [str(binary_directory / "redis-server"), str(file)]
        process.spawn(self.state, self.name, command, library_environment(binary_directory), self.directory)

    def handshake(self, connection: socket.socket) -> bool:
        connection.sendall(f"AUTH {self.state.password(self.name)}\r\nPING\r\n".encode())
        answer = b""
        while answer.count(b"\r\n") < 2 and (received := connection.recv(256)):
            answer += received
        return answer == b"+OK\r\n+PONG\r\n"

    def ask_to_stop(self) -> None:
        if pid := process.recorded(self.state, self.name):
            os.kill(pid, signal.SIGTERM)
