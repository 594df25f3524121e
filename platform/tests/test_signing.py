from typing import Any

import pytest

from bifrost._host.index import index_source
from bifrost._host.signing import SCHEMES, UnusableError, rule_of


def workflow(arguments: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    found = index_source(f"@workflow(endpoint_enabled=True, {arguments})\ndef hook(): ...".encode(), "a.py")
    assert len(found["workflows"]) == 1, found["problems"]
    return dict(found["workflows"][0]), list(found["problems"])


def test_a_scheme_fills_in_how_a_service_signs() -> None:
    found, problems = workflow('signature={"scheme": "github", "secret": "hook"}')
    assert problems == []
    assert found["endpoint_enabled"] is True
    assert found["signature"] == {
        "secret": "hook",
        "header": "X-Hub-Signature-256",
        "algorithm": "sha256",
        "encoding": "hex",
        "prefix": "sha256=",
        "separator": None,
        "content": "{body}",
        "timestamp_header": None,
        "timestamp_prefix": None,
        "tolerance_seconds": 300,
        "event_id_header": "X-GitHub-Delivery",
        "secret_base64_prefix": None,
    }
    for scheme in SCHEMES:
        assert rule_of({"scheme": scheme, "secret": "hook"})["secret"] == "hook"


def test_what_a_file_says_wins_over_the_scheme() -> None:
    rule = rule_of({"secret": "hook", "header": "X-Sum", "algorithm": "sha512", "timestamp_header": "X-Time"})
    assert (rule["header"], rule["algorithm"]) == ("X-Sum", "sha512")
    assert rule["content"] == "{timestamp}.{body}"  # a time that is not signed would be worth nothing


def test_without_a_signature_none_is_asked_for() -> None:
    found, problems = workflow("signature=None")
    assert (found["signature"], found["endpoint_enabled"], problems) == (None, True, [])


@pytest.mark.parametrize(
    "signature",
    [
        "{}",
        "True",
        "'github'",
        "SECRET",
        '{"secret": name}',
        '{"scheme": "githab", "secret": "hook"}',
        '{"scheme": ["github"], "secret": "hook"}',
        '{"secret": "hook", "tolerance": 5}',
        '{"secret": "no good name"}',
        '{"secret": "hook", "header": "X Signature"}',
        '{"secret": "hook", "header": None}',
        '{"secret": "hook", "algorithm": "md5"}',
        '{"secret": "hook", "encoding": "hexadecimal"}',
        '{"secret": "hook", "separator": ", "}',
        '{"secret": "hook", "tolerance_seconds": 0}',
        '{"secret": "hook", "tolerance_seconds": True}',
        '{"secret": "hook", "tolerance_seconds": 86401}',
        '{"secret": "hook", "content": "signed"}',
        '{"secret": "hook", "content": "{timestamp}.{body}"}',
        '{"secret": "hook", "content": "{body}", "timestamp_header": "X-Time"}',
        '{"secret": "hook", "content": "{id}.{body}"}',
    ],
)
def test_an_endpoint_whose_signature_cannot_be_used_is_closed(signature: str) -> None:
    found, problems = workflow(f"signature={signature}, public_endpoint=True")
    assert found["endpoint_enabled"] is False
    assert found["signature"] is None
    assert any(problem["severity"] == "error" for problem in problems)


def test_a_rule_names_what_to_correct() -> None:
    with pytest.raises(UnusableError, match="unknown: tolerance;"):
        rule_of({"secret": "hook", "tolerance": 5})
