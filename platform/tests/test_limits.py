"""Which exceptions are told as the limit that a run ran into."""

import errno
import fcntl
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PLATFORM, Flow, Pooled, Template

from bifrost._host.limits import Limits

LIMITS = {
    **{"memory_bytes": 256 << 20, "cpu_seconds": 10, "processes": 4096, "file_size_bytes": 1 << 20},
    **{"open_files": 100, "result_bytes": 1 << 20},
}

# In a process that may start none: nobody may exceed a limit of 0 but root, who becomes somebody else.
STARTS = """
import json, multiprocessing, multiprocessing.popen_fork, os, pty, resource, subprocess
from os import fork
from bifrost._host.limits import Limits

limits = Limits(0)
limits._wanted = {"processes": 7}
ways = {
    "fork": lambda: os.fork(),
    "bare": lambda: (os.getpid(), fork()),
    "forkpty": lambda: pty.fork(),
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "program": lambda: subprocess.run(["/bin/true"]),
    "prepared": lambda: subprocess.run(["/bin/true"], preexec_fn=int, close_fds=False),
    "multiprocessing": lambda: multiprocessing.get_context("fork").Process(target=int).start(),
}
if os.getuid() == 0:
    os.setresuid(65534, 65534, 65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
told = {}
for name, way in ways.items():
    try:
        way()
    except OSError as error:
        told[name] = limits.explain(error)
print(json.dumps(told))
"""


def explained(action: Callable[[], Any]) -> str | None:
    limits = Limits(0)
    limits._wanted = {"processes": 7}
    with pytest.raises(BlockingIOError) as caught:
        action()
    assert caught.value.errno == errno.EAGAIN
    return limits.explain(caught.value)


def test_a_lock_that_is_taken_is_no_limit(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as first, open(tmp_path / "lock", "w") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        assert explained(lambda: fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)) is None


def test_a_socket_without_data_is_no_limit() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        assert explained(lambda: here.recv(1)) is None


def test_a_process_that_is_refused_is_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-s", "-P", "-c", STARTS],
        env={"PYTHONPATH": str(PLATFORM), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    told = json.loads(done.stdout)
    ways = ("fork", "bare", "forkpty", "spawn", "program", "prepared", "multiprocessing")
    assert told == dict.fromkeys(ways, "more than 7 processes are running")


def test_a_run_cannot_lift_its_limits(template: Template, flow: Flow) -> None:
    path = flow(
        "import resource\n"
        "KINDS = (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE)\n"
        "def run():\n"
        "    for kind in KINDS:\n"
        "        hard = resource.getrlimit(kind)[1]\n"
        "        resource.setrlimit(kind, (hard, hard))\n"
        "        try: resource.setrlimit(kind, (hard + 1, hard + 1))\n"
        "        except (ValueError, OSError): pass\n"
        "    try: bytearray(512 << 20)\n"
        "    except MemoryError: refused = True\n"
        "    return [refused, *(resource.getrlimit(kind)[0] for kind in KINDS[1:])]\n"
    )
    assert template.run(path=path, limits=LIMITS).result["result"] == [True, 1 << 20, 4096, 100]


def test_threads_need_no_memory_of_their_own_to_allocate(template: Template, flow: Flow) -> None:
    # Each that allocates would reserve 64 MiB.
    path = flow(
        "import threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def run():\n"
        "    barrier = threading.Barrier(40)\n"
        "    with ThreadPoolExecutor(40) as pool:\n"
        "        return len({*pool.map(lambda _: barrier.wait(5), range(40))})\n"
    )
    assert template.run(path=path, limits=LIMITS | {"memory_bytes": 1 << 30}).result["result"] == 40


def test_limits_of_a_pooled_process_hold_for_all_its_runs(flow: Flow, pooled: Pooled) -> None:
    path = flow(
        "from resource import RLIMIT_CPU, RLIMIT_NOFILE, getrlimit, setrlimit\n"
        "def lower(): setrlimit(RLIMIT_NOFILE, (50, getrlimit(RLIMIT_NOFILE)[1]))\n"
        "def run(): return [*getrlimit(RLIMIT_NOFILE), getrlimit(RLIMIT_CPU)[0]]\n"
    )
    pooled.result(path, "lower", limits=LIMITS)
    files, hard, cpu = pooled.result(path, limits=LIMITS)
    assert (files, hard) == (100, 100)
    more = LIMITS | {"open_files": 200, "cpu_seconds": 90}
    assert pooled.result(path, limits=more) == [100, 100, cpu + 80]
