"""What a run of a pooled process leaves to the next one: its modules, and nothing else."""

import os
import random
import signal
from pathlib import Path

import pytest
from conftest import Flow, Pooled, Template

SETTINGS = """
import asyncio, contextvars, decimal, logging, logging.config, os, random, signal, socket, sys, tempfile, time

NAMED = logging.getLogger("named")
VARIABLE = contextvars.ContextVar("variable", default="unset")
SIGNALS = [signal.SIGTERM, signal.SIGXCPU, signal.SIGINT, signal.SIGALRM, signal.SIGCHLD,
           signal.SIGPIPE, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]

def read():
    mask = os.umask(0o22)
    os.umask(mask)
    root = logging.getLogger()
    loop = asyncio.get_event_loop()
    return {
        "variables": sorted(os.environ.items()),
        "folder": os.getcwd(),
        "mask": mask,
        "signals": [repr(signal.getsignal(number)) for number in SIGNALS],
        "alarm": signal.getitimer(signal.ITIMER_REAL)[0],
        "timeout": socket.getdefaulttimeout(),
        "streams": [type(sys.stdout).__name__, type(sys.stderr).__name__],
        "logging": [[type(handler).__name__ for handler in root.handlers], root.level, root.filters,
                    root.handlers[0].level, root.manager.disable],
        "loggers": [[one.level, one.propagate, one.disabled, len(one.handlers), len(one.filters)]
                    for one in (NAMED, logging.getLogger("made"))],
        "factory": repr(logging.getLogRecordFactory()),
        "zone": time.localtime(0).tm_hour,
        "watching": [repr(sys.gettrace()), repr(sys.getprofile())],
        "context": VARIABLE.get(),
        "path": sys.path,
        "arithmetic": repr(decimal.getcontext()),
        "temporary": tempfile.gettempdir(),
        "loop": [loop.is_closed(), loop.get_debug(), loop.run_until_complete(asyncio.sleep(0, "slept"))],
    }

def variables():
    os.environ.update(API_KEY="leak", HOME="/elsewhere")
    del os.environ["LANG"]

def folder():
    place = tempfile.mkdtemp()
    os.chdir(place)
    os.rmdir(place)

def mask(): os.umask(0)

def signals():
    for number in SIGNALS: signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # it is ignored already

def alarm(): signal.setitimer(signal.ITIMER_REAL, 60)
def timeout(): socket.setdefaulttimeout(0.01)
def streams(): sys.stdout = sys.stderr = open(os.devnull, "w")

def handlers():
    logging.getLogger().handlers[:] = []
    logging.basicConfig(level=logging.ERROR)
    logging.disable(logging.CRITICAL)

def filters():
    logging.getLogger().addFilter(lambda record: False)
    logging.getLogger().handlers[0].setLevel(logging.CRITICAL)

def configuration():
    logging.config.dictConfig({"version": 1, "root": {"level": "ERROR", "handlers": []}})

def loggers():
    for one in (NAMED, logging.getLogger("made"), logging.getLogger("made.later")):
        one.setLevel(logging.ERROR)
        one.propagate = False
        one.addHandler(logging.StreamHandler())
        one.addFilter(lambda record: False)

def emptied(): NAMED.handlers, NAMED.disabled = [logging.NullHandler()], True

def factory():
    made = logging.getLogRecordFactory()
    logging.setLogRecordFactory(lambda *args, **more: made(*args, **more))

def zone():
    os.environ["TZ"] = "JST-9"
    time.tzset()

def watching():
    sys.setprofile(lambda *_: None)
    sys.settrace(lambda *_: None)

def context(): VARIABLE.set("leak")
def path(): sys.path.insert(0, "/elsewhere")
def other_path(): sys.path = ("/elsewhere",)
def arithmetic(): decimal.getcontext().prec = 3
def temporary(): tempfile.tempdir = "/"
def closed(): asyncio.run(asyncio.sleep(0))
def other(): asyncio.set_event_loop(asyncio.new_event_loop())
async def debugging(): asyncio.get_running_loop().set_debug(True)
async def executor(): await asyncio.to_thread(str)
async def handler(): asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, str)

class Policy(asyncio.DefaultEventLoopPolicy):
    def get_event_loop(self): raise RuntimeError("no loop for you")

def policy(): asyncio.set_event_loop_policy(Policy())
"""
CHANGES = (
    *("variables", "folder", "mask", "signals", "alarm", "timeout", "streams", "handlers", "filters"),
    *("configuration", "loggers", "emptied", "factory", "zone", "watching", "context", "path", "other_path"),
    *("arithmetic", "temporary", "closed", "other", "debugging", "executor", "handler", "policy"),
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_finds_the_settings_that_the_first_one_found(
    flow: Flow, pooled: Pooled, tmp_path: Path, change: str
) -> None:
    path, place = flow(SETTINGS), str(tmp_path / "t")

    def run(function: str) -> object:
        # To find the variables of a run would end profiling.
        return pooled.result(path, function, temp_dir=place, capture_variables=False)

    before = run("read")
    run(change)
    assert run("read") == before


def test_lines_are_logged_whatever_a_file_has_configured(flow: Flow, pooled: Pooled) -> None:
    configuring = flow(
        "import logging.config\n"
        "logging.config.dictConfig({'version': 1, 'root': {'level': 'WARNING', 'handlers': ['console']},\n"
        "    'handlers': {'console': {'class': 'logging.StreamHandler'}}})\n"
        "def run(): pass\n",
        "configures_logging.py",
    )
    path = flow("import logging\nlog = logging.getLogger(__name__)\ndef run(): log.info('patching')\n")
    for _ in range(2):
        assert pooled.run(path).logs == [("INFO", "patching")]
        pooled.run(configuring)
    assert pooled.run(path).logs == [("INFO", "patching")]


def test_what_a_file_sets_while_it_is_loaded_stays(flow: Flow, pooled: Pooled) -> None:
    path = flow(
        "import decimal, os, socket, sys\n"
        "os.environ['REGION'] = 'ch'\nsocket.setdefaulttimeout(7)\nsys.path.append('/elsewhere')\n"
        "decimal.getcontext().prec = 50\n"
        "def run():\n"
        "    return [os.environ.get('REGION'), socket.getdefaulttimeout(), sys.path[-1],\n"
        "            decimal.getcontext().prec]\n"
        "def change():\n"
        "    os.environ['REGION'] = 'de'\n    socket.setdefaulttimeout(None)\n    sys.path.pop()\n"
        "    decimal.getcontext().prec = 3\n"
    )
    set_by_file = ["ch", 7, "/elsewhere", 50]
    pooled.result(path, "change")
    assert pooled.result(path) == set_by_file
    pooled.result(path, "change")
    assert pooled.result(path) == set_by_file


LOGGING = """
import logging, random

class Short(logging.Filter):
    def filter(self, record): return "long" not in record.getMessage()

logging.getLogger().setLevel(logging.INFO)
logging.getLogger().addFilter(Short())
logging.getLogger("quiet").setLevel(logging.ERROR)
logging.getLogger("apart").propagate = False
logging.getLogger("apart").addHandler(logging.StreamHandler())
random.seed(7)

def run():
    logging.debug("detail")
    logging.info("short")
    logging.info("long")
    logging.getLogger("quiet").info("quiet")
    logging.getLogger("apart").error("apart")
    return random.random()

def change():
    for name in (None, "quiet", "apart"):
        one = logging.getLogger(name)
        one.setLevel(logging.CRITICAL)
        one.propagate = True
        one.handlers.clear()
        one.filters.clear()
    random.seed(8)
"""


def test_runs_find_the_logging_and_the_seed_of_their_file_as_in_a_process_of_their_own(
    template: Template, flow: Flow, pooled: Pooled
) -> None:
    path = flow(LOGGING)
    alone = template.run(path=path)
    assert (alone.logs, alone.result["result"]) == (
        [("INFO", "short"), ("DEBUG", "apart")],  # the latter is printed by the handler
        random.Random(7).random(),
    )
    for _ in range(2):
        again = pooled.run(path)
        assert (again.logs, again.result["result"]) == (alone.logs, alone.result["result"])
        pooled.run(path, "change")


def test_a_logger_that_a_file_has_switched_off_stays_off(flow: Flow, pooled: Pooled) -> None:
    path = flow(
        "import logging\n"
        "logging.getLogger('off').disabled = True\n"
        "def run(): logging.getLogger('off').error('off')\n"
    )
    configuring = flow(
        "import logging.config\nlogging.config.dictConfig({'version': 1})\ndef run(): ...\n", "c.py"
    )
    for _ in range(2):
        assert pooled.run(path).logs == []
        pooled.run(configuring)


def test_each_file_adds_to_what_files_before_have_set(flow: Flow, pooled: Pooled) -> None:
    source = (
        "import contextvars\n"
        "VARIABLE = contextvars.ContextVar(__name__, default='unset')\n"
        "VARIABLE.set('set')\n"
        "def run():\n"
        "    seen = VARIABLE.get()\n"
        "    VARIABLE.set('changed')\n"
        "    return seen\n"
    )
    paths = [flow(source, f"adds_{number}.py") for number in range(2)]
    assert [pooled.result(path) for path in paths * 3] == ["set"] * 6


def test_random_numbers_are_not_those_of_the_seed_of_a_run_before(flow: Flow, pooled: Pooled) -> None:
    path = flow(
        "import random\n"
        "def seed(): random.seed(1)\n"
        "def state(): random.setstate(random.Random(1).getstate())\n"
        "def run(): return random.random()\n"
    )
    predictable = random.Random(1).random()
    for way in ("seed", "state"):
        pooled.result(path, way)
        assert pooled.result(path) != predictable


def test_what_a_run_has_scheduled_does_not_happen_in_the_next(flow: Flow, pooled: Pooled) -> None:
    path = flow(
        "import asyncio\n"
        "async def leave():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    loop.call_later(0.01, print, 'of the run before')\n"
        "    loop.call_soon(loop.call_soon, print, 'of the run before')\n"
        "async def run(): await asyncio.sleep(0.05)\n"
    )
    pooled.result(path, "leave")
    assert pooled.run(path).logs == []


def test_a_loop_in_which_nothing_is_left_serves_the_next_run(flow: Flow, pooled: Pooled) -> None:
    path = flow(
        "import asyncio\n"
        "loops = []\n"
        "async def run():\n"
        "    await asyncio.wait_for(asyncio.sleep(0), 60)\n"
        "    loops.append(asyncio.get_running_loop())\n"
        "    return loops[0] is loops[-1]\n"
    )
    assert [pooled.result(path) for _ in range(3)] == [True] * 3


def test_a_run_is_cancelled_whatever_the_one_before_did_with_the_signal(
    template: Template, flow: Flow, pooled: Pooled
) -> None:
    path = flow(
        "import signal, time\n"
        "def ignore(): signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def run():\n    try:\n        print('up')\n        time.sleep(60)\n    finally: print('down')\n"
    )
    pooled.result(path, "ignore")
    pooled.connection.send(template.start_frame(path=path, pooled=True))
    pooled.connection.until(lambda frame: frame.get("message") == "up")
    os.kill(pooled.connection.pid, signal.SIGTERM)
    pooled.connection.until(lambda frame: frame.get("message") == "down")
    assert template.exit_of(pooled.connection.pid)["code"] == 143


@pytest.mark.parametrize(
    "leaving",
    [
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "globals().setdefault('kept', concurrent.futures.ThreadPoolExecutor()).submit(str)",
        "subprocess.Popen(['sleep', '60'])",
    ],
)
def test_a_process_ends_with_the_run_that_leaves_threads_or_programs(
    flow: Flow, pooled: Pooled, leaving: str
) -> None:
    path = flow(
        "import concurrent.futures, subprocess, threading, time\n"
        f"def run():\n    left = {leaving}\n    return 'done'\n"
    )
    assert pooled.result(path) == "done"
    assert pooled.has_ended()


@pytest.mark.parametrize(
    "work",
    [
        "subprocess.run(['true'])",
        "os.waitpid(os.fork() or os._exit(0), 0)",
        "os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)",
        "asyncio.run(program())",
        "asyncio.run(asyncio.to_thread(str))",
        "multiprocessing.get_context('fork').Pool(2).terminate()",
    ],
)
def test_a_process_goes_on_after_a_run_that_ends_what_it_starts(
    flow: Flow, pooled: Pooled, work: str
) -> None:
    path = flow(
        "import asyncio, multiprocessing.pool, os, subprocess\n"
        "async def program():\n"
        "    started = await asyncio.create_subprocess_exec('true')\n"
        "    await started.wait()\n"
        f"runs = []\ndef run():\n    {work}\n    runs.append(1)\n    return len(runs)\n"
    )
    assert [(pooled.result(path), pooled.last) for _ in range(3)] == [(1, False), (2, False), (3, False)]


def test_a_process_whose_result_is_large_ends_as_well(flow: Flow, pooled: Pooled) -> None:
    path = flow(
        "import threading, time\n"
        "def run():\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    return 'x' * 3_000_000\n"
    )
    assert pooled.result(path) == "x" * 3_000_000
    assert pooled.has_ended()


def test_threads_and_programs_of_a_file_that_is_loaded_stay(flow: Flow, pooled: Pooled) -> None:
    path = flow(
        "import concurrent.futures, subprocess, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "helper = subprocess.Popen(['sleep', '60'])\n"
        "runs = []\n"
        "def run():\n"
        "    with concurrent.futures.ThreadPoolExecutor() as pool: pool.submit(runs.append, 1).result()\n"
        "    subprocess.run(['true'])\n"
        "    return [len(runs), helper.poll()]\n"
    )
    assert [pooled.result(path) for _ in range(3)] == [[1, None], [2, None], [3, None]]


def test_how_a_program_of_a_file_ended_is_for_the_file_to_ask(flow: Flow, pooled: Pooled) -> None:
    path = flow(
        "import os, subprocess\n"
        "helper = subprocess.Popen(['sh', '-c', 'exit 3'])\n"
        "def wait(): os.waitid(os.P_PID, helper.pid, os.WEXITED | os.WNOWAIT)\n"
        "def run(): return helper.wait()\n"
        "def leave(): subprocess.Popen(['sleep', '60'])\n"
    )
    pooled.result(path, "wait")
    assert pooled.result(path) == 3
    assert not pooled.last
    # There are none of the file any more, so this one is of the run.
    pooled.result(path, "leave")
    assert pooled.has_ended()


def test_what_has_ended_is_collected(flow: Flow, pooled: Pooled) -> None:
    path = flow(
        "import os\n"
        "def leave():\n"
        "    ended = []\n"
        "    for _ in range(3):\n"
        "        if (pid := os.fork()) == 0: os._exit(0)\n"
        "        ended.append(pid)\n"
        "    for pid in ended: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\n"
        "def run():\n"
        "    try: return os.waitpid(-1, os.WNOHANG)\n"
        "    except ChildProcessError: return 'none'\n"
    )
    pooled.result(path, "leave")
    assert pooled.result(path) == "none"


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("end", ["return 1", "1 / 0"])
def test_what_a_run_held_is_gone_in_the_next(flow: Flow, pooled: Pooled, kind: str, end: str) -> None:
    path = flow(
        "import weakref\n"
        "class Rows: ...\n"
        "seen = []\n"
        f"{kind} run():\n    rows = Rows()\n    seen.append(weakref.ref(rows))\n    {end}\n"
        "def left(): return [one() is not None for one in seen]\n"
    )
    for _ in range(2):
        assert pooled.run(path).result["variables"] == {"rows": "<Rows>"}
    assert pooled.result(path, "left") == [False, False]


@pytest.mark.parametrize(
    ("rows", "size", "runs"),
    [
        ("bytearray(size)", 200 << 20, 8),
        # Python counts the objects of a circle, and two are few.
        ("circle(bytearray(size))", 200 << 20, 8),
        ("circle(bytearray(size))", 50 << 20, 30),
    ],
)
def test_memory_of_runs_before_is_there_for_the_next(
    flow: Flow, pooled: Pooled, rows: str, size: int, runs: int
) -> None:
    path = flow(
        # Nothing is collected because of all else that is made.
        "import gc\ngc.set_threshold(1_000_000)\n"
        "def circle(held):\n    made = [held]\n    made.append(made)\n    return made\n"
        f"def run(size):\n    rows = {rows}\n    return len(rows)\n"
    )
    for _ in range(runs):
        pooled.result(path, parameters={"size": size}, limits={"memory_bytes": 1 << 30})


def test_printing_is_heard_in_a_run_after_one_that_closed_the_stream(flow: Flow, pooled: Pooled) -> None:
    path = flow(
        "import sys\n"
        "def close():\n    print('last', end='')\n    sys.stdout.close()\n    sys.stderr.buffer.close()\n"
        "def run():\n    print('heard')\n    sys.stderr.buffer.write(b'')\n"
    )
    assert pooled.run(path, "close").logs == [("DEBUG", "last")]
    assert pooled.run(path).logs == [("DEBUG", "heard")]
