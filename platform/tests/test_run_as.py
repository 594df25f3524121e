"""Runs as somebody else than the template: what they are, and what they cannot reach."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import NOBODY, PLATFORM, Template, daemon_dies, is_root

RUN_AS = ("--run-as", f"{NOBODY}:{NOBODY}")


@pytest.fixture(scope="module")
def as_nobody(open_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template | None]:
    """A template whose runs are nobody; None without root, where it must be refused instead."""
    if not is_root:
        assert "--run-as needs root" in refusal(*RUN_AS)
        yield None
        return
    options = (*RUN_AS, "--writable", str(open_workspace))
    running = Template(open_workspace, tmp_path_factory.mktemp("as_nobody"), options=options)
    yield running
    running.stop()


@pytest.fixture
def run(as_nobody: Template | None, open_workspace: Path) -> Callable[..., Any]:
    def result(source: str, **parameters: Any) -> Any:
        if as_nobody is None:
            return None
        (open_workspace / "flow.py").write_text(source)
        outcome = as_nobody.run(parameters=parameters)
        assert outcome.result["outcome"] == "success", outcome.frames
        return outcome.result["result"]

    return result


def refusal(*options: str) -> str:
    """What the template says when it does not start."""
    ended = subprocess.run(
        [
            *(sys.executable, "-s", "-P", "-m", "bifrost._host.template"),
            *("--socket", "/nonexistent/t.sock", "--workspace", "/nonexistent", *options),
        ],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PLATFORM)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    return ended.stderr


@pytest.mark.parametrize("owner", ["0:0", f"{NOBODY}:0", str(NOBODY), "nobody:nogroup"])
def test_runs_cannot_be_given_to_root_or_to_nonsense(owner: str) -> None:
    assert f"invalid owner value: '{owner}'" in refusal("--run-as", owner)


def test_only_root_can_run_as_somebody_else() -> None:
    said = refusal(*RUN_AS) if not is_root else ""
    assert is_root or "--run-as needs root: only root can start runs as somebody else" in said


def test_a_run_has_the_user_it_was_given_and_no_way_back(run: Callable[..., Any]) -> None:
    found = run(
        "import os\n"
        "def run():\n"
        "    try: os.setuid(0)\n"
        "    except PermissionError: back = False\n"
        "    else: back = True\n"
        "    with open('/proc/self/status') as f: status = dict(line.split(':', 1) for line in f)\n"
        "    return {'ids': [*os.getresuid(), *os.getresgid()], 'groups': os.getgroups(), 'back': back,\n"
        "        'no_new_privs': status['NoNewPrivs'].strip(), 'rights': int(status['CapEff'], 16)}\n"
    )
    if is_root:
        assert found == {"ids": [NOBODY] * 6, "groups": [], "back": False, "no_new_privs": "1", "rights": 0}


def test_every_run_is_kept_from_gaining_rights(template: Template, flow: Callable[..., str]) -> None:
    path = flow("def run(): return 'NoNewPrivs:\\t1' in open('/proc/self/status').read()\n")
    assert template.run(path=path).result["result"] is True


def test_a_run_cannot_read_what_is_roots(run: Callable[..., Any], open_workspace: Path) -> None:
    secret = open_workspace / "secret"
    secret.write_text("hidden")
    secret.chmod(0o600)
    found = run(
        "def run(path):\n    try: return open(path).read()\n    except PermissionError: return 'refused'\n",
        path=str(secret),
    )
    if is_root:
        assert found == "refused"


def test_a_run_may_open_its_output(as_nobody: Template | None, open_workspace: Path) -> None:
    if as_nobody is None:
        return
    (open_workspace / "output.py").write_text(
        "import subprocess\n"
        "def run():\n"
        "    with open('/dev/stdout', 'w') as out: out.write('from the run\\n')\n"
        "    subprocess.run('echo from a shell > /dev/stderr', shell=True)\n"
    )
    assert as_nobody.run(path="output.py").output == b"from the run\nfrom a shell\n"


def test_a_run_reaches_neither_the_template_nor_another_run(
    run: Callable[..., Any], as_nobody: Template | None
) -> None:
    if as_nobody is None:
        return
    other = as_nobody.connect()
    places = [
        f"/proc/{pid}/{what}" for pid in (as_nobody.process.pid, other.pid) for what in ("environ", "mem")
    ]
    found = run(
        "def run(places, template):\n"
        "    refused = []\n"
        "    for place in places:\n"
        "        try: open(place, 'rb').read(1)\n"
        "        except PermissionError: refused.append(place)\n"
        "    import socket\n"
        "    try: socket.socket(socket.AF_UNIX).connect(template)\n"
        "    except PermissionError: refused.append(template)\n"
        "    return refused\n",
        places=places,
        template=as_nobody.path,
    )
    assert found == [*places, as_nobody.path]
    other.close()


def test_signals_of_the_worker_reach_the_run(as_nobody: Template | None, open_workspace: Path) -> None:
    if as_nobody is None:
        return
    (open_workspace / "waits.py").write_text(
        "import time\n"
        "def run():\n    try:\n        print('up')\n        time.sleep(60)\n    finally: print('down')\n"
    )
    connection = as_nobody.connect()
    connection.send(as_nobody.start_frame(path="waits.py"))
    connection.until(lambda frame: frame.get("message") == "up")
    os.kill(connection.pid, signal.SIGTERM)
    connection.until(lambda frame: frame.get("message") == "down")
    assert as_nobody.exit_of(connection.pid)["code"] == 143
    connection.close()


@pytest.mark.parametrize("answered", [True, False])
def test_a_daemon_dies_with_the_run_of_another_user(
    as_nobody: Template | None, open_workspace: Path, answered: bool
) -> None:
    if as_nobody is None:
        return
    assert as_nobody.ready["isolation"] == "pid_namespace"

    def write(source: str) -> str:
        (open_workspace / "daemon.py").write_text(source)
        return "daemon.py"

    place = open_workspace / f"alive-{answered}"
    daemon_dies(as_nobody, write, place, answered)


def test_a_run_dies_with_the_template(
    as_nobody: Template | None, open_workspace: Path, tmp_path: Path
) -> None:
    if as_nobody is None:
        return
    template = Template(open_workspace, tmp_path, options=RUN_AS)
    (open_workspace / "sleeps.py").write_text(
        "import time\ndef run():\n    print('up')\n    time.sleep(600)\n"
    )
    connection = template.connect()
    connection.send(template.start_frame(path="sleeps.py"))
    connection.until(lambda frame: frame.get("message") == "up")
    template.process.kill()
    # The kernel's doing alone: nobody is left to kill it.
    assert connection.receive() is None
    template.process.wait()
    connection.close()
