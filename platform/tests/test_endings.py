"""Runs that end badly or too late, and what they leave behind."""

import os
import signal
from pathlib import Path

import pytest
from conftest import Flow, Outcome, Template, daemon_dies


@pytest.mark.parametrize("statement", ["sys.exit(0)", "raise SystemExit", "sys.exit('done')"])
def test_leaving_with_sys_exit_is_no_result(template: Template, flow: Flow, statement: str) -> None:
    assert (
        template.run(path=flow(f"import sys\ndef run(): {statement}\n")).result["error"]["type"] == "NoResult"
    )


@pytest.mark.parametrize(
    ("statement", "code", "number"),
    [
        ("os._exit(0)", 0, None),
        ("os._exit(3)", 3, None),
        ("ctypes.string_at(0)", None, signal.SIGSEGV),
        ("os.kill(os.getpid(), 9)", None, signal.SIGKILL),
    ],
)
def test_a_process_that_vanishes_sends_no_result(
    template: Template, flow: Flow, statement: str, code: int | None, number: int | None
) -> None:
    outcome = template.run(path=flow(f"import ctypes, os\ndef run(): {statement}\n"))
    assert not outcome.has_result
    assert outcome.exit is not None
    assert (outcome.exit["code"], outcome.exit["signal"]) == (code, number)


def test_memory_and_files_are_limited(template: Template, flow: Flow, tmp_path: Path) -> None:
    path = flow("def run(): return len(bytearray(400_000_000))\n")
    error = template.run(path=path, limits={"memory_bytes": 100_000_000}).result["error"]
    assert error["type"] == "ResourceLimit"
    path = flow("def run(path):\n    with open(path, 'wb') as f: f.write(bytes(9000))\n")
    parameters = {"path": str(tmp_path / "large")}
    error = template.run(path=path, limits={"file_size_bytes": 4096}, parameters=parameters).result["error"]
    assert error["type"] == "ResourceLimit"


def test_a_busy_loop_runs_into_its_cpu_limit(template: Template, flow: Flow) -> None:
    path = flow("def run():\n    while True:\n        try: sum(range(99))\n        except Exception: pass\n")
    error = template.run(path=path, limits={"cpu_seconds": 1}).result["error"]
    assert (error["type"], error["message"]) == ("ResourceLimit", "the run used more than 1 s of CPU time")


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_sigterm_lets_finally_blocks_run_and_ends_without_result(
    template: Template, flow: Flow, kind: str
) -> None:
    wait = "await asyncio.sleep(60)" if kind == "async def" else "time.sleep(60)"
    path = flow(
        f"import asyncio, time\n{kind} run():\n    try:\n        print('ready')\n        {wait}\n"
        "    except Exception:\n        print('swallowed')\n    finally:\n        print('cleaned up')\n"
    )
    connection = template.connect()
    connection.send(template.start_frame(path=path))
    connection.until(lambda frame: frame.get("message") == "ready")
    os.kill(connection.pid, signal.SIGTERM)
    outcome = Outcome()
    while (frame := connection.receive()) is not None:
        outcome.frames.append(frame)
    assert outcome.messages("DEBUG") == ["cleaned up"]
    assert not outcome.has_result
    assert template.exit_of(connection.pid)["code"] == 143
    connection.close()


def test_a_copy_made_by_fork_reports_nothing(template: Template, flow: Flow) -> None:
    path = flow(
        "import os, multiprocessing\n"
        "def run():\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n        print('from the copy')\n        return 'copy'\n"
        "    os.waitpid(pid, 0)\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "        return pool.map(abs, [-1, -2])\n"
    )
    outcome = template.run(path=path)
    assert [f["result"] for f in outcome.frames if f["t"] == "result"] == [[1, 2]]
    assert outcome.output == b"from the copy\n"


@pytest.mark.parametrize("answered", [True, False])
def test_a_daemon_dies_with_the_run(template: Template, flow: Flow, tmp_path: Path, answered: bool) -> None:
    daemon_dies(template, flow, tmp_path / "alive", answered)


@pytest.mark.parametrize("answered", [True, False])
def test_a_daemon_dies_with_the_run_where_namespaces_are_refused(
    workspace: Path, flow: Flow, tmp_path: Path, answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "refusing"
    refusing.mkdir()
    # A PID namespace cannot be made through a descriptor that does not open.
    (refusing / "sitecustomize.py").write_text(
        "import os\nreal = os.open\n"
        "def refuse(path, *a, **k):\n"
        "    if path == '/proc/self/ns/pid': raise PermissionError(path)\n"
        "    return real(path, *a, **k)\n"
        "os.open = refuse\n"
    )
    template = Template(workspace, tmp_path, extra_path=str(refusing), options=("--writable", str(tmp_path)))
    try:
        assert template.ready["isolation"] == "reaper"
        daemon_dies(template, flow, tmp_path / "alive", answered)
    finally:
        template.stop()


def test_the_template_ends_with_its_worker(workspace: Path, flow: Flow, tmp_path: Path) -> None:
    template = Template(workspace, tmp_path, isolation="off")
    assert template.ready["isolation"] == "session"
    connection = template.connect()
    connection.send(
        template.start_frame(path=flow("import time\ndef run():\n    print('up')\n    time.sleep(600)\n"))
    )
    connection.until(lambda frame: frame.get("message") == "up")
    template.stop()
    assert template.process.returncode == 0
    assert connection.receive() is None
    connection.close()
