"""Runs every example of docs/workflows.md, and compares with what its last comment says."""

import ast
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from conftest import PLATFORM, Files, Frame, Template

from bifrost._host.index import index_source

DOCUMENT = (PLATFORM.parent / "docs" / "workflows.md").read_text()
EXAMPLES = dict(re.findall(r"^### (\w+)\n\n```python\n(.*?)```", DOCUMENT, re.M | re.S))
CLAIM = re.compile(r"^# (run|options|script) (\w+)\((.*)\) (gives|ends|logs|keeps) (.+)\n\Z", re.M)

ANSWERS: dict[str, Any] = {
    "workflows.execute": {"status": "Success"},
    "config.set": None,
    "config.get": {"found": True, "value": 30},
    "secrets.get": None,
    "oauth.get": lambda args: {"access_token": "t"} if args["provider"] == "microsoft-graph" else None,
    "oauth.list_providers": ["microsoft-graph"],
    "executions.list": [{"status": "Success"}],
    "organizations.list": [{"id": "1", "name": "Acme"}],
    "roles.create": lambda args: {"id": "7", **args},
    "roles.assign_users": None,
    "roles.list_users": ["42"],
    "forms.list": [{"id": "9", "name": "New employee"}],
    "forms.get": lambda args: {"id": args["form_id"], "name": "New employee", "linked_workflow": "welcome"},
}


def test_every_feature_of_the_tables_has_an_example_and_every_example_a_row() -> None:
    linked = re.findall(r"\[\w+\]\(#(\w+)\)", DOCUMENT)
    assert sorted(linked) == sorted(EXAMPLES)
    assert len(EXAMPLES) >= 19
    print(f"{len(EXAMPLES)} documented examples")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_does_what_it_says(template: Template, flow: Callable[..., str], name: str) -> None:
    source = EXAMPLES[name]
    claim = CLAIM.search(source)
    assert claim is not None, "an example ends with a comment that says what comes out"
    kind, function, given, verb, expected = claim.groups()
    call = ast.parse(f"f({given})", mode="eval").body
    assert isinstance(call, ast.Call)
    parameters = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    more: dict[str, Any] = {"parameters": parameters}
    if kind == "script":
        more |= {"code": source, "script_name": name}
    else:
        entry = index_source(source.encode(), f"{name}.py")
        assert entry["problems"] == []
        found = [*entry["workflows"], *entry["data_providers"]]
        assert [item["function"] for item in found] == [function]
        more |= {"path": flow(source, f"documented/{name}.py")}
        more |= {"kind": "data_provider"} if kind == "options" else {}

    held = Files({})

    def answer(call: Frame) -> Frame:
        if call["method"].startswith("files."):
            return held.answer(call)
        found = ANSWERS[call["method"]]
        return {"ok": found(call["args"]) if callable(found) else found}

    outcome = template.run(function, answer=answer, **more)
    if verb == "gives":
        assert outcome.result["result"] == json.loads(expected), outcome.result["error"]
    elif verb == "ends":
        assert outcome.result["outcome"] == expected
    elif verb == "logs":
        assert [list(line) for line in outcome.logs] == json.loads(expected)
    else:
        assert outcome.result["variables"] == json.loads(expected)
