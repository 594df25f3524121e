"""What the three services have in common: start, recognise, stop, kill."""

import signal
import socket
import time
from pathlib import Path

from . import process
from .errors import ServiceError
from .state import State, say

START_SECONDS = 90.0
STOP_SECONDS = 20.0


class Service:
    """One private service. A subclass says how it is launched and what proves that it answers."""

    name: str
    # The recorded processes, the one that serves first.
    process_names: tuple[str, ...]

    def __init__(self, state: State) -> None:
        self.state = state

    @property
    def directory(self) -> Path:
        return self.state.directory / self.name

    @property
    def port(self) -> int:
        return self.state.ports[self.name]

    def url(self) -> str:
        """What a client connects with, password included."""
        raise NotImplementedError

    def launch(self, binary_directory: Path) -> None:
        """Prepares data and settings and spawns the processes; does not wait."""
        raise NotImplementedError

    def handshake(self, connection: socket.socket) -> bool:
        """Whether the service at the other end is ready to serve."""
        raise NotImplementedError

    def ask_to_stop(self) -> None:
        """Sends the signal that means an orderly end."""
        raise NotImplementedError

    def processes(self) -> list[int]:
        """Every living process of ours, the serving one first."""
        return process.ours(self.state, self.process_names, self.directory)

    def answers(self) -> bool:
        """Whether *our* process is alive and serving; a stranger on the same port does not count."""
        if self.name not in self.state.ports or process.recorded(self.state, self.process_names[0]) is None:
            return False
        return self._try_handshake()

    def start(self, binary_directory: Path) -> None:
        """Launches the service and waits until it serves."""
        began = time.monotonic()
        self.state.service_directory(self.name)
        self.launch(binary_directory)
        while not self._try_handshake():
            if process.recorded(self.state, self.process_names[0]) is None:
                raise ServiceError(f"{self.name} ended while starting:\n{self._log_tail()}")
            if time.monotonic() - began > START_SECONDS:
                raise ServiceError(f"{self.name} does not answer:\n{self._log_tail()}")
            time.sleep(0.02)
        say(f"{self.name}: answers on 127.0.0.1:{self.port} after {time.monotonic() - began:.1f} s")

    def stop(self) -> None:
        """Ends the service in order, and by force if it takes too long."""
        running = self.processes()
        if running:
            self.ask_to_stop()
            if not process.wait_gone(running[:1], STOP_SECONDS):
                say(f"{self.name}: did not stop in {STOP_SECONDS:.0f} s")
        self.sweep()

    def kill(self) -> None:
        """Ends the service as a crash would, the whole tree at once."""
        killed = self.processes()
        self.sweep()
        say(f"{self.name}: {'killed ' + str(len(killed)) + ' processes' if killed else 'was not running'}")

    def sweep(self) -> None:
        """Makes sure that nothing of the service is left running."""
        # A process may fork between the look and the kill, so look again until there is none.
        deadline = time.monotonic() + 10
        while left := self.processes():
            process.signal_all(left, signal.SIGKILL)
            process.wait_gone(left, 5)
            if time.monotonic() > deadline:
                raise ServiceError(f"{self.name}: processes {left} survive SIGKILL")
        for name in self.process_names:
            if self.state.process(name):
                self.state.record_process(name, None)

    def _try_handshake(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                return self.handshake(connection)
        except OSError:
            return False

    def _log_tail(self) -> str:
        log = self.directory / f"{self.process_names[0]}.log"
        try:
            lines = log.read_text(errors="replace").splitlines()[-15:]
        except OSError:
            lines = []
        return "\n".join([*lines, f"(from {log})"])
