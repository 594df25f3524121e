"""The pieces of the isolation: what each keeps from a run, what it leaves alone, and life without it."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import NOBODY, OPEN_PYTHON, PLATFORM, Template, is_root

from bifrost._host import landlock, seccomp

LANDLOCK = (444, 445, 446)
HERE = seccomp.machine()

# Runs `wanted` as it is on a kernel that answers these calls with an error: [numbers, error, command …].
ON_ANOTHER_KERNEL = """
import os, sys
from bifrost._host import seccomp
from bifrost._host.libc import LIBC
LIBC.prctl(38, 1, 0, 0, 0)
numbers = tuple(int(number) for number in sys.argv[1].split(","))
assert seccomp.take_on(seccomp.refusing(seccomp.machine(), numbers, int(sys.argv[2])))
os.execv(sys.argv[3], sys.argv[3:])
"""


class Plain(Template):
    """As of a worker that is not root: runs have its user, and only the kernel's rules part them."""

    def __init__(self, place: Path, folder: Path) -> None:
        real = subprocess.Popen

        def as_nobody(*args: Any, **more: Any) -> Any:
            more |= {"user": NOBODY, "group": NOBODY, "extra_groups": []} if is_root else {}
            return real(*args, **more)

        subprocess.Popen = as_nobody  # type: ignore[misc, assignment]
        try:
            options = ("--folder", str(place / "runs"))
            super().__init__(place / "workspace", folder, options=options, python=OPEN_PYTHON)
        finally:
            subprocess.Popen = real  # type: ignore[misc]


@pytest.fixture(scope="module")
def plain(place: Path) -> Iterator[Template]:
    folder = Path(tempfile.mkdtemp(prefix="bifrost-plain-"))
    folder.chmod(0o777)
    running = Plain(place, folder)
    yield running
    running.stop()
    shutil.rmtree(folder)


@pytest.fixture(params=["plain", "apart"])
def enclosed(request: pytest.FixtureRequest, plain: Template, apart: Template | None) -> Template:
    return plain if request.param == "plain" or apart is None else apart


def run(template: Template, source: str, **parameters: Any) -> Any:
    (template.workspace / "flow.py").write_text(source)
    outcome = template.run(parameters=parameters)
    assert outcome.result["outcome"] == "success", outcome.frames
    return outcome.result["result"]


TRIES = """
import os, signal, socket
def run(reads, kills, connects):
    got = []
    for path in reads:
        try:
            if os.path.isdir(path): got.append([path, os.listdir(path)])
            else: got.append([path, open(path, 'rb').read(64).decode(errors='replace')])
        except OSError: pass
    for pid in kills:
        try: os.kill(pid, 0)
        except OSError: continue
        got.append(['kill', pid])
    for path in connects:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(2)
        try:
            s.connect(path)
            if s.recv(1): got.append(['connect', path])
        except OSError: pass
    return got
"""


def test_a_run_reads_nothing_that_is_not_its_own(enclosed: Template, place: Path) -> None:
    private = place / "data"
    private.mkdir(exist_ok=True)
    overlay = place / "workspace" / ".overlays" / "other"
    overlay.mkdir(parents=True, exist_ok=True)
    for path in (
        private / "PG_VERSION",
        overlay / "a.txt",
        place / "workspace" / ".env",
        place / "workspace" / ".env.local",
        place / "master.key",
    ):
        path.write_text("canary")
        path.chmod(0o644)
    other = enclosed.connect()
    (place / "workspace" / "waits.py").write_text(
        "import tempfile, time\n"
        "def run():\n"
        "    path = tempfile.gettempdir() + '/canary'\n"
        "    open(path, 'w').write('canary')\n"
        "    print(path)\n"
        "    time.sleep(60)\n"
    )
    other.send(enclosed.start_frame(path="waits.py"))
    temporary = other.until(lambda frame: frame["t"] == "log")["message"]
    worker, template = os.getpid(), enclosed.process.pid
    reads = [
        *(str(path) for path in (private, private / "PG_VERSION", overlay, overlay / "a.txt")),
        *(str(place / "workspace" / name) for name in (".env", ".env.local")),
        *(str(place / "master.key"), temporary),
        *(str(Path(temporary).parent), str(Path(temporary).parent.parent), str(place), "/root", "/home"),
        *(
            f"/proc/{pid}/{what}"
            for pid in (worker, template, other.pid)
            for what in ("environ", "mem", "maps")
        ),
    ]
    found = run(enclosed, TRIES, reads=reads, kills=[], connects=[enclosed.path])
    pieces = ", ".join(enclosed.ready["pieces"])
    print(f"canaries {len(reads)} + 1 socket, read {len(found)}; in force: {pieces}")
    assert found == []
    assert {"process tree", "system calls", "file system"} <= set(enclosed.ready["pieces"])
    other.close()


def test_a_run_signals_nobody_but_its_own(plain: Template) -> None:
    other = plain.connect()
    kills = [plain.process.pid, other.pid]
    if "process tree" not in plain.ready["pieces"] or plain.ready["isolation"] == "reaper":
        # It sees their numbers, and has their user.
        assert run(plain, TRIES, reads=[], kills=kills, connects=[]) == [] or landlock.version() < 6
    other.close()


CALLS = """
import ctypes, os
def run(numbers):
    libc = ctypes.CDLL(None, use_errno=True)
    allowed = []
    for name, number, *arguments in numbers:
        ctypes.set_errno(0)
        if libc.syscall(number, *arguments) != -1 or ctypes.get_errno() not in (1, 38, 97):
            allowed.append([name, ctypes.get_errno()])
    return allowed
"""


def test_calls_that_no_workflow_needs_are_refused(enclosed: Template) -> None:
    assert HERE is not None
    numbers: list[list[Any]] = [
        [name, number, 0, 0, 0, 0, 0] for name, number in (HERE.refused | seccomp.EVERYWHERE).items()
    ]
    new_user, new_net = 0x10000000, 0x40000000
    numbers += [["unshare", HERE.unshare, flags] for flags in (new_user, new_net, new_user | new_net)]
    numbers += [["unshare pid", HERE.unshare, 0x20000000], ["setns", HERE.setns, 0, 0]]
    numbers += [["clone", HERE.clone, new_user | 17, 0, 0, 0, 0], ["clone3", 435, 0, 0]]
    numbers += [
        ["packet", HERE.socket, 17, 3, 0],
        ["vsock", HERE.socket, 40, 1, 0],
        ["alg", HERE.socket, 38, 5, 0],
    ]
    numbers += [["tiocsti", HERE.ioctl, 0, 0x5412, 0]]
    found = run(enclosed, CALLS, numbers=numbers)
    print(f"{len(numbers)} calls, allowed {len(found)}")
    # Where the run is root there is nobody to keep it from a PID namespace, which gives it nothing.
    assert found == []


ORDINARY = """
import asyncio, multiprocessing, os, pathlib, socket, sqlite3, ssl, subprocess, tempfile, threading, zoneinfo
def double(n): return 2 * n
def run():
    did = []
    thread = threading.Thread(target=lambda: did.append('thread')); thread.start(); thread.join()
    shell = ['sh', '-c', 'echo sub > $TMPDIR/x; cat $TMPDIR/x']
    did.append(subprocess.run(shell, capture_output=True, text=True).stdout.strip())
    with tempfile.NamedTemporaryFile('w+') as file: file.write('x'); did.append('temp')
    with multiprocessing.get_context('fork').Pool(2) as pool: did.append(pool.map(double, [1, 2]))
    queue = multiprocessing.Queue(); queue.put(1); did.append(queue.get()); queue.close()
    here, there = socket.socketpair(); here.send(b'x'); did.append(there.recv(1).decode())
    server = socket.create_server(('127.0.0.1', 0))
    socket.create_connection(server.getsockname(), 2).close(); did.append('tcp')
    did.append(socket.getaddrinfo('localhost', 80)[0][4][0] in ('127.0.0.1', '::1'))
    did.append(len(ssl.create_default_context().get_ca_certs()) >= 0)
    with sqlite3.connect(tempfile.gettempdir() + '/a.db') as db:
        did.append(db.execute('select 1').fetchone()[0])
    did.append(zoneinfo.ZoneInfo('Europe/Zurich').key)
    home = pathlib.Path.home(); (home / 'kept').write_text('x')
    did.append(str(home) == tempfile.gettempdir())
    did.append(asyncio.run(asyncio.to_thread(double, 3)))
    did.append(open('/proc/self/status').readline().startswith('Name'))
    import wsgiref.util; did.append(wsgiref.util.__name__)
    return did
"""


def test_ordinary_work_goes_on(enclosed: Template) -> None:
    found = run(enclosed, ORDINARY)
    expected = ["thread", "sub", "temp", [2, 4], 1, "x", "tcp", True, True, 1, "Europe/Zurich", True, 6, True]
    assert found == [*expected, "wsgiref.util"]


def test_a_run_that_keeps_the_user_root_has_none_of_its_rights(template: Template) -> None:
    source = (
        "def run():\n"
        "    with open('/proc/self/status') as f: status = dict(line.split(':', 1) for line in f)\n"
        "    return [int(status[name], 16) for name in ('CapEff', 'CapPrm', 'CapInh')]\n"
    )
    assert run(template, source) == [0, 0, 0]


def test_files_of_the_workspace_can_be_read_and_not_written(enclosed: Template) -> None:
    shared = enclosed.workspace / "data"
    shared.mkdir(exist_ok=True)
    (shared / "a.txt").write_text("shared")
    source = (
        "def run(path):\n"
        "    try: open(path, 'a').write('x')\n"
        "    except PermissionError: return open(path).read()\n"
    )
    shared.chmod(0o777)
    (shared / "a.txt").chmod(0o666)
    assert run(enclosed, source, path=str(shared / "a.txt")) == "shared"


def test_each_process_has_its_own_directory_and_user(apart: Template | None, plain: Template) -> None:
    source = (
        "import os, tempfile\n"
        "def run():\n"
        "    folder = tempfile.gettempdir(); s = os.stat(folder)\n"
        "    return [folder, s.st_uid == os.getuid(), s.st_mode & 0o777, os.getuid()]\n"
    )
    first, second = run(plain, source), run(plain, source)
    assert first[1:3] == second[1:3] == [True, 0o700]
    assert first[0] != second[0]
    if apart is not None:
        first, second = run(apart, source), run(apart, source)
        assert first[1:3] == second[1:3] == [True, 0o700]
        assert first[3] != second[3]


def test_a_pooled_process_begins_each_run_with_an_empty_directory(plain: Template) -> None:
    (plain.workspace / "pooled.py").write_text(
        "import os, tempfile\n"
        "def run():\n"
        "    folder = tempfile.gettempdir(); before = os.listdir(folder)\n"
        "    open(folder + '/left', 'w').close()\n"
        "    return [folder, before]\n"
    )
    connection = plain.connect()
    seen = []
    for _ in range(3):
        connection.send(plain.start_frame(path="pooled.py", pooled=True))
        seen.append(connection.until(lambda frame: frame["t"] == "result")["result"])
    connection.close()
    assert [before for _, before in seen] == [[], [], []]
    assert len({folder for folder, _ in seen}) == 3
    assert not os.path.exists(seen[0][0])


def test_what_a_pooled_run_does_to_its_directory_is_not_the_next_ones(plain: Template) -> None:
    (plain.workspace / "pooled.py").write_text(
        "import os, shutil, tempfile\n"
        "def run(deed):\n"
        "    folder = tempfile.gettempdir()\n"
        "    seen = [folder, os.environ['HOME'] == os.environ['TMPDIR'] == folder, os.listdir(folder),\n"
        "            oct(os.stat(folder).st_mode & 0o777)]\n"
        "    with tempfile.TemporaryFile(): pass\n"
        "    match deed:\n"
        "        case 'lock': os.chmod(folder, 0o500)\n"
        "        case 'remove': os.rmdir(folder)\n"
        "        case 'replace': os.rmdir(folder); os.symlink('/', folder)\n"
        "        case 'rename': os.environ.update(HOME='/', TMPDIR='/'); tempfile.tempdir = '/'\n"
        "        case 'hide': os.mkdir(folder + '/.hidden')\n"
        "    return seen\n"
    )
    connection = plain.connect()
    folders = []
    for deed in ["nothing", "nothing", "lock", "remove", "replace", "rename", "hide", "nothing"]:
        connection.send(plain.start_frame(path="pooled.py", pooled=True, parameters={"deed": deed}))
        folder, *seen = connection.until(lambda frame: frame["t"] == "result")["result"]
        assert seen == [True, [], "0o700"], f"before {deed}"
        folders.append(folder)
    connection.close()
    assert folders[0] == folders[1] == folders[2], "nothing was left in it"
    assert os.path.isdir("/usr"), "a link is not followed"


def test_only_named_ports_can_be_connected_to(place: Path, tmp_path: Path) -> None:
    source = (
        "import socket\n"
        "def run(ports):\n"
        "    found = []\n"
        "    for port in ports:\n"
        "        try: socket.create_connection(('127.0.0.1', port), 2).close(); found.append('yes')\n"
        "        except OSError as e: found.append(type(e).__name__)\n"
        "    return found\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as allowed, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [server.getsockname()[1] for server in (allowed, other)]
        for network, expected in (
            (str(ports[0]), ["yes", "PermissionError"]),
            ("none", ["OSError", "OSError"]),
        ):
            if (network == "none" and not is_root) or (network != "none" and landlock.version() < 4):
                continue
            folder = tmp_path / network
            folder.mkdir()
            template = Template(place / "workspace", folder, options=("--network", network))
            assert "network" in template.ready["pieces"]
            assert run(template, source, ports=ports) == expected
            template.stop()


def test_without_a_piece_required_refuses_and_best_effort_goes_on(place: Path, tmp_path: Path) -> None:
    template = ["-s", "-P", "-m", "bifrost._host.template", "--workspace", str(place / "workspace")]
    words = [
        ",".join(map(str, LANDLOCK)),
        "38",
        sys.executable,
        *template,
        "--socket",
        str(tmp_path / "t.sock"),
    ]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PLATFORM), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(mode: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-c", ON_ANOTHER_KERNEL, *words, "--isolation", mode],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )

    refused = start("required")
    assert refused.returncode == 1
    assert b"ISOLATION is required, and cannot be had: file system: the kernel" in refused.stderr
    went_on = start("best-effort")
    assert went_on.returncode == 0, went_on.stderr
    assert b'"pieces":["process tree","system calls","memory"]' in went_on.stdout.replace(b'", "', b'","')


@pytest.mark.parametrize("network", ["", "all", "0", "443,", "70000"])
def test_a_network_that_makes_no_sense_is_refused(network: str) -> None:
    command = [sys.executable, "-s", "-P", "-m", "bifrost._host.probe", f"--network={network}"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PLATFORM)}
    ended = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert ended.returncode == 2
    assert b"invalid network value" in ended.stderr


def test_a_filter_is_compiled_for_every_architecture_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine in seccomp.MACHINES.values():
        steps = seccomp.program(machine, makes_pid_namespaces=True)
        assert len(steps) < 4096
        for at, (code, when_true, when_false, _) in enumerate(steps):
            is_jump = code & 7 == 5
            reach = at + 1 + (max(when_true, when_false) if is_jump else 0)
            assert reach < len(steps) or not is_jump
    uname = os.uname()
    monkeypatch.setattr(os, "uname", lambda: type("u", (), {"machine": "riscv64", "release": uname.release}))
    assert seccomp.machine() is None
