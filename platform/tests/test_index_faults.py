"""Files that would stop the indexing of all others, or the storing of what it found."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Flow, Template
from test_index import index, parameters, workflow

from bifrost._host.declarations import Reader
from bifrost._host.index import index_workspace

UNION = " | ".join(["int"] * 1200)


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.items() for text in texts(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize(("kind", "rows"), [("workflow", "workflows"), ("data_provider", "data_providers")])
def test_a_function_is_published_once_per_kind(kind: str, rows: str) -> None:
    found = index(f"@{kind}(name='first')\n@{kind}(name='second')\n@{kind}\ndef f(): ...")
    assert [row["name"] for row in found[rows]] == ["first"]
    assert [(problem["severity"], problem["line"]) for problem in found["problems"]] == [
        ("warning", 2),
        ("warning", 3),
    ]
    assert all(f"@{kind} twice" in problem["message"] for problem in found["problems"])


def test_a_function_may_be_workflow_and_provider() -> None:
    found = index("@workflow\n@data_provider\ndef f(): ...")
    assert (len(found["workflows"]), len(found["data_providers"]), found["problems"]) == (1, 1, [])


@pytest.mark.parametrize(
    "value",
    [
        *(r"'\0'", r"'\ud800'", r"['a', 'b\0']", r"{'a\0': 1}"),
        *("1e400", "-1e400", "[1e400]", "9" * 400, "0x1" + "0" * 4000, "-9223372036854775809"),
        "0x1" + "0" * 4000 + " + 1j",
        "[" * 150 + "]" * 150,
    ],
    ids=lambda value: value[:24],
)
def test_a_default_that_cannot_be_stored_is_there_but_not_shown(value: str) -> None:
    (found,) = parameters(f"a={value}")
    assert (found["default_value"], found["required"]) == (None, False)


@pytest.mark.parametrize("value", ["18446744073709551615", "-9223372036854775808", "1.5e300", "[[[[1]]]]"])
def test_a_default_that_can_be_stored_is_shown(value: str) -> None:
    (found,) = parameters(f"a={value}")
    assert found["default_value"] == json.loads(value)


@pytest.mark.parametrize(
    ("decorators", "member", "default"),
    [
        (r"@workflow(description='a\0')", "description", "Does."),
        (r"@workflow(category='\udcff')", "category", "General"),
        (r"@workflow(tags=['a', 'b\0'])", "tags", []),
        (r"@workflow(retry_policy={'retry_on': ['\0']})", "retry_policy", None),
        ("@workflow(retry_policy={0x1" + "0" * 4000 + ": 1})", "retry_policy", None),
        ("@workflow(timeout_seconds=0x1" + "0" * 4000 + ")", "timeout_seconds", 1800),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_argument_that_cannot_be_stored_is_ignored(decorators: str, member: str, default: Any) -> None:
    found = index(f"{decorators}\ndef f():\n    'Does.'")
    assert found["workflows"][0][member] == default
    (problem,) = found["problems"]
    assert (problem["severity"], problem["line"]) == ("warning", 1)
    assert "cannot be stored" in problem["message"]


def test_a_signature_that_cannot_be_stored_closes_the_endpoint() -> None:
    found = workflow(
        r"@workflow(endpoint_enabled=True, signature={'secret': 's', 'prefix': '\0'})" + "\ndef f(): ..."
    )
    assert (found["endpoint_enabled"], found["signature"]) == (False, None)


def test_param_gives_nothing_that_cannot_be_stored_and_only_texts_where_texts_belong() -> None:
    given = (
        r"default_value='\0', options=['\ud800'], help_text=5, data_provider=['x'], validation={'a': 1e400}"
    )
    (found,) = parameters("a='kept'", f"@param('a', {given})")
    names = ("default_value", "options", "description", "data_provider", "validation")
    assert [found[name] for name in names] == ["kept", None, None, None, None]


def test_texts_that_people_read_keep_their_place() -> None:
    found = index('@workflow(name="\\0Ä\\ud800", category=X)\ndef f():\n    """One \\0 two\\ud800."""')
    assert found["workflows"][0]["description"] == "One \ufffd two\ufffd."
    broken = index("x = (1 +\0")
    for text in texts([found, broken]):
        assert "\0" not in text
        text.encode()


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (f"@workflow\ndef f(a: {UNION}): ...", "json"),
        (f"@workflow\ndef f(a: '{UNION} | None'): ...", "json"),
        ("@" + ".".join(["a"] * 800) + ".workflow\ndef g(): ...\n@workflow\ndef f(a: int): ...", "int"),
    ],
    ids=["union", "text", "decorator"],
)
def test_long_annotations_and_decorators_are_read(source: str, kind: str) -> None:
    assert workflow(source)["parameters"][0]["type"] == kind


def test_what_stands_under_many_conditions_is_found() -> None:
    chain = "if x == 0: pass\n" + "".join(f"elif x == {n}: pass\n" for n in range(1, 1500))
    assert workflow(chain + "else:\n    @workflow\n    def f(): ...")["name"] == "f"


def test_a_file_that_cannot_be_read_keeps_what_it_had_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text("@workflow\ndef f(): ...\n@workflow\ndef breaks(): ...")
    (tmp_path / "b.py").write_text("@workflow\ndef f(): ...")
    read = Reader._read_function

    def breaking(reader: Reader, function: Any) -> None:
        if function.name == "breaks":
            raise LookupError("odd")
        read(reader, function)

    monkeypatch.setattr(Reader, "_read_function", breaking)
    broken, sound = index_workspace([str(tmp_path)])["files"]
    # An error and no row: whoever stores it leaves the rows of the file as they are.
    assert (broken["workflows"], broken["problems"][0]["severity"]) == ([], "error")
    assert "LookupError: odd" in broken["problems"][0]["message"]
    assert [row["name"] for row in sound["workflows"]] == ["f"]


def test_files_whose_names_are_not_text_are_told_apart_and_skipped(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    for name in (b"a\xff.py", b"a\xfe.py", b"b.py"):
        with open(os.path.join(folder, name), "w") as file:
            file.write("@workflow\ndef f(): ...")
    files = {entry["path"]: entry for entry in index_workspace([str(tmp_path)])["files"]}
    assert sorted(files) == ["a\\xfe.py", "a\\xff.py", "b.py"]
    for path in ("a\\xfe.py", "a\\xff.py"):
        assert files[path]["workflows"] == []
        assert [problem["severity"] for problem in files[path]["problems"]] == ["error"]
    assert len(files["b.py"]["workflows"]) == 1


def test_names_are_not_longer_than_an_index_of_postgresql_takes(tmp_path: Path) -> None:
    found = index(f"@workflow(name='{'n' * 201}')\ndef f(): ...\n@workflow(name='g')\ndef {'ä' * 260}(): ...")
    assert found["workflows"] == []
    assert [problem["severity"] for problem in found["problems"]] == ["error", "error"]
    deep = tmp_path
    while len(str(deep)) - len(str(tmp_path)) <= 2000:
        deep = deep / ("d" * 200)
        deep.mkdir()
    (deep / "a.py").write_text("@workflow\ndef f(): ...")
    (entry,) = index_workspace([str(tmp_path)])["files"]
    assert (entry["workflows"], len(entry["problems"])) == ([], 1)


def test_a_pipe_among_the_files_is_waited_for_by_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.py")
    (tmp_path / "b.py").write_text("@workflow\ndef f(): ...")
    pipe, sound = index_workspace([str(tmp_path)])["files"]
    assert "not a regular file" in pipe["problems"][0]["message"]
    assert len(sound["workflows"]) == 1
    other = Template(tmp_path, tmp_path, isolation="off")
    try:
        assert other.ready["t"] == "ready"
    finally:
        other.stop()


@pytest.mark.parametrize(
    ("imports", "annotation"),
    [
        ("from bifrost import ExecutionContext as EC", "EC"),
        ("from bifrost import ExecutionContext as EC", "'EC'"),
        ("from __future__ import annotations\nfrom bifrost import ExecutionContext as EC", "EC"),
        ("from bifrost import OrganizationContext as OC", "OC"),
        ("from shared.context import ExecutionContext as EC", "EC"),
        ("import bifrost as b", "b.ExecutionContext"),
        ("import bifrost", "bifrost.OrganizationContext"),
    ],
)
def test_the_context_is_known_by_the_name_it_is_imported_as(
    template: Template, flow: Flow, imports: str, annotation: str
) -> None:
    source = (
        f"{imports}\nfrom bifrost import workflow\n"
        f"@workflow\ndef run(ctx: {annotation}, a: int):\n    return [ctx.email, a]\n"
    )
    assert [parameter["name"] for parameter in workflow(source)["parameters"]] == ["a"]
    assert template.run(path=flow(source), parameters={"a": 1}).result["result"] == ["ann@example.com", 1]
