"""Private PostgreSQL: superuser `postgres`, SCRAM, TCP on 127.0.0.1 only."""

import os
import signal
import socket
import struct
from pathlib import Path

from . import process
from .binaries import library_environment, postgres_directories, postgres_major
from .errors import ServiceError
from .service import Service

# Tests lose nothing in a crash that they would not create again.
FAST_SETTINGS = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=128MB"]
DURABLE_SETTINGS = ["fsync=on", "synchronous_commit=on", "shared_buffers=256MB", "max_wal_size=2GB"]
COMMON_SETTINGS = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=300",
    "timezone=UTC",
    "log_timezone=UTC",
]


class Postgres(Service):
    name = "postgres"
    process_names = ("postgres",)

    def url(self) -> str:
        return f"postgres://postgres:{self.state.password(self.name)}@127.0.0.1:{self.port}/postgres"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def launch(self, binary_directory: Path) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._initialise(binary_directory)
        binary_directory = self._matching(binary_directory)
        # Nothing of ours runs any more (`sweep`), so the file can only name a stranger.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        settings = COMMON_SETTINGS + (DURABLE_SETTINGS if self.state.durable else FAST_SETTINGS)
        options = [option for setting in settings for option in ("-c", setting)]
        command = [str(binary_directory / "postgres"), "-D", str(self.data), "-p", str(self.port), *options]
        process.spawn(self.state, self.name, command, library_environment(binary_directory), self.directory)

    def _initialise(self, binary_directory: Path) -> None:
        password_file = self.directory / "initial.password"
        self.state.write_for_service(password_file, self.state.password(self.name))
        sync = [] if self.state.durable else ["--no-sync"]
        command = [str(binary_directory / "initdb"), "-D", str(self.data), "-U", "postgres", "-E", "UTF8"]
        command += ["--locale=C.UTF-8", "-A", "scram-sha-256", f"--pwfile={password_file}", *sync]
        try:
            process.run(self.state, command, library_environment(binary_directory), self.directory)
        finally:
            password_file.unlink(missing_ok=True)

    def _matching(self, binary_directory: Path) -> Path:
        """Binaries of the major version that wrote the data; data is never initialised over."""
        wanted = int((self.data / "PG_VERSION").read_text())
        for candidate in [binary_directory, *postgres_directories()]:
            if postgres_major(candidate) == wanted:
                return candidate
        raise ServiceError(
            f"the data in {self.data} is of PostgreSQL {wanted}, and no binaries of it are left here: "
            "install them, or drop the data with `scripts/services down --purge`"
        )

    def handshake(self, connection: socket.socket) -> bool:
        # A startup message: during recovery the answer is an error, afterwards a request to log in.
        parameters = b"user\0postgres\0database\0postgres\0\0"
        connection.sendall(struct.pack("!II", len(parameters) + 8, 196608) + parameters)
        return connection.recv(1) == b"R"

    def ask_to_stop(self) -> None:
        if pid := process.recorded(self.state, self.name):
            os.kill(pid, signal.SIGINT)  # "fast": disconnects clients and writes a checkpoint
