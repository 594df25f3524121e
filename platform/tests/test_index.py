import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import PLATFORM

from bifrost._host.index import index_source, index_workspace


def index(source: str) -> dict[str, Any]:
    return index_source(source.encode(), "a.py")


def workflow(source: str) -> dict[str, Any]:
    found = index(source)
    assert len(found["workflows"]) == 1, found["problems"]
    return dict(found["workflows"][0])


def parameters(signature: str, decorators: str = "") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = workflow(f"@workflow\n{decorators}\ndef f({signature}): pass")["parameters"]
    return rows


def test_a_bare_workflow_has_the_documented_defaults() -> None:
    found = workflow('@workflow\ndef nightly():\n    """Clean up.\n\n    More."""\n')
    assert found == {
        "function": "nightly",
        "name": "nightly",
        "id": None,
        "description": "Clean up.",
        "category": "General",
        "line": 2,
        "tags": [],
        "execution_mode": "async",
        "timeout_seconds": 1800,
        "retry_policy": None,
        "schedule": None,
        "schedule_timezone": "UTC",
        "schedule_overlap": "skip",
        "schedule_misfire": "latest",
        "endpoint_enabled": False,
        "allowed_methods": ["POST"],
        "disable_global_key": False,
        "public_endpoint": False,
        "signature": None,
        "isolation": "process",
        "parameters": [],
        "accepts_extra": False,
    }


def test_arguments_are_read_by_name_and_by_position() -> None:
    found = workflow(
        '@bifrost.workflow("other", "What it does", "Ops", tags=["a"], endpoint_enabled=True, '
        'allowed_methods=["get", "POST"], schedule="0 6 * * 1-5", isolation="pooled", '
        'id="0190AAAA-0000-7000-8000-000000000001")\nasync def f(): ...'
    )
    assert (found["name"], found["description"], found["category"]) == ("other", "What it does", "Ops")
    assert found["execution_mode"] == "sync"  # because it is an endpoint
    assert found["allowed_methods"] == ["GET", "POST"]
    assert found["id"] == "0190aaaa-0000-7000-8000-000000000001"
    assert (found["schedule"], found["isolation"]) == ("0 6 * * 1-5", "pooled")


def test_the_retry_policy_takes_both_spellings() -> None:
    for key in ("backoff", "backoff_seconds"):
        found = workflow(
            f'@workflow(retry_policy={{"max_attempts": 3, "{key}": 5, "retry_on": ["OSError"]}})\n'
            "def f(): ..."
        )
        assert found["retry_policy"] == {
            "max_attempts": 3,
            "backoff_seconds": 5,
            "max_backoff_seconds": 60,
            "retry_on": ["OSError"],
        }


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ("concurrency_limit=3", {"concurrency_limit": 3}),
        ('concurrency_key="erp {a}"', {"concurrency_limit": 1, "concurrency_key": "erp {a}"}),
        (
            'concurrency_limit=2, concurrency_key="x"',
            {"concurrency_limit": 2, "concurrency_key": "x"},
        ),
        ('rate_limit="100/m"', {"rate_limit": {"starts": 100, "seconds": 60}}),
        ('rate_limit=" 5 / h "', {"rate_limit": {"starts": 5, "seconds": 3600}}),
        ('endpoint_rate_limit="30/m"', {"endpoint_rate_limit": {"calls": 30, "seconds": 60}}),
    ],
)
def test_limits_are_there_if_they_are_given(arguments: str, limits: dict[str, Any]) -> None:
    found = workflow(f"@workflow({arguments})\ndef f(a): ...")
    names = ("concurrency", "rate", "endpoint_rate")
    assert {key: found[key] for key in found if key.startswith(names)} == limits


@pytest.mark.parametrize(
    "arguments",
    [
        "concurrency_limit=0",
        'concurrency_limit="3"',
        'concurrency_key="{b}"',
        'rate_limit="100"',
        "rate_limit=100",
        'endpoint_rate_limit="0/m"',
        "endpoint_rate_limit=100",
    ],
)
def test_limits_that_cannot_be_meant_are_problems(arguments: str) -> None:
    entry = index(f"@workflow({arguments})\ndef f(a): ...")
    assert [problem["severity"] for problem in entry["problems"]] == ["warning"]
    assert len(entry["workflows"]) == 1


@pytest.mark.parametrize(
    ("annotation", "kind", "required"),
    [
        ("", "string", True),
        (": str", "string", True),
        (": int", "int", True),
        (": 'float'", "float", True),
        (": bool = False", "bool", False),
        (": list[str]", "list", True),
        (": dict[str, Any]", "json", True),
        (": Optional[int]", "int", False),
        (": int | None", "int", False),
        (": typing.Union[None, list]", "list", False),
        (": datetime", "json", True),
        (": int | str", "json", True),
    ],
)
def test_types_and_required_come_from_the_signature(annotation: str, kind: str, required: bool) -> None:
    (found,) = parameters(f"firstName{annotation}")
    assert (found["type"], found["required"], found["label"]) == (kind, required, "First Name")


def test_context_and_star_arguments_are_no_parameters() -> None:
    found = workflow("@workflow\ndef f(ctx: 'ExecutionContext', a, *rest, b=1, **more): ...")
    assert [p["name"] for p in found["parameters"]] == ["a", "b"]
    assert found["accepts_extra"] is True


def test_param_wins_where_it_says_something_and_the_signature_fills_in_the_rest() -> None:
    a, b, extra = parameters(
        "a: int = 5, b: str = 'x'",
        '@param("extra", type="email", help_text="Who")\n'
        '@param("a", label="Amount", required=True, options=[1, 2])',
    )
    assert a == {
        "name": "a",
        "type": "int",
        "required": True,
        "label": "Amount",
        "default_value": 5,
        "description": None,
        "validation": None,
        "data_provider": None,
        "options": [1, 2],
    }
    assert (b["default_value"], b["required"]) == ("x", False)
    assert (extra["name"], extra["type"], extra["description"], extra["required"]) == (
        "extra",
        "email",
        "Who",
        False,
    )


@pytest.mark.parametrize(
    ("given", "default", "required"),
    [
        ("default_value=5", 5, False),
        ("default=False", False, False),
        ("default_value=5, required=True", 5, True),
        ("default_value=None", None, True),
        ("required=False", None, False),
    ],
)
def test_what_param_gives_a_default_is_not_required_unless_it_says_so(
    given: str, default: object, required: bool
) -> None:
    (a,) = parameters("a", f'@param("a", {given})')
    assert (a["default_value"], a["required"]) == (default, required)


def test_a_false_default_survives() -> None:
    (a,) = parameters("a", '@param("a", type="bool", default_value=False)')
    assert a["default_value"] is False


@pytest.mark.parametrize(
    ("source", "severity", "message", "hint"),
    [
        ("@workflow(category=NAME)\ndef f(): ...", "warning", "not a literal", "literal|value itself"),
        ("@workflow(catgory='x')\ndef f(): ...", "warning", "does not know the argument catgory", "category"),
        ("@workflow(timeout_seconds=9000)\ndef f(): ...", "warning", "7200 is used", "1 to 7200"),
        ("@workflow(id='nope')\ndef f(): ...", "error", "not a UUID", "UUID"),
        ("@workflow\ndef camelCase(): ...", "error", "not a valid name", "lower-case"),
        ("@workflow\n@param(type='int')\ndef f(): ...", "error", "no name", "literal name"),
        ("@workflow\n@param('a', type='integer')\ndef f(a): ...", "error", "type 'integer'", "string, int"),
        ("def f(:\n", "error", "syntax error", "def f"),
        ("x = '\0'", "error", "", ""),
    ],
)
def test_problems_say_where_what_and_what_to_do(source: str, severity: str, message: str, hint: str) -> None:
    (problem,) = index(source)["problems"]
    assert problem["severity"] == severity
    assert problem["line"] >= 1
    assert message in problem["message"]
    assert any(part in problem["hint"] for part in hint.split("|"))


def test_an_aliased_import_is_recognised_and_a_nested_function_is_not() -> None:
    source = "from bifrost import workflow as wf\n@wf\ndef a():\n    @wf\n    def inner(): ...\n"
    assert [w["name"] for w in index(source)["workflows"]] == ["a"]


def test_a_broken_file_hides_no_other_and_ids_are_not_shared(tmp_path: Path) -> None:
    marked = "@workflow(id='0190aaaa-0000-7000-8000-000000000001')\ndef f(): ..."
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.py").write_text(marked)
    (tmp_path / "deep" / "b.py").write_text(
        marked + "\n@data_provider(cache_ttl_seconds=0)\ndef sites(): ..."
    )
    (tmp_path / "_private.py").write_text(marked)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "c.py").write_text(marked)
    files = {entry["path"]: entry for entry in index_workspace([str(tmp_path)])["files"]}
    assert sorted(files) == ["broken.py", "deep/a.py", "deep/b.py"]
    assert files["broken.py"]["problems"][0]["line"] == 1
    assert files["deep/a.py"]["workflows"][0]["id"] is not None
    assert files["deep/b.py"]["workflows"][0]["id"] is None
    assert "deep/a.py" in files["deep/b.py"]["problems"][0]["message"]
    assert files["deep/b.py"]["data_providers"][0]["cache_ttl_seconds"] == 0


def test_the_command_prints_one_json_object_and_runs_no_user_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print('executed')\nfrom bifrost import *\n@workflow\ndef f(): ...")
    done = subprocess.run(
        [sys.executable, "-s", "-P", "-m", "bifrost._host.index", str(tmp_path)],
        env={"PYTHONPATH": str(PLATFORM), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["files"][0]["workflows"][0]["name"] == "f"


def test_thousands_of_files_are_indexed_in_seconds(tmp_path: Path) -> None:
    count = 5000
    for number in range(count):
        folder = tmp_path / f"area{number % 50}"
        folder.mkdir(exist_ok=True)
        source = (
            "from bifrost import param, workflow\n\n@workflow(category='Ops', tags=['a'])\n"
            "@param('site', label='Site')\n"
            f'async def flow_{number}(site: str, times: int = 1):\n    """Do it."""\n    return times\n'
        )
        (folder / f"flow{number}.py").write_text(source)
    began = time.perf_counter()
    files = index_workspace([str(tmp_path)])["files"]
    first = time.perf_counter() - began
    assert sum(len(entry["workflows"]) for entry in files) == count
    print(f"indexed {count} files in {first:.2f} s, {first / count * 1e6:.0f} us each")
    assert first < 30


def test_every_argument_of_param_works_by_position() -> None:
    (a,) = parameters("a", "@param('a', 'int', 'A', False, {'min': 1}, 'sites', 5, 'Help')")
    assert a == {
        "name": "a",
        "type": "int",
        "label": "A",
        "required": False,
        "validation": {"min": 1},
        "data_provider": "sites",
        "default_value": 5,
        "description": "Help",
        "options": None,
    }


def test_every_argument_of_workflow_works_by_position() -> None:
    found = workflow(
        "@workflow('n', 'd', 'c', ['t'], 'sync', 60, {'max_attempts': 2}, '0 6 * * *', "
        "True, ['GET'], True, True)\n"
        "def f(): ..."
    )
    assert (found["name"], found["description"], found["category"], found["tags"]) == ("n", "d", "c", ["t"])
    assert (found["execution_mode"], found["timeout_seconds"], found["schedule"]) == ("sync", 60, "0 6 * * *")
    assert found["retry_policy"]["max_attempts"] == 2
    assert (found["endpoint_enabled"], found["allowed_methods"]) == (True, ["GET"])
    assert (found["disable_global_key"], found["public_endpoint"]) == (True, True)


@pytest.mark.parametrize("module", ["bifrost", "shared.decorators", "src.sdk.decorators"])
def test_decorators_are_recognised_from_every_module_that_exports_them(module: str) -> None:
    for source in (
        f"from {module} import workflow\n@workflow\ndef f(): ...",
        f"import {module}\n@{module}.workflow()\ndef f(): ...",
        f"import {module} as b\n@b.workflow(name='f')\ndef g(): ...",
    ):
        assert [item["name"] for item in index(source)["workflows"]] == ["f"]


def test_a_decorator_of_somebody_else_publishes_nothing() -> None:
    assert (
        index(
            "from prefect import flow\nimport airflow\n@flow\ndef f(): ...\n@airflow.workflow\ndef g(): ..."
        )["workflows"]
        == []
    )
