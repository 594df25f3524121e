"""The variables of a run that its end shows."""

import json
from typing import cast

from conftest import Files, Flow, Pooled, Template

from bifrost._awaitable import Reply, _Ready
from bifrost._host.connection import Call
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


DECORATED = """
import asyncio, functools, logging

def logged(function):
    @functools.wraps(function)
    async def around(*args, **kwargs):
        outer = "not shown"
        logging.getLogger(__name__).info("begins")
        await asyncio.sleep(0)
        return await function(*args, **kwargs)
    return around

@logged
@logged
async def run(given):
    a = given + 1
    await asyncio.sleep(0)
    b = 1 / (given - 1)
    return b

@logged
def plain(given):
    a = given + 1
    return asyncio.sleep(0, a)
"""


def test_variables_of_a_workflow_are_found_behind_async_decorators(
    template: Template, flow: Flow, pooled: Pooled
) -> None:
    path = flow(DECORATED)
    finished = template.run(path=path, parameters={"given": 2}).result
    assert (finished["result"], finished["variables"]) == (1, {"a": 3, "b": 1})
    failed = template.run(path=path, parameters={"given": 1}).result
    assert (failed["error"]["type"], failed["variables"]) == ("ZeroDivisionError", {"a": 2})
    assert template.run("plain", path=path, parameters={"given": 1}).result["variables"] == {"a": 2}
    for given in (2, 3):
        found = pooled.run(path, parameters={"given": given}).result["variables"]
        assert found == {"a": given + 1, "b": 1 / (given - 1)}


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


LOGGED = """
import dataclasses, datetime, decimal, enum, logging, uuid

class Level(enum.IntEnum):
    HIGH = 3

@dataclasses.dataclass
class Price:
    amount: decimal.Decimal
    whole: object = None

class Odd:
    def __json__(self): raise LookupError("does not know itself")

class Endless:
    def __json__(self): return [Endless(), Endless()]

def run():
    price = Price(decimal.Decimal("2.50"))
    price.whole = price
    day, odd = datetime.date(2026, 1, 2), Odd()
    big = {datetime.date.fromordinal(n) for n in range(1, 9_000)}
    extra = {"at": datetime.datetime(2026, 1, 2, 3), "sums": [decimal.Decimal(7), decimal.Decimal("nan")],
             "price": price, "level": Level.HIGH, "id": uuid.UUID(int=1), "day": day, "odd": odd,
             "endless": Endless(), "big": big, "none": object()}
    logging.getLogger(__name__).info("sold", extra=extra)
    del big, extra, price
"""


def test_fields_of_log_lines_have_the_types_of_results_and_variables_are_named(
    template: Template, flow: Flow
) -> None:
    outcome = template.run(path=flow(LOGGED))
    assert outcome.result["variables"] == {"day": "<date>", "odd": "<Odd>"}
    assert next(f["data"] for f in outcome.frames if f["t"] == "log") == {
        **{"at": "2026-01-02T03:00:00", "day": "2026-01-02", "sums": [7, "<Decimal>"], "level": 3},
        **{"price": {"amount": 2.5, "whole": "[Circular Reference]"}, "odd": "<Odd>", "none": "<object>"},
        **{"id": "00000000-0000-0000-0000-000000000001", "big": "<set too large to show>"},
        **{"endless": "<Endless too large to show>"},
    }


def test_a_log_field_shows_numbers_of_any_type_and_waits_for_no_answer() -> None:
    class Cents(int): ...

    class Unanswered:
        def result(self) -> dict[str, object]:
            raise AssertionError("was waited for")

    fields = {"price": Cents(5), "child": Reply(cast(Call, Unanswered()))}
    assert describe(fields, converts=True) == '{"price":5,"child":"<Reply>"}'
