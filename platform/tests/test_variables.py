"""The variables of a run that its end shows."""

import json

from conftest import Flow, Template


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
