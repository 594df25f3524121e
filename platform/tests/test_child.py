"""Outcomes of real runs, through the real template."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome, Template, daemon_dies

Flow = Callable[..., str]

ORGANIZATION = {"id": "0190bbbb-0000-7000-8000-000000000002", "name": "Acme", "is_active": True}


def test_a_workflow_gets_context_and_arguments_and_gives_its_result(template: Template, flow: Flow) -> None:
    path = flow(
        "from bifrost import ExecutionContext, context\n"
        "async def run(ctx: 'ExecutionContext', a, *, b=2):\n"
        "    total = a + b\n"
        "    return {'total': total, 'who': ctx.email, 'org': context.org_name, 'rest': ctx.parameters}\n"
    )
    outcome = template.run(path=path, parameters={"a": 1, "odd": [1]}, organization=ORGANIZATION)
    result = outcome.result
    assert result["outcome"] == "success"
    assert result["result_type"] == "json"
    assert result["result"] == {"total": 3, "who": "ann@example.com", "org": "Acme", "rest": {"odd": [1]}}
    assert result["variables"] == {"odd": [1], "total": 3}
    assert result["error"] is None
    assert outcome.exit is not None
    assert outcome.exit["code"] == 0
    assert outcome.exit["peak_memory_bytes"] > 1_000_000


@pytest.mark.parametrize(
    ("expression", "result", "kind"),
    [
        ("None", None, None),
        ("' <p>hi</p>'", " <p>hi</p>", "html"),
        ("'plain'", "plain", "text"),
        ("True", True, "json"),
        ("datetime.date(2026, 1, 2)", "2026-01-02", "text"),
        ("[decimal.Decimal('1.5'), decimal.Decimal(2), uuid.UUID(int=1), pathlib.Path('/x')]",
         [1.5, 2, "00000000-0000-0000-0000-000000000001", "/x"], "json"),
        ("{'s': {2, 1}, 't': (1,), 'd': datetime.timedelta(seconds=90), 'c': Colour.RED, 'p': Point(1)}",
         {"s": [1, 2], "t": [1], "d": 90.0, "c": "red", "p": {"x": 1}}, "json"),
        ("{datetime.date(2026, 1, 2): Model()}", {"2026-01-02": {"dumped": True}}, "json"),
    ],
)  # fmt: skip
def test_results_are_converted(
    template: Template, flow: Flow, expression: str, result: Any, kind: str
) -> None:
    path = flow(
        "import dataclasses, datetime, decimal, enum, pathlib, uuid\n"
        "class Colour(enum.Enum):\n    RED = 'red'\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int\n"
        "class Model:\n    def model_dump(self): return {'dumped': True}\n"
        f"def run(): return {expression}\n"
    )
    found = template.run(path=path).result
    assert (found["outcome"], found["result"], found["result_type"]) == ("success", result, kind)


@pytest.mark.parametrize(
    "expression", ["object()", "float('nan')", "[float('inf')]", "b'x'", "cycle()", "'\\ud800'"]
)
def test_what_json_cannot_hold_fails_the_run(template: Template, flow: Flow, expression: str) -> None:
    path = flow(f"def cycle():\n    a = []\n    a.append(a)\n    return a\ndef run(): return {expression}\n")
    found = template.run(path=path).result
    assert (found["outcome"], found["error"]["type"]) == ("failed", "ResultNotSerializable")


def test_a_result_beyond_the_limit_is_refused(template: Template, flow: Flow) -> None:
    found = template.run(path=flow("def run(): return 'ä' * 60\n"), limits={"result_bytes": 100}).result
    assert found["error"]["type"] == "ResultTooLarge"


def test_success_false_means_completed_with_errors(template: Template, flow: Flow) -> None:
    path = flow("def run(v): return {'success': v}\n")
    assert template.run(path=path, parameters={"v": False}).result["outcome"] == "completed_with_errors"
    assert template.run(path=path, parameters={"v": 0}).result["outcome"] == "success"


def test_an_exception_fails_the_run_with_traceback_and_variables(template: Template, flow: Flow) -> None:
    path = flow("def run():\n    step = 'two'\n    raise LookupError('no such site')\n")
    outcome = template.run(path=path)
    error = outcome.result["error"]
    assert (error["type"], error["message"], error["user_error"]) == ("LookupError", "no such site", False)
    assert error["mro"] == ["LookupError", "Exception"]
    assert outcome.result["variables"] == {"step": "two"}
    assert outcome.messages("ERROR") == ["An error occurred during execution"]
    (trace,) = outcome.messages("TRACEBACK")
    assert "line 3, in run" in trace
    assert "_host" not in trace


def test_a_user_error_is_logged_with_its_text_alone(template: Template, flow: Flow) -> None:
    outcome = template.run(
        path=flow("from bifrost import UserError\ndef run(): raise UserError('Pick a site')\n")
    )
    assert outcome.logs == [("ERROR", "Pick a site")]
    assert outcome.result["error"]["user_error"] is True


@pytest.mark.parametrize(
    ("source", "function", "kind"),
    [
        (None, "run", "WorkflowNotFound"),
        ("x = 1\n", "run", "WorkflowNotFound"),
        ("def run(:\n", "run", "WorkflowLoadError"),
        ("import no_such_module\n", "run", "WorkflowLoadError"),
        ("raise SystemExit(0)\n", "run", "WorkflowLoadError"),
    ],
)
def test_a_workflow_that_cannot_be_loaded(
    template: Template, flow: Flow, source: str | None, function: str, kind: str
) -> None:
    path = flow(source) if source else "missing/file.py"
    error = template.run(function, path=path).result["error"]
    assert error["type"] == kind
    assert path in error["message"]


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


def test_printing_is_logged_and_descriptor_output_is_captured(template: Template, flow: Flow) -> None:
    outcome = template.run(
        path=flow(
            "import os, subprocess, sys\n"
            "def run():\n"
            "    print('one', end=' '); print('line')\n"
            "    print('err', file=sys.stderr)\n"
            "    os.write(1, b'\\xff raw\\n')\n"
            '    os.write(1, b\'\\x00\\x00\\x00\\x22{"t":"result","outcome":"success"}\')\n'
            "    sys.stdout.buffer.write(b'bytes\\n')\n"
            "    subprocess.run(['echo', 'child'])\n"
            "    sys.stdout.write('unfinished')\n"
            "    return 'mine'\n"
        )
    )
    assert outcome.messages("DEBUG") == ["one line", "err", "unfinished"]
    assert outcome.frames[-1]["t"] == "result"
    assert outcome.result["result"] == "mine"  # the forged frame came out as output
    assert outcome.output.startswith(b"\xff raw\n")
    assert b'"outcome":"success"' in outcome.output
    assert outcome.output.endswith(b"bytes\nchild\n")


def test_logging_of_the_workspace_is_kept_and_that_of_libraries_is_not(
    template: Template, flow: Flow
) -> None:
    outcome = template.run(
        path=flow(
            "import logging, urllib.request, asyncio\n"
            "log = logging.getLogger(__name__)\n"
            "async def run():\n"
            "    log.info('checked %d', 3, extra={'site': 'HQ', 'odd': object()})\n"
            "    log.log(45, 'trace')\n"
            "    asyncio.get_running_loop().call_exception_handler({'message': 'library'})\n"
        )
    )
    first, second = (frame for frame in outcome.frames if frame["t"] == "log")
    assert (first["level"], first["message"], first["data"]) == (
        "INFO",
        "checked 3",
        {"odd": "<object>", "site": "HQ"},
    )
    assert first["at"] > 1_700_000_000_000_000
    assert second["level"] == "TRACEBACK"


def test_variables_follow_the_rules(template: Template, flow: Flow) -> None:
    path = flow(
        "import os\n"
        "def helper():\n    inner = 1\n    return inner\n"
        "def run(given):\n"
        "    given = 2\n"
        "    _private, module, function = 1, os, helper\n"
        "    loop = [1]\n"
        "    loop.append(loop)\n"
        "    thing, number, tup = object(), float('nan'), (1, {'a': None})\n"
        "    big = ['x' * 100] * 1000\n"
        "    text = 'y' * 200_000\n"
        "    helper()\n"
    )
    found = template.run(path=path, parameters={"given": 1}).result["variables"]
    assert sorted(found) == ["big", "loop", "number", "text", "thing", "tup"]
    assert found["loop"] == [1, "[Circular Reference]"]
    assert (found["thing"], found["number"], found["tup"]) == ("<object>", "<float>", [1, {"a": None}])
    assert found["big"] == "<list too large to show>"
    assert found["text"].endswith("[truncated]")
    assert 60_000 < len(found["text"]) < 65_536


def test_variables_of_an_async_workflow_outlive_its_awaits(template: Template, flow: Flow) -> None:
    path = flow(
        "import asyncio\nasync def run():\n    a = 1\n    await asyncio.sleep(0)\n    b = a + 1\n    1 / 0\n"
    )
    assert template.run(path=path).result["variables"] == {"a": 1, "b": 2}


def test_helpers_are_found_from_the_workspace_and_beside_the_file(template: Template, flow: Flow) -> None:
    flow("WHO = 'root'\n", "shared_helper.py")
    flow("WHO = 'beside'\n", "team/local_helper.py")
    flow("raise RuntimeError('shadowed')\n", "team/json.py")
    path = flow(
        "import json, local_helper, shared_helper\n"
        "from team.local_helper import WHO\n"
        "from . import local_helper as relative\n"
        "def run(): return [local_helper.WHO, shared_helper.WHO, WHO, relative.WHO, json.dumps(1)]\n",
        "team/flow.py",
    )
    assert template.run(path=path).result["result"] == ["beside", "root", "beside", "beside", "1"]


def test_a_changed_file_is_recompiled(template: Template, flow: Flow) -> None:
    path = flow("def run(): return 1\n")
    assert template.run(path=path).result["result"] == 1
    flow("def run(): return 'changed'\n")
    assert template.run(path=path).result["result"] == "changed"


def test_a_script_may_await_and_return_and_shows_its_variables(template: Template) -> None:
    for code in (
        "import asyncio\nvalue: int = base + 1\nawait asyncio.sleep(0)\nlogger.info('at %s', value)\n",
        "value: int = base + 1\nlogger.info('at %s', value)\nif value:\n    return 5\nnever = 1\n",
    ):
        outcome = template.run(code=code, script_name="probe", workflow=None, parameters={"base": 1})
        assert outcome.result["result"] == {"status": "completed", "message": "Script executed successfully"}
        assert outcome.result["variables"] == {"value": 2}
        assert outcome.logs == [("INFO", "at 2")]


def test_a_broken_script_shows_its_line(template: Template) -> None:
    outcome = template.run(code="a = 1\nraise ValueError(a)\n", script_name=None, workflow=None)
    assert outcome.result["error"]["type"] == "ValueError"
    assert "raise ValueError(a)" in outcome.messages("TRACEBACK")[0]
    assert outcome.result["variables"] == {"a": 1}


def test_a_data_provider_gives_options(template: Template, flow: Flow) -> None:
    path = flow("def run(bad=False): return {} if bad else ['a', {'label': 'B', 'value': 2}]\n")
    found = template.run(path=path, kind="data_provider").result
    assert found["result"] == [{"label": "a", "value": "a"}, {"label": "B", "value": 2}]
    refused = template.run(path=path, kind="data_provider", parameters={"bad": True}).result
    assert (refused["outcome"], refused["error"]["type"]) == ("failed", "TypeError")


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


def test_runs_draw_different_random_numbers(template: Template, flow: Flow) -> None:
    path = flow("import random\ndef run(): return random.getrandbits(64)\n")
    first, second = (template.run(path=path).result["result"] for _ in range(2))
    assert first != second


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


def test_a_run_sees_its_trace_and_the_next_one_of_its_process_does_not(
    template: Template, flow: Flow
) -> None:
    path = flow(
        "import os\nfrom bifrost import context\n"
        "def run(): return [context.traceparent, os.environ.get('TRACEPARENT')]\n"
    )
    connection = template.connect()
    seen = []
    for trace in ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None):
        start = template.start_frame(path=path, pooled=True)
        start["context"]["traceparent"] = trace
        connection.send(start)
        seen.append((trace, connection.until(lambda frame: frame["t"] == "result")["result"]))
    connection.close()
    assert [result for _, result in seen] == [[trace, trace] for trace, _ in seen]


def test_a_pooled_process_serves_runs_in_turn_and_keeps_its_modules(template: Template, flow: Flow) -> None:
    flow("calls = []\n", "pool_helper.py")
    path = flow(
        "import asyncio, pool_helper\n"
        "def run(n):\n    local = n\n    pool_helper.calls.append(n)\n    return list(pool_helper.calls)\n"
        "async def later(n):\n    await asyncio.to_thread(str)\n    return n\n"
        "def broken():\n    raise ValueError('x')\n"
    )
    connection = template.connect()

    def run(function: str = "run", **more: Any) -> dict[str, Any]:
        connection.send(template.start_frame(function, path=path, pooled=True, **more))
        return connection.until(lambda frame: frame["t"] == "result")

    assert run(parameters={"n": 1})["result"] == [1]
    assert run(parameters={"n": 2})["result"] == [1, 2]
    assert run("broken")["error"]["type"] == "ValueError"
    assert run("later", parameters={"n": 3})["result"] == 3
    assert run("later", parameters={"n": 4})["result"] == 4
    fresh = run(parameters={"n": 5}, generation="g2")
    assert fresh["result"] == [5]
    assert fresh["variables"] == {"local": 5}
    assert fresh["usage"]["cpu_seconds"] < 1
    connection.close()
    assert template.exit_of(connection.pid)["code"] == 0


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


def test_capturing_variables_does_not_slow_a_hot_loop(template: Template, flow: Flow) -> None:
    path = flow(
        "import time\n"
        "def step(n): return n + 1\n"
        "def run():\n"
        "    begin, n = time.process_time(), 0\n"
        "    for _ in range(1_000_000): n = step(n)\n"
        "    return time.process_time() - begin\n"
    )

    def fastest(capture: bool) -> float:
        runs = [template.run(path=path, capture_variables=capture).result for _ in range(5)]
        assert all(("n" in run["variables"]) is capture for run in runs)
        return float(min(run["result"] for run in runs))

    without, captured = fastest(False), fastest(True)
    ratio = captured / without
    print(f"hot loop of 1,000,000 calls: {without:.3f} s, capturing {captured:.3f} s: {ratio:.2f} x")
    # Tracing costs 6 to 10 times; the rest is the noise of a busy machine.
    assert ratio < 2


def test_variables_have_bounds(template: Template, flow: Flow) -> None:
    path = flow(
        "import os\n"
        "def run(given):\n"
        "    small, large, odd = 1, 'x' * 200_000, object()\n"
        "    function, module, _private = len, os, 1\n"
        "    many = [list(range(9_000)) for _ in range(2)]\n"
        "    for n in range(40): locals()\n"
        "    circle = {}\n"
        "    circle['self'] = circle\n"
        "    raise ValueError('kept on failure')\n"
    )
    outcome = template.run(path=path, parameters={"given": 1})
    shown = outcome.result["variables"]
    assert {"small", "large", "odd", "circle"} <= shown.keys()
    assert not {"given", "function", "module", "_private"} & shown.keys()
    assert (shown["odd"], shown["circle"]) == ("<object>", {"self": "[Circular Reference]"})
    assert len(shown["large"].encode()) <= 64 * 1024
    assert len(json.dumps(shown)) <= 1024 * 1024


def test_all_variables_together_have_a_bound(template: Template, flow: Flow) -> None:
    names = [f"v{n}" for n in range(40)]
    body = "".join(f"    {name} = 'x' * 60_000\n" for name in names)
    shown = template.run(path=flow(f"def run():\n{body}    return 1\n")).result["variables"]
    assert 10 <= len(shown) < 40
    assert len(json.dumps(shown)) <= 1024 * 1024 + 1024


def test_a_script_is_compiled_as_given_and_is_the_main_module(template: Template) -> None:
    code = 'text = """\n    four spaces\n  two\n"""\n'
    code += 'assert __name__ == "__main__"\nlogger.info(text)\nlogging.warning(site)\n'
    outcome = template.run(code=code, parameters={"site": "Bern"})
    assert outcome.result["result"] == {
        "status": "completed",
        "message": "Script executed successfully",
    }
    assert outcome.logs == [("INFO", "\n    four spaces\n  two\n"), ("WARNING", "Bern")]
    assert outcome.result["variables"]["text"] == "\n    four spaces\n  two\n"


def test_a_script_may_await_and_return_at_top_level(template: Template) -> None:
    code = "import asyncio\nfor n in range(3):\n    await asyncio.sleep(0)\n    if n == 1: return\n"
    code += "raise AssertionError\n"
    outcome = template.run(code=code)
    assert outcome.result["outcome"] == "success"
    assert outcome.result["variables"]["n"] == 1


def test_the_context_has_every_member(template: Template, flow: Flow) -> None:
    path = flow(
        "from bifrost import context\n"
        "async def run(context):\n"
        "    try: context.db\n"
        "    except RuntimeError: refused = True\n"
        "    await context.finalize_execution()\n"
        "    c, o = context, context.organization\n"
        "    return [refused, c.user_id, c.email, c.name, c.scope, o.org_id, o.is_active,\n"
        "            c.is_platform_admin, c.is_function_key, c.execution_id, c.startup, c.org_id,\n"
        "            c.org_name, c.is_global_scope, c.executed_by, c.executed_by_email,\n"
        "            c.executed_by_name]\n"
    )
    org = ORGANIZATION["id"]
    found = template.run(path=path, organization=ORGANIZATION, startup={"site": 1}).result
    assert found["result"] == [
        *(True, "u1", "ann@example.com", "Ann", org, org, True),
        *(False, False, "0190aaaa-0000-7000-8000-000000000001", {"site": 1}, org, "Acme"),
        *(False, "u1", "ann@example.com", "Ann"),
    ]


def test_lines_of_third_party_code_are_not_the_workflow_s(template: Template, flow: Flow) -> None:
    path = flow(
        "import logging, xml.sax\n"
        "def run():\n"
        "    exec(compile('import logging; logging.error(\"theirs\")', '/usr/lib/other.py', 'exec'))\n"
        "    logging.getLogger('mine').error('ours', extra={'n': 1})\n"
    )
    outcome = template.run(path=path)
    assert outcome.logs == [("ERROR", "ours")]
    assert next(frame["data"] for frame in outcome.frames if frame["t"] == "log") == {"n": 1}
