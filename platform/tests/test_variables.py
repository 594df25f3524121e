"""The variables of a run that its end shows."""

import json

from conftest import Files, Flow, Template

from bifrost._awaitable import _Ready
from bifrost._host.convert import describe


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


SHOWN = """
import collections, enum, logging
from bifrost import files

class Level(enum.StrEnum):
    HIGH = "high"

class Loud(dict):
    def items(self): raise LookupError("never called")

Point = collections.namedtuple("Point", "x y")

def run():
    text, names, there, done = files.read("a.txt"), files.list(), files.exists("a.txt"), files.delete("b.txt")
    counts, groups = collections.Counter("aab"), collections.defaultdict(list, x=[1])
    level, loud, point, keyed = Level.HIGH, Loud(a=1), Point(1, there), {Level.HIGH: text}
    groups["self"] = groups
    logging.getLogger(__name__).info("read", extra={"text": text, "there": there})
"""


def test_values_of_the_sdk_and_of_subclasses_are_shown_as_what_they_hold(
    template: Template, flow: Flow
) -> None:
    worker = Files({"a.txt": b"hello", "b.txt": b""})
    outcome = template.run(path=flow(SHOWN), answer=worker.answer)
    assert outcome.result["variables"] == {
        **{"text": "hello", "names": ["a.txt", "b.txt"], "there": True, "done": None},
        **{"counts": {"a": 2, "b": 1}, "groups": {"x": [1], "self": "[Circular Reference]"}},
        **{"level": "high", "loud": {"a": 1}, "point": [1, True], "keyed": {"high": "hello"}},
    }
    assert next(f["data"] for f in outcome.frames if f["t"] == "log") == {"text": "hello", "there": True}


def test_a_child_run_is_shown_once_it_has_answered_and_never_waited_for(
    template: Template, flow: Flow
) -> None:
    path = flow(
        "from bifrost import workflows\n"
        "async def run():\n"
        "    known, unknown = workflows.execute('a'), workflows.execute('b')\n"
        "    known['n']\n"
    )
    variables = template.run(path=path, answer=lambda _: {"ok": {"n": 1}}).result["variables"]
    assert variables == {"known": {"n": 1}, "unknown": "<Reply>"}


def test_a_dict_that_changes_while_it_is_shown_is_named() -> None:
    changing: dict[int, object] = {}

    class Key(_Ready):
        def _plain(self) -> str:
            changing[len(changing) + 1] = "c"
            return "changed"

    changing |= {1: Key(), 2: "b"}
    assert describe(changing) == '"<dict>"'


def test_a_flag_that_is_false_is_a_partial_failure(template: Template, flow: Flow) -> None:
    path = flow("from bifrost import files\ndef run(name): return {'success': files.exists(name)}\n")
    worker = Files({"a.txt": b""})
    outcomes = {
        name: template.run(path=path, answer=worker.answer, parameters={"name": name}).result
        for name in ("a.txt", "none.txt")
    }
    assert [frame["outcome"] for frame in outcomes.values()] == ["success", "completed_with_errors"]
    assert [frame["result"] for frame in outcomes.values()] == [{"success": True}, {"success": False}]
