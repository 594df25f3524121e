"""The control group of a run: what it and all it has started may have together.

Needs root and control groups of version 2 with the memory controller, in a group that may hand them on, as
the root of a machine is. Elsewhere the tests are skipped, and say why.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Template, is_root

MIB = 1 << 20
LIMIT = 192 * MIB
PROCESSES = 24
ROOT = Path("/sys/fs/cgroup")

TREE = """
import os, sys, time
from bifrost import workflow

def eat(mib, done, wait):
    held = bytearray(mib << 20)
    for at in range(0, len(held), 4096):
        held[at] = 1
    os.write(done, b"x")
    os.read(wait, 1)
    os._exit(0)

@workflow()
def run(children: int, mib: int):
    told, done = os.pipe()
    wait, end = os.pipe()
    for _ in range(children):
        if os.fork() == 0:
            os.close(end)
            eat(mib, done, wait)
    for _ in range(children):
        os.read(told, 1)
    os.close(end)
    return "all have eaten"

@workflow()
def forks():
    count = 0
    while True:
        try:
            if os.fork() == 0:
                time.sleep(600)
        except OSError:
            return count
        count += 1

@workflow()
def waits():
    print("begun")
    time.sleep(600)
"""


def missing() -> str | None:
    """Why the tests cannot be run here."""
    if not is_root:
        return "not root"
    try:
        if "memory" not in (ROOT / "cgroup.controllers").read_text().split():
            return "no memory controller"
        (ROOT / "cgroup.subtree_control").write_text("+memory +pids")
    except OSError as problem:
        return str(problem)
    return None


@pytest.fixture(scope="module")
def cgroup() -> Iterator[Path]:
    if (why := missing()) is not None:
        pytest.skip(f"no control groups here: {why}")
    folder = ROOT / f"bifrost.tests.{os.getpid()}"
    folder.mkdir()
    (folder / "cgroup.subtree_control").write_text("+memory +pids")
    yield folder
    folder.rmdir()  # fails if anything is left in it


@pytest.fixture(params=["best-effort", "off"])
def limited(request: pytest.FixtureRequest, cgroup: Path, tmp_path: Path) -> Iterator[Template]:
    """A template with a PID namespace for each run, and one with nothing but the groups."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "flow.py").write_text(TREE)
    folder = tmp_path / "template"
    folder.mkdir()
    options = ("--cgroup", str(cgroup), "--cgroup-memory", str(LIMIT), "--cgroup-processes", str(PROCESSES))
    running = Template(workspace, folder, isolation=request.param, options=options)
    yield running
    running.stop()
    assert groups(cgroup) == []


def groups(cgroup: Path) -> list[str]:
    return [entry.name for entry in cgroup.iterdir() if entry.is_dir()]


def until_groups_are_left(cgroup: Path, count: int) -> None:
    """The kernel needs a moment to end what was killed, and the template is not asked to wait for it."""
    until = time.monotonic() + 10
    while len(found := groups(cgroup)) != count:
        assert time.monotonic() < until, found
        time.sleep(0.01)


def test_children_that_are_each_below_the_limit_are_ended_together(limited: Template, cgroup: Path) -> None:
    neighbour = limited.connect()
    neighbour.send(limited.start_frame("waits"))
    neighbour.until(lambda frame: frame.get("message") == "begun")

    outcome = limited.run(parameters={"children": 3, "mib": 80})

    assert not outcome.has_result
    assert outcome.exit is not None
    assert (outcome.exit["out_of_memory"], outcome.exit["signal"]) == (True, 9)
    assert outcome.exit["peak_memory_bytes"] <= LIMIT + 4096
    assert outcome.exit["peak_memory_bytes"] > 2 * 80 * MIB
    # The neighbour runs on, in the only group there is.
    assert os.path.exists(f"/proc/{neighbour.pid}")
    until_groups_are_left(cgroup, 1)
    os.kill(neighbour.pid, 9)
    assert limited.exit_of(neighbour.pid)["out_of_memory"] is False
    neighbour.close()


def test_the_peak_of_the_whole_tree_is_told(limited: Template) -> None:
    outcome = limited.run(parameters={"children": 3, "mib": 40})

    told = outcome.result["usage"]["peak_memory_bytes"]
    print(f"three children of 40 MiB: {told / MIB:.0f} MiB told")
    assert outcome.result["outcome"] == "success"
    assert 120 * MIB < told < LIMIT


def test_processes_are_counted_together_and_end_together(limited: Template, cgroup: Path) -> None:
    outcome = limited.run("forks")

    assert outcome.result["result"] == PROCESSES - 1
    until_groups_are_left(cgroup, 0)
    assert outcome.exit is not None
    left = subprocess.run(["pgrep", "-g", str(outcome.exit["pid"])], capture_output=True, check=False)
    assert left.stdout == b""
