"""Private RabbitMQ: loopback only, no plugins, an epmd of its own.

epmd, Erlang's name server, is started by hand. The one that Erlang would start itself is a daemon
that outlives the broker and that other Erlang programs of this machine would then depend on.
"""

import os
import signal
import socket
import time
from pathlib import Path

from . import process
from .binaries import erlang_directory, library_environment
from .errors import ServiceError
from .service import Service


class RabbitMq(Service):
    name = "rabbitmq"
    process_names = ("rabbitmq", "epmd")

    def url(self) -> str:
        return f"amqp://bifrost:{self.state.password(self.name)}@127.0.0.1:{self.port}/%2f"

    def launch(self, binary_directory: Path) -> None:
        erlang = erlang_directory(binary_directory)
        environment = library_environment(erlang) | self._environment(erlang)
        self._start_epmd(erlang, environment)
        self._write_settings()
        command = [str(binary_directory / "rabbitmq-server")]
        process.spawn(self.state, self.name, command, environment, self.directory)

    def _environment(self, erlang: Path) -> dict[str, str]:
        directory = self.directory
        # Erlang's schedulers spin while they wait; beside a test suite that is wasted processor time.
        calm = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": f"{erlang}:/usr/local/bin:/usr/bin:/bin",
            "ERL_EPMD_PORT": str(self.state.ports["epmd"]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "bifrost@localhost",
            "RABBITMQ_DIST_PORT": str(self.state.ports["rabbitmq_dist"]),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": calm if self.state.durable else f"+S 1:1 {calm}",
        }

    def _write_settings(self) -> None:
        settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "default_user": "bifrost",
            "default_pass": self.state.password(self.name),
            "log.console": "true",
            "log.console.level": "warning",
            "log.file": "false",
            "vm_memory_high_watermark.absolute": "1GiB",
            "disk_free_limit.absolute": "50MB",
        }
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        self.state.write_for_service(self.directory / "rabbitmq.conf", text)
        self.state.write_for_service(self.directory / "enabled_plugins", "[].\n")

    def _start_epmd(self, erlang: Path, environment: dict[str, str]) -> None:
        port = self.state.ports["epmd"]
        found = [erlang / "epmd", *sorted(erlang.parent.glob("erts-*/bin/epmd"), reverse=True)]
        epmd = next((path for path in found if path.exists()), None)
        if epmd is None:
            raise ServiceError(f"no epmd beside {erlang}")
        process.spawn(self.state, "epmd", [str(epmd)], environment, self.directory)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline or process.recorded(self.state, "epmd") is None:
                    raise ServiceError(f"epmd does not answer on port {port}") from None
                time.sleep(0.01)

    def handshake(self, connection: socket.socket) -> bool:
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        return connection.recv(1) == b"\x01"  # a method frame: connection.start

    def ask_to_stop(self) -> None:
        # The signal must reach the virtual machine itself, which then closes its data in order; the
        # start script around it would boot a second one to ask for that.
        for pid in self.processes():
            if process.program(pid) == "beam.smp":
                os.kill(pid, signal.SIGTERM)
