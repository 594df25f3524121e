"""Starting, recognising and killing processes that are ours.

A pid alone proves nothing: it may have been given to a stranger since. A process is ours when its
recorded start time matches too, when it descends from such a one, or when it is one of the known
programs working inside our private directory under our service user (what is left of a service whose
main process was killed).
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .errors import ServiceError
from .state import State

KNOWN_PROGRAMS = {
    "postgres",
    "beam.smp",
    "erl_child_setup",
    "inet_gethost",
    "epmd",
    "redis-server",
    "redis-check-rdb",  # what `redis-server` is a link to in Debian
}


class Process(NamedTuple):
    """What the kernel says of a process."""

    pid: int
    parent: int
    started: int  # clock ticks since boot
    zombie: bool


def boot_id() -> str:
    """Start times count from boot, so they mean something only together with it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def look_up(pid: int) -> Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command in the second field may hold spaces and parentheses.
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(pid, parent=int(fields[1]), started=int(fields[19]), zombie=fields[0] in "ZX")


def spawn(state: State, name: str, command: list[str], environment: dict[str, str], directory: Path) -> None:
    """Starts a long-running process as the service user, records it, and leaves it running."""
    log = directory / f"{name}.log"
    with open(log, "ab") as output:
        state.give_to_service(log)
        process = subprocess.Popen(
            command,
            env=base_environment(directory) | environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **as_service_user(state),
        )
    started = look_up(process.pid)
    if started is None:
        raise ServiceError(f"{name} ended at once: see {log}")
    state.record_process(name, {"pid": process.pid, "started": started.started, "boot": boot_id()})


def run(state: State, command: list[str], environment: dict[str, str], directory: Path) -> None:
    """Runs a command as the service user to its end; its output is shown only when it fails."""
    finished = subprocess.run(
        command,
        env=base_environment(directory) | environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **as_service_user(state),
    )
    if finished.returncode != 0:
        raise ServiceError(f"{' '.join(command)} failed:\n{finished.stdout.strip()}")


def base_environment(directory: Path) -> dict[str, str]:
    """Nothing of the caller's environment may change how a private service behaves."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(directory), "LANG": "C.UTF-8", "TZ": "UTC"}


def as_service_user(state: State) -> dict[str, Any]:
    if state.user is None:
        return {}
    return {"user": state.user.pw_uid, "group": state.user.pw_gid, "extra_groups": []}


def recorded(state: State, name: str) -> int | None:
    """The pid of a process we recorded, if that very process still lives."""
    identity = state.process(name)
    if identity is None or identity["boot"] != boot_id():
        return None
    process = look_up(identity["pid"])
    if process is None or process.zombie or process.started != identity["started"]:
        return None
    return process.pid


def ours(state: State, names: Iterable[str], directory: Path) -> list[int]:
    """Every living process of a service, the recorded ones first, then their tree and stragglers."""
    everything = [look_up(int(pid)) for pid in os.listdir("/proc") if pid.isdigit()]
    living = [process for process in everything if process and not process.zombie]
    found = [pid for name in names if (pid := recorded(state, name))]
    found += [p.pid for p in living if p.pid not in found and works_in(p.pid, directory, state)]
    for pid in found:  # grows while it is walked: children of children
        found += [process.pid for process in living if process.parent == pid and process.pid not in found]
    return found


def works_in(pid: int, directory: Path, state: State) -> bool:
    """Whether a process is a known program at work inside `directory`, under the service user."""
    expected = state.user.pw_uid if state.user else os.geteuid()
    try:
        if os.stat(f"/proc/{pid}").st_uid != expected:
            return False
        place = Path(os.readlink(f"/proc/{pid}/cwd"))
        return program(pid) in KNOWN_PROGRAMS and place.is_relative_to(directory)
    except OSError:
        return False  # it ended, or it hides from us: then it is not ours to kill


def program(pid: int) -> str:
    """The file name of the program that a process runs, empty if that cannot be seen."""
    try:
        return Path(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")).name
    except OSError:
        return ""


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def wait_gone(pids: list[int], seconds: float) -> bool:
    """Waits until none of the processes lives; zombies do not count."""
    deadline = time.monotonic() + seconds
    while any((process := look_up(pid)) and not process.zombie for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
