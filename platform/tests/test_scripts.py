"""Inline scripts, through the real template."""

from conftest import Template


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
