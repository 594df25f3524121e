"""What checking a file finds, in which order, and that it executes nothing."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PLATFORM

from bifrost._host.validate import validate

GOOD = '''from bifrost import workflow

@workflow(category="Ops", tags=["a"])
def good(name: str):
    """Says what it does."""
'''


def messages(found: dict[str, Any]) -> list[str]:
    return [f"{issue['severity']}: {issue['message']}" for issue in found["issues"]]


def test_a_good_file_is_valid_and_described(tmp_path: Path) -> None:
    found = validate(str(tmp_path), "ops/good.py", GOOD.encode())
    assert (found["valid"], found["issues"]) == (True, [])
    assert found["workflow"]["name"] == "good"
    assert found["workflow"]["parameters"][0]["name"] == "name"


def test_warnings_leave_a_file_valid(tmp_path: Path) -> None:
    source = '@workflow(catgory="x")\ndef f():\n    """Does."""\n'
    found = validate(str(tmp_path), "a.py", ("from bifrost import workflow\n" + source).encode())
    assert found["valid"] is True
    assert [message.split(":")[0] for message in messages(found)] == ["warning"] * 3
    assert "General" in messages(found)[0]
    assert "tags" in messages(found)[1]
    assert "catgory" in messages(found)[2]


def test_issues_come_in_the_order_of_the_checks(tmp_path: Path) -> None:
    source = (
        "import no_such_module\nfrom bifrost import workflow\n@workflow(execution_mode='later')\ndef f(): ..."
    )
    found = validate(str(tmp_path), "a.py", source.encode())
    texts = messages(found)
    assert found["valid"] is False
    assert "import: there is no module no_such_module" in texts[0]
    assert found["issues"][0]["line"] == 1
    assert "no description" in texts[1]
    assert "execution_mode" in texts[-1]


@pytest.mark.parametrize(
    "decorators",
    ["@workflow(execution_mode='x')", "@workflow(timeout_seconds=0)", "@workflow\n@param('a', 'x')"],
)
def test_what_discovery_replaces_by_a_default_is_an_error_here(tmp_path: Path, decorators: str) -> None:
    source = f"from bifrost import *\n{decorators}\ndef f(a):\n    'Does.'\n"
    found = validate(str(tmp_path), "a.py", source.encode())
    assert found["valid"] is False
    assert found["workflow"]["name"] == "f"


@pytest.mark.parametrize(
    ("source", "message", "line"),
    [
        ("x = 1\ndef (\n", "syntax error", 2),
        ("x = 1\n", "no function with @workflow", None),
        ("from bifrost import workflow\n@workflow\ndef BadName():\n    'Does.'\n", "not a valid name", 3),
    ],
)
def test_an_error_makes_it_invalid(tmp_path: Path, source: str, message: str, line: int | None) -> None:
    found = validate(str(tmp_path), "a.py", source.encode())
    assert found["valid"] is False
    assert found["workflow"] is None
    assert any(message in issue["message"] and issue["line"] == line for issue in found["issues"])


def test_imports_of_the_workspace_are_found_beside_the_file_and_at_its_root(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "tools.py").write_text("")
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "_near.py").write_text("")
    source = "import json\nimport lib.tools\nimport _near\nfrom lib.none import x\n" + GOOD
    found = validate(str(tmp_path), "ops/a.py", source.encode())
    assert messages(found) == ["error: import: there is no module lib.none"]


def test_the_command_executes_nothing_of_the_file(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    source = f"open({str(trace)!r}, 'w')\n{GOOD}"
    question = {"path": "a.py", "source": base64.b64encode(source.encode()).decode()}
    done = subprocess.run(
        [sys.executable, "-s", "-P", "-m", "bifrost._host.validate", str(tmp_path)],
        input=json.dumps(question).encode(),
        env={"PYTHONPATH": str(PLATFORM), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["valid"] is True
    assert not trace.exists()
