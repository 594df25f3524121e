"""Outcomes of real runs, through the real template."""

from pathlib import Path
from typing import Any

import pytest
from conftest import Flow, Pooled, Template

from bifrost._host.index import index_source

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
    ("problem", "text"),
    [("UserError(KeyError('site'))", "'site'"), ("UserError(404)", "404"), ("Own('Bern', 3)", "('Bern', 3)")],
)
def test_a_user_error_has_a_text_whatever_it_is_made_of(
    template: Template, flow: Flow, problem: str, text: str
) -> None:
    path = flow(
        "from bifrost import UserError\n"
        "class Own(UserError):\n    def __init__(self, site, number): self.site = site\n"
        f"def run(): raise {problem}\n"
    )
    assert template.run(path=path).result["error"]["message"] == text


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


def test_plain_code_is_given_an_event_loop_where_it_asks_for_one(template: Template, flow: Flow) -> None:
    source = (
        "import asyncio\nasync def later(): return 7\n"
        "def run(): return asyncio.get_event_loop().run_until_complete(later())"
    )
    assert template.run(path=flow(source)).result["result"] == 7


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


DEFAULTED = """
import functools
from bifrost import context, param, workflow

def logged(function):
    @functools.wraps(function)
    def around(*args, **kwargs): return function(*args, **kwargs)
    return around

@workflow
@param("a", "int", required=False, default_value=5)
@param("b", default=[2])
@logged
@param("c", "bool", None, None, None, None, False)
@param("extra", default_value="e")
def run(context, a, b: list = [], c=True, /, d=4):
    b.append(a)
    return [a, b, c, d, context.parameters]

@param("x", default_value=5)
async def later(x: int = 1): return [x, context.parameters]
"""


def test_a_default_of_param_is_used_where_the_parameter_is_missing(template: Template, flow: Flow) -> None:
    path = flow(DEFAULTED)

    def given(function: str = "run", **parameters: object) -> object:
        return template.run(function, path=path, parameters=parameters).result["result"]

    assert given() == [5, [2, 5], False, 4, {"extra": "e"}]
    assert given(a=1, b=[], c=None, extra=0) == [1, [1], None, 4, {"extra": 0}]
    assert given("later") == [5, {}]
    assert given("later", x=2) == [2, {}]


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
@pytest.mark.parametrize(
    ("signature", "given", "found"),
    [
        ("a: Optional[int]", {}, [None]),
        ("a: int | None, b: 'Optional[int]', c: typing.Union[None, list]", {"b": 1}, [None, 1, None]),
        ("a: Annotated[Optional[Site], object()]", {}, [None]),
        ("a: Optional['Later'], /, *, b: str | None, c: int | None = 3", {}, [None, None, 3]),
        ("context, a: int | None", {}, ["context", None]),
        ("who: ExecutionContext, a: int | None, b=2", {}, ["context", None, 2]),
        ("who: 'ExecutionContext', free: str", {}, ["context", None]),
        ("free: str, a: None", {}, [None, None]),
        ("free: str = 'x'", {}, ["x"]),
        ("free: str", {"free": "y"}, ["y"]),
        ("*rest, a: int | None, **more", {"b": 1}, [None, [], {"b": 1}]),
    ],
)
def test_what_may_be_left_out_is_none(
    template: Template, flow: Flow, future: str, signature: str, given: dict[str, Any], found: list[Any]
) -> None:
    source = (
        f"{future}import enum, typing\nfrom typing import Annotated, Optional\n"
        "from bifrost import ExecutionContext, param, workflow\n"
        "class Site(enum.Enum): BERN = 1\n"
        f"@workflow\n@param('free', required=False)\ndef run({signature}):\n"
        "    values = locals().values()\n"
        "    return ['context' if isinstance(v, ExecutionContext) else v for v in values]\n"
    )
    (described,) = index_source(source.encode(), "f.py")["workflows"]
    assert not any(parameter["required"] for parameter in described["parameters"])
    result = template.run(path=flow(source), parameters=given).result
    assert result["result"] == found, result["error"]


@pytest.mark.parametrize("signature", ["a: int", "a", "*, a: 'list[int | None]'", "a: dict[str, None], /"])
def test_what_must_be_given_is_missed(template: Template, flow: Flow, signature: str) -> None:
    error = template.run(path=flow(f"def run({signature}): ...\n")).result["error"]
    assert error["type"] == "TypeError"
    assert "missing 1 required" in error["message"]


def test_a_run_does_not_change_the_defaults_of_the_next(flow: Flow, pooled: Pooled) -> None:
    path = flow(
        "from bifrost import param\n"
        "@param('seen', default=[])\n"
        "def run(seen):\n    seen.append(1)\n    return seen\n"
    )
    for _ in range(2):
        assert pooled.result(path) == [1]


def test_a_data_provider_gives_options(template: Template, flow: Flow) -> None:
    path = flow("def run(bad=False): return {} if bad else ['a', {'label': 'B', 'value': 2}]\n")
    found = template.run(path=path, kind="data_provider").result
    assert found["result"] == [{"label": "a", "value": "a"}, {"label": "B", "value": 2}]
    refused = template.run(path=path, kind="data_provider", parameters={"bad": True}).result
    assert (refused["outcome"], refused["error"]["type"]) == ("failed", "TypeError")


def test_runs_draw_different_random_numbers(template: Template, flow: Flow) -> None:
    path = flow("import random\ndef run(): return random.getrandbits(64)\n")
    first, second = (template.run(path=path).result["result"] for _ in range(2))
    assert first != second


def test_a_run_sees_its_trace_and_the_next_one_of_its_process_does_not(
    template: Template, flow: Flow, pooled: Pooled
) -> None:
    path = flow(
        "import os\nfrom bifrost import context\n"
        "def run(): return [context.traceparent, os.environ.get('TRACEPARENT')]\n"
    )
    for trace in ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None):
        context = template.start_frame()["context"] | {"traceparent": trace}
        assert pooled.result(path, context=context) == [trace, trace]


def test_a_pooled_process_serves_runs_in_turn_and_keeps_its_modules(
    template: Template, flow: Flow, pooled: Pooled
) -> None:
    flow("calls = []\n", "pool_helper.py")
    path = flow(
        "import asyncio, pool_helper\n"
        "def run(n):\n    local = n\n    pool_helper.calls.append(n)\n    return list(pool_helper.calls)\n"
        "async def later(n):\n    await asyncio.to_thread(str)\n    return n\n"
        "def broken():\n    raise ValueError('x')\n"
    )
    assert pooled.result(path, parameters={"n": 1}) == [1]
    assert pooled.result(path, parameters={"n": 2}) == [1, 2]
    assert pooled.run(path, "broken").result["error"]["type"] == "ValueError"
    assert pooled.result(path, "later", parameters={"n": 3}) == 3
    assert pooled.result(path, "later", parameters={"n": 4}) == 4
    fresh = pooled.run(path, parameters={"n": 5}, generation="g2").result
    assert fresh["result"] == [5]
    assert fresh["variables"] == {"local": 5}
    assert fresh["usage"]["cpu_seconds"] < 1
    pooled.connection.socket.close()
    assert template.exit_of(pooled.connection.pid)["code"] == 0


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


@pytest.mark.parametrize(
    ("signature", "given", "result"),
    [
        ("context, **rest", {"context": 1, "a": 2}, [{"a": 2}, {"context": 1}]),
        ("who: ExecutionContext, **rest", {"who": 1, "a": 2}, [{"a": 2}, {"who": 1}]),
        ("context, /, **rest", {"context": 1, "a": 2}, [{"context": 1, "a": 2}, {}]),
        ("context, a=0", {"context": 1, "a": 2}, [2, {"context": 1}]),
        ("a=1, b=2, /", {"b": 5}, [1, 5, {}]),
        ("a=1, b=2, /, *, c=3", {"b": 5, "d": 6}, [1, 5, 3, {"d": 6}]),
        ("context, a, b=2, /, c=3", {"a": 4, "c": 6}, [4, 2, 6, {}]),
        ("a=1, b=2, /, **rest", {"b": 5, "c": 6}, [1, 5, {"c": 6}, {}]),
    ],
)
def test_arguments_find_their_place(
    template: Template, flow: Flow, signature: str, given: dict[str, Any], result: Any
) -> None:
    path = flow(
        "from bifrost import ExecutionContext, context as told\n"
        f"def run({signature}):\n"
        "    found = [value for name, value in locals().items() if name not in ('context', 'who')]\n"
        "    return [*found, told.parameters]\n"
    )
    assert template.run(path=path, parameters=given).result["result"] == result


def test_a_positional_argument_without_default_is_missed(template: Template, flow: Flow) -> None:
    path = flow("def run(a, b=2, /): return [a, b]\n")
    error = template.run(path=path, parameters={"b": 5}).result["error"]
    assert "missing 1 required positional argument: 'a'" in error["message"]


def test_the_stack_of_a_line_is_shown_from_the_workflow_on(template: Template, flow: Flow) -> None:
    path = flow("import logging\ndef run(): logging.getLogger('x').warning('here', stack_info=True)\n")
    (warning, trace) = template.run(path=path).logs
    assert warning == ("WARNING", "here")
    assert trace[0] == "TRACEBACK"
    assert trace[1].startswith("Stack (most recent call last):\n")
    assert "line 2, in run" in trace[1]
    assert "_host" not in trace[1]


def test_streams_take_the_options_that_scripts_give_them(template: Template, flow: Flow) -> None:
    path = flow(
        "import sys\n"
        "def run():\n"
        "    for stream in (sys.stdout, sys.stderr):\n"
        "        stream.reconfigure(encoding='utf-8', line_buffering=True)\n"
        "    print('grüezi')\n"
    )
    assert template.run(path=path).messages("DEBUG") == ["grüezi"]


def test_a_model_that_cannot_be_dumped_is_no_result(template: Template, flow: Flow) -> None:
    path = flow(
        "class Model:\n    def model_dump(self): raise LookupError('no such field')\n"
        "def run(): return [Model()]\n"
    )
    error = template.run(path=path).result["error"]
    assert error["type"] == "ResultNotSerializable"
    assert "Model.model_dump() raised LookupError('no such field')" in error["message"]


def test_what_is_imported_before_the_fork_is_harmless_and_the_same_for_all(tmp_path: Path) -> None:
    installed, workspace = tmp_path / "installed", tmp_path / "workspace"
    installed.mkdir()
    workspace.mkdir()
    source = "import os, random\nLOADED_BY, OWN = os.getpid(), random.Random()\n"
    for name in ("drawn", "named"):
        (installed / f"{name}.py").write_text(source)
    (workspace / "never.py").write_text(
        "import antigravity, idlelib.idle, json.tool, this, turtledemo.__main__, wave\n"
    )
    (workspace / "flow.py").write_text(
        "import os, sys\n"
        "loaded = sorted(sys.modules.keys() & {'antigravity', 'idlelib', 'this', 'turtledemo', 'wave'})\n"
        "import drawn, named\n"
        "def run():\n"
        "    return [loaded, [m.LOADED_BY == os.getpid() for m in (drawn, named)], drawn.OWN.random()]\n"
    )
    template = Template(workspace, tmp_path, extra_path=str(installed), options=("--preload", "named"))
    try:
        first, second = (template.run().result["result"] for _ in range(2))
    finally:
        template.stop()
    assert first[:2] == [["wave"], [True, False]]
    assert first[2] != second[2]
