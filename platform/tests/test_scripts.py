"""Inline scripts, through the real template."""

import pytest
from conftest import Flow, Pooled, Template


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


@pytest.mark.parametrize(
    "block",
    [
        "if True:\n    total: int = 2\n    later: str",
        "if not site:\n    pass\nelse:\n    total: int = 2",
        "for _ in (1,):\n    while True:\n        total: int = 2\n        break",
        "try:\n    raise ValueError\nexcept ValueError:\n    total: int = 1\nfinally:\n    total: int = 2",
        "import contextlib\nwith contextlib.suppress(OSError):\n    total: int = 2",
        "match site:\n    case 'Bern':\n        total: int = 2",
    ],
)
def test_a_script_with_return_may_annotate_names_in_blocks(template: Template, block: str) -> None:
    outcome = template.run(code=f"{block}\nreturn\n", parameters={"site": "Bern"})
    assert outcome.result["outcome"] == "success", outcome.result["error"]
    assert outcome.result["variables"]["total"] == 2


def test_a_script_with_return_keeps_the_annotations_of_classes_and_functions(template: Template) -> None:
    code = (
        "import dataclasses\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int = 1\n"
        "def double(x: int):\n    total: int = x * 2\n    return total\n"
        "found = [Point(3).x, double(4), list(Point.__annotations__)]\n"
        "return\n"
    )
    outcome = template.run(code=code)
    assert outcome.result["variables"]["found"] == [3, 8, ["x"]]


@pytest.mark.parametrize(
    "code",
    [
        "from string import *\nfound = digits\nreturn\n",
        "import asyncio\nfrom string import *\nawait asyncio.sleep(0)\nfound = digits\nreturn\n",
        "if site:\n    from string import *\nfound = digits\nreturn\n",
        "digits = 'mine'\nfrom string import *\nfound = digits\nreturn\n",
        "found = '0123456789'\nif site:\n    return\nfrom no_such_module import *\n",
    ],
)
def test_a_script_with_return_may_import_all_of_a_module(template: Template, code: str) -> None:
    outcome = template.run(code=code, parameters={"site": "Bern"})
    assert outcome.result["outcome"] == "success", outcome.result["error"]
    assert outcome.result["variables"]["found"] == "0123456789"


def test_a_star_import_that_fails_shows_its_line(template: Template) -> None:
    outcome = template.run(code="found = 1\nfrom no_such_module import *\nreturn\n", script_name="probe")
    assert outcome.result["error"]["type"] == "ModuleNotFoundError"
    assert 'File "<probe>", line 2' in outcome.messages("TRACEBACK")[0]


@pytest.mark.parametrize("end", ["", "return\n"])
@pytest.mark.parametrize(
    "code",
    [
        "from concurrent.futures import ProcessPoolExecutor\n"
        "with ProcessPoolExecutor(2) as pool: found = [*pool.map(double, [1, 2])] == [2, 4]\n",
        "import pickle\nfound = pickle.loads(pickle.dumps(Point(3))) == Point(3)\n",
        "import typing\nfound = typing.get_type_hints(Point) == {'x': int, 'next': Point | None}\n",
        "import __main__\nfound = __main__.Point is Point and __main__.site == 'Bern'\n",
    ],
    ids=["processes", "pickle", "hints", "main"],
)
def test_other_modules_find_a_script_as_the_main_module(template: Template, code: str, end: str) -> None:
    source = (
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int\n    next: Point | None = None\n"
        "def double(x): return x * 2\n"
        f"{code}{end}"
    )
    result = template.run(code=source, parameters={"site": "Bern"}).result
    assert result["outcome"] == "success", result["error"]
    assert result["variables"]["found"] is True


def test_what_a_script_leaves_in_its_names_is_not_for_the_next_run(flow: Flow, pooled: Pooled) -> None:
    path = flow("import __main__, sys\ndef run(): return hasattr(sys.modules['__main__'], 'rows')\n")
    pooled.result(path, code="rows = [1]\n")
    assert pooled.result(path) is False


def test_a_script_may_begin_with_a_byte_order_mark(template: Template) -> None:
    result = template.run(code="\ufefffound = 1\n").result
    assert result["variables"] == {"found": 1}, result["error"]
