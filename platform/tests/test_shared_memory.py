"""Memory that processes share by name: none of it outlives the process that made it."""

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Flow, Template, is_root

from bifrost._host import seccomp

HERE = seccomp.machine()

CALLS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def run():
    said = {}
    for name, arguments in {
        "shmget": (0, 4096, 0o1600), "semget": (0, 1, 0o1600), "msgget": (0, 0o1600),
        "mq_open": (b"/bifrost-test", 0o102, 0o600, None),
    }.items():
        number = getattr(libc, name)(*arguments)
        said[name] = "made" if number >= 0 else ctypes.get_errno()
    return said
"""

LEAVES = """
import os
from multiprocessing import resource_tracker, shared_memory
def run(name, die):
    memory = shared_memory.SharedMemory(create=True, size=4096, name=name)
    resource_tracker.unregister("/" + name, "shared_memory")
    there = os.path.exists("/dev/shm/" + name)
    memory.close()
    if die: os.kill(os.getpid(), 9)
    return there
"""


@pytest.mark.skipif(HERE is None, reason="the numbers of system calls are not known here")
def test_what_the_kernel_would_keep_is_refused(template: Template, flow: Flow) -> None:
    said = template.run(path=flow(CALLS)).result["result"]
    assert said == dict.fromkeys(("shmget", "semget", "msgget", "mq_open"), 1)


@pytest.mark.skipif(not is_root, reason="only root can start runs as somebody else")
@pytest.mark.parametrize("die", [False, True])
def test_what_a_process_leaves_is_removed_with_it(apart: Template | None, die: bool) -> None:
    assert apart is not None
    name = f"bifrost-left-{os.getpid()}"
    own, foreign = Path("/dev/shm", name), Path("/dev/shm", name + "-of-another")
    foreign.write_text("kept")
    try:
        (apart.workspace / "flow.py").write_text(LEAVES)
        outcome: Any = apart.run(parameters={"name": name, "die": die})
        assert outcome.exit["signal"] == 9 if die else outcome.result["result"] is True
        assert not own.exists()
        assert foreign.exists()
    finally:
        own.unlink(missing_ok=True)
        foreign.unlink(missing_ok=True)
