"""The SDK against a worker that answers from a table."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import Files, Flow, Frame, Template

import bifrost
from bifrost import UserError, WorkflowError, param
from bifrost._awaitable import Flag, Reply
from bifrost._host.connection import Call
from bifrost._host.frames import MAX_FRAME

ORGANIZATION = {"id": "0190bbbb-0000-7000-8000-000000000002", "name": "Acme", "is_active": True}


def answers(**table: Any) -> tuple[Callable[[Frame], Frame], list[tuple[str, Any]]]:
    """A worker that answers each method with what the table says, and what it was asked."""
    asked: list[tuple[str, Any]] = []

    def answer(frame: Frame) -> Frame:
        asked.append((frame["method"], frame["args"]))
        reply = table[frame["method"].replace(".", "_")]
        return {"error": reply} if isinstance(reply, dict) and "type" in reply else {"ok": reply}

    return answer, asked


def test_config_and_secrets_ask_the_worker(template: Template, flow: Flow) -> None:
    path = flow(
        "from bifrost import config, context, secrets\n"
        "async def run():\n"
        "    await config.set('b', None)\n"
        "    missing = ''\n"
        "    try: await context.get_config('absent')\n"
        "    except KeyError as e: missing = str(e)\n"
        "    return [await config.get('a', default=7), await context.get_config('a', 8), missing,\n"
        "            await config.list(), await config.delete('b'),\n"
        "            await secrets.get('k', org_id='o'), await secrets.list()]\n"
    )
    answer, asked = answers(
        config_set=None,
        config_get={"found": False, "value": None},
        config_list={"x": 1},
        config_delete=True,
        secrets_get="s3",
        secrets_list=["k"],
    )
    result = template.run(path=path, answer=answer).result
    assert result["result"] == [7, 8, "'absent'", {"x": 1}, True, "s3", ["k"]]
    assert asked[0] == ("config.set", {"key": "b", "value": None, "is_secret": False})
    assert asked[-2] == ("secrets.get", {"key": "k", "org_id": "o"})


def test_oauth_asks_the_worker(template: Template, flow: Flow) -> None:
    path = flow(
        "from datetime import datetime, timezone\n"
        "from bifrost import oauth\n"
        "async def run():\n"
        "    end = datetime(2030, 1, 2, tzinfo=timezone.utc)\n"
        "    await oauth.set_token('graph', 'plain')\n"
        "    given = {'access_token': 'a', 'expires_at': end, 'id_token': 'x', 'scopes': 's'}\n"
        "    await oauth.set_token('graph', given, org_id='o')\n"
        "    refused = ''\n"
        "    try: await oauth.set_token('graph', {'refresh_token': 'r'})\n"
        "    except ValueError as e: refused = str(e)\n"
        "    return [await oauth.get('graph'), await oauth.get('none'), await oauth.refresh_token('graph'),\n"
        "            await oauth.list_providers(), await oauth.delete_token('graph'), refused]\n"
    )
    asked: list[tuple[str, Any]] = []

    def answer(frame: Frame) -> Frame:
        asked.append((frame["method"], frame["args"]))
        token = {"access_token": "t"} if frame["args"].get("provider") == "graph" else None
        table = {"oauth.set_token": None, "oauth.list_providers": ["graph"], "oauth.delete_token": True}
        return {"ok": table.get(frame["method"], token)}

    result = template.run(path=path, answer=answer).result
    token = {"access_token": "t"}
    assert result["result"] == [token, None, token, ["graph"], True, "a token has an access_token"]
    assert asked[0] == ("oauth.set_token", {"provider": "graph", "token": {"access_token": "plain"}})
    given = {"access_token": "a", "expires_at": "2030-01-02T00:00:00+00:00", "scopes": "s"}
    assert asked[1] == ("oauth.set_token", {"provider": "graph", "token": given, "org_id": "o"})


def test_errors_of_the_worker_are_exceptions(template: Template, flow: Flow) -> None:
    path = flow(
        "from bifrost import secrets\nasync def run(): return await secrets.get('k', org_id='other')\n"
    )
    answer, _ = answers(secrets_get={"type": "PermissionError", "message": "another organization"})
    error = template.run(path=path, answer=answer).result["error"]
    assert error["type"] == "PermissionError"
    assert "OSError" in error["mro"]


def test_gathered_child_runs_are_in_flight_together(template: Template, flow: Flow) -> None:
    path = flow(
        "import asyncio\nfrom bifrost import workflows\n"
        "async def run():\n"
        "    first = asyncio.create_task(workflows.execute('child', {'n': 0}))\n"
        "    others = [workflows.execute('child', {'n': n}) for n in (1, 2)]\n"
        "    runs = await asyncio.gather(first, *others)\n"
        "    return [r['result'] for r in runs]\n"
    )
    held: list[Frame] = []
    connection = template.connect()
    connection.send(template.start_frame(path=path))
    # Nothing is answered before all three have been asked; then in reverse order.
    for _ in range(3):
        held.append(connection.until(lambda frame: frame["t"] == "call"))
    for call in reversed(held):
        number = call["args"]["params"]["n"]
        connection.send({"t": "reply", "id": call["id"], "ok": {"result": number * 10}})
    assert connection.until(lambda frame: frame["t"] == "result")["result"] == [0, 10, 20]
    connection.close()


def test_calls_work_without_await_in_plain_and_async_functions(template: Template, flow: Flow) -> None:
    path = flow(
        "from bifrost import workflows\n"
        "def run():\n    r = workflows.execute('child')\n    return r['status']\n"
        "async def later():\n    r = workflows.execute('child')\n    return r\n"
        "async def forgotten():\n    workflows.execute('child')\n"
    )
    answer, asked = answers(workflows_execute={"status": "Success"})
    assert template.run(path=path, answer=answer).result["result"] == "Success"
    assert template.run("later", path=path, answer=answer).result["result"] == {"status": "Success"}
    assert template.run("forgotten", path=path, answer=answer).result["outcome"] == "success"
    assert asked == [("workflows.execute", {"workflow": "child", "params": {}, "wait": True})] * 3


def test_calls_from_threads_are_matched(template: Template, flow: Flow) -> None:
    path = flow(
        "import asyncio\nfrom bifrost import workflows\n"
        "async def run():\n"
        "    def one(n): return workflows.execute('child', {'n': n})['n']\n"
        "    return await asyncio.gather(*(asyncio.to_thread(one, n) for n in range(8)))\n"
    )
    result = template.run(path=path, answer=lambda frame: {"ok": frame["args"]["params"]}).result
    assert result["result"] == list(range(8))


def test_a_call_that_is_too_large_is_refused_and_not_waited_for(template: Template, flow: Flow) -> None:
    path = flow(
        "from bifrost import config\n"
        "async def run():\n"
        f"    try: await config.set('big', 'x' * {MAX_FRAME})\n"
        "    except ValueError as refused: kind = type(refused).__name__\n"
        "    return [kind, await config.list()]\n"
    )
    answer, asked = answers(config_list={"x": 1})
    assert template.run(path=path, answer=answer).result["result"] == ["FrameTooLarge", {"x": 1}]
    assert [method for method, _ in asked] == ["config.list"]


def test_files_of_the_workspace_are_asked_of_the_worker(template: Template, flow: Flow) -> None:
    path = flow(
        "from bifrost import files\n"
        "async def run():\n"
        "    first = files.read('data/a.txt')\n"
        "    await files.write('data/a.txt', 'private')\n"
        "    files.write_bytes('/workspace/data/b.bin', b'\\x00')\n"
        "    listed = await files.list('data')\n"
        "    seen = [first + '!', await files.read('data/a.txt'), listed, files.exists('data/none.txt')]\n"
        "    files.delete('data/a.txt')\n"
        "    return [*seen, files.exists('data/a.txt')]\n"
    )
    worker = Files({"data/a.txt": b"shared"})
    result = template.run(path=path, answer=worker.answer, organization=ORGANIZATION).result
    assert result["result"] == ["shared!", "private", ["a.txt", "b.bin"], False, False]
    assert worker.held == {"data/b.bin": b"\0"}


def test_a_file_that_changes_while_it_is_read_is_read_anew(template: Template, flow: Flow) -> None:
    path = flow("from bifrost import files\ndef run(name): return files.read(name)\n")
    worker = Files({"a.txt": b"old " * 4}, piece=6, then={"a.txt": b"new!" * 4})
    result = template.run(path=path, answer=worker.answer, parameters={"name": "a.txt"}).result
    assert result["result"] == "new!" * 4
    restless = Files({"a.txt": b"x" * 9}, piece=2, restless=True)
    error = template.run(path=path, answer=restless.answer, parameters={"name": "a.txt"}).result["error"]
    assert "changes faster than it can be read" in error["message"]


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("files.read('/etc/passwd')", "ValueError"),
        ("files.read('a\\0b')", "ValueError"),
        ("files.read('/etc/passwd', 'temp')", "ValueError"),
        ("files.read('../../etc/passwd', 'temp')", "ValueError"),
        (
            "os.symlink('/etc', tempfile.gettempdir() + '/link') or files.read('link/passwd', 'temp')",
            "ValueError",
        ),
        ("files.read('absent.txt', 'temp')", "FileNotFoundError"),
        ("files.list('absent', 'temp')", "FileNotFoundError"),
        ("files.write('a.txt', '', 'uploads')", "PermissionError"),
        ("files.read('a.txt', 'elsewhere')", "ValueError"),
        ("files.write('', 'x', 'temp')", "ValueError"),
        ("os.mkdir(FOLDER) or files.write('folder', 'x', 'temp')", "ValueError"),
        ("os.mkdir(FOLDER) or files.read('folder', 'temp')", "ValueError"),
        ("os.mkdir(FOLDER) or files.delete('folder', 'temp')", "ValueError"),
        ("files.write('a.txt', 'x', 'temp') or files.write('a.txt/b', 'x', 'temp')", "ValueError"),
        ("files.write('a.txt', 'x', 'temp') or files.write('a.txt/b/c', 'x', 'temp')", "ValueError"),
        ("files.write('a.txt', b'x')", "TypeError"),
        ("files.read(b'a.txt')", "TypeError"),
    ],
)
def test_files_stay_inside(
    template: Template, flow: Flow, tmp_path: Path, expression: str, error: str
) -> None:
    path = flow(
        "import os, tempfile\nfrom bifrost import files\n"
        f"def run():\n    FOLDER = tempfile.gettempdir() + '/folder'\n    return {expression}\n"
    )
    found = template.run(path=path, temp_dir=str(tmp_path / "t")).result["error"]
    assert found["type"] == error
    assert str(tmp_path) not in found["message"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_temporary_files_land_in_the_folder_of_the_execution(
    template: Template, flow: Flow, tmp_path: Path
) -> None:
    path = flow(
        "import tempfile\nfrom bifrost import files\n"
        "def run():\n    files.write('a.txt', 'x', 'temp')\n"
        "    return [tempfile.gettempdir(), files.list(location='temp')]\n"
    )
    folder = str(tmp_path / "run")
    assert template.run(path=path, temp_dir=folder).result["result"] == [folder, ["a.txt"]]


def test_paths_may_be_objects(template: Template, flow: Flow, tmp_path: Path) -> None:
    path = flow(
        "from pathlib import Path\nfrom bifrost import files\n"
        "def run():\n"
        "    for location in ('workspace', 'temp'):\n"
        "        files.write(Path('a.txt'), 'x', location)\n"
        "        assert files.exists(Path('a.txt'), location)\n"
        "        assert files.list(Path(''), location) == ['a.txt']\n"
        "        assert files.read(Path('a.txt'), location) == 'x'\n"
        "        files.delete(Path('a.txt'), location)\n"
    )
    worker = Files({})
    result = template.run(path=path, answer=worker.answer, temp_dir=str(tmp_path / "t")).result
    assert result["outcome"] == "success", result["error"]


def test_errors_take_both_ways_of_being_made() -> None:
    assert str(UserError("no")) == "no"
    assert WorkflowError("only text").message == "only text"
    assert WorkflowError("Kind", "text", {"a": 1}).to_dict() == {
        "error_type": "Kind",
        "message": "text",
        "details": {"a": 1},
    }
    assert bifrost.IntegrationError("psa", "down", 503).details == {"integration": "psa", "status_code": 503}
    assert isinstance(bifrost.PermissionError("no"), PermissionError)
    assert isinstance(bifrost.TimeoutError("slow"), TimeoutError)


def test_decorators_change_nothing() -> None:
    def f(a: int) -> int:
        return a

    assert bifrost.workflow(f) is f
    assert bifrost.workflow("n", "d", unknown=1)(f) is f
    assert bifrost.data_provider(cache_ttl_seconds=0)(f) is f
    assert param("a", "int", label="A")(f) is f
    assert param("a", "int", "A", False, {"min": 1}, "sites", 5, "Help", unknown=1)(f) is f
    assert param(f) is f
    assert bifrost.data_provider(f) is f
    assert bifrost.data_provider("n", "d", unknown=1)(f) is f
    with pytest.raises(ValueError, match="integer"):
        param("a", type="integer")


def test_errors_carry_a_message_type_and_details_in_every_form() -> None:
    for kind in (
        UserError,
        WorkflowError,
        bifrost.ValidationError,
        bifrost.IntegrationError,
        bifrost.ConfigurationError,
        bifrost.TimeoutError,
        bifrost.PermissionError,
    ):
        problem = kind("text")
        assert str(problem) == problem.message == "text"
        assert problem.to_dict() == {"error_type": kind.__name__, "message": "text", "details": {}}
    assert bifrost.ValidationError("bad", "name").details == {"field": "name"}
    assert bifrost.ConfigurationError("missing", "days").details == {"config_key": "days"}


def test_errors_are_made_of_anything_and_by_any_class() -> None:
    class Own(UserError):
        def __init__(self, site: str) -> None:
            self.site = site

    class Silent(UserError):
        def __init__(self) -> None: ...

    for problem, text in (
        *((UserError(LookupError("no such site")), "no such site"), (UserError(404), "404")),  # type: ignore[arg-type]
        *((UserError(None), "None"), (Own("Bern"), "Bern"), (Silent(), "")),  # type: ignore[arg-type]
    ):
        assert (str(problem), problem.message) == (text, text)
        assert problem.to_dict() == {"error_type": type(problem).__name__, "message": text, "details": {}}


def test_answers_act_as_the_types_they_stand_for() -> None:
    class Answered:
        def result(self) -> dict[str, int]:
            return {"a": 1, "b": 2}

    reply = Reply(cast(Call, Answered()))
    assert (int(Flag(True)), ["no", "yes"][Flag(False)]) == (1, "no")
    assert (reply | {"b": 3}, {"b": 3} | reply, reply | reply) == ({"a": 1, "b": 3}, {"b": 2, "a": 1}, reply)
    reply.copy()["a"] = 5
    assert reply["a"] == 1


def test_older_modules_export_the_same_objects() -> None:
    import shared.context
    import shared.decorators
    import shared.error_handling
    import src.models.enums
    import src.sdk.context
    import src.sdk.decorators
    import src.sdk.errors

    for module in (shared.decorators, src.sdk.decorators):
        assert module.workflow is bifrost.workflow
        assert module.param is bifrost.param
        assert module.data_provider is bifrost.data_provider
    for module in (shared.context, src.sdk.context):
        assert module.ExecutionContext is bifrost.ExecutionContext
        assert module.Organization is bifrost.Organization
    for module in (shared.error_handling, src.sdk.errors):
        assert module.UserError is UserError
    assert src.models.enums.ExecutionStatus is bifrost.ExecutionStatus
    assert src.models.enums.IntegrationType is bifrost.IntegrationType


def test_every_exported_name_is_there() -> None:
    assert [name for name in bifrost.__all__ if not hasattr(bifrost, name)] == []


def test_credentials_say_when_they_end_and_do_not_print_their_token() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=30)
    fresh = bifrost.OAuthCredentials("m365", "s3cret", expires_at=soon + timedelta(hours=1))
    assert (fresh.is_expired(), fresh.get_auth_header()) == (False, "Bearer s3cret")
    assert bifrost.OAuthCredentials("m365", "s3cret", expires_at=soon).is_expired()
    assert not bifrost.OAuthCredentials("m365", "s3cret").is_expired()
    assert "s3cret" not in repr(fresh)


def test_organizations_are_managed_through_the_worker(template: Template, flow: Flow) -> None:
    path = flow(
        "from bifrost import organizations\n"
        "async def run():\n"
        "    made = await organizations.create('Acme', domain='acme.example')\n"
        "    changed = await organizations.update(made.id, name='Acme AG')\n"
        "    try: await organizations.update(made.id, colour='red')\n"
        "    except ValueError as problem: refused = str(problem)\n"
        "    try: await organizations.get('2')\n"
        "    except ValueError as problem: missing = str(problem)\n"
        "    return [made.domain, changed.name, await organizations.delete(made.id), refused, missing]\n"
    )
    made = {"id": "1", "name": "Acme", "domain": "acme.example"}
    answer, asked = answers(
        organizations_create=made,
        organizations_update={**made, "name": "Acme AG"},
        organizations_delete=True,
        organizations_get=None,
    )
    result = template.run(path=path, answer=answer).result
    assert result["result"][:3] == ["acme.example", "Acme AG", True]
    assert "colour" in result["result"][3]
    assert "no organization 2" in result["result"][4]
    assert asked[1] == ("organizations.update", {"name": "Acme AG", "org_id": "1"})


def test_dates_of_executions_are_days_moments_or_texts(template: Template, flow: Flow) -> None:
    path = flow(
        "from datetime import date, datetime\nfrom bifrost import executions\n"
        "async def run():\n"
        "    await executions.list(start_date=date(2026, 1, 2), end_date=datetime(2026, 1, 3, 4),\n"
        "        limit=5000)\n"
        "    await executions.list(start_date='2026-01-02', end_date='2026-01-03T04:00:00+02:00')\n"
        "    try: await executions.list(start_date='yesterday')\n"
        "    except ValueError: return 'refused'\n"
    )
    answer, asked = answers(executions_list=[])
    assert template.run(path=path, answer=answer).result["result"] == "refused"
    dates = [(arguments["start_date"], arguments["end_date"]) for _, arguments in asked]
    assert dates == [
        ("2026-01-02T00:00:00+00:00", "2026-01-03T04:00:00+00:00"),
        ("2026-01-02T00:00:00+00:00", "2026-01-03T04:00:00+02:00"),
    ]
    assert asked[0][1]["limit"] == 1000


def test_folders_of_the_uploads_are_named_with_and_without_uploads(template: Template, flow: Flow) -> None:
    path = flow(
        "from bifrost import files\n"
        "def run(): return [files.list(name, 'uploads') for name in\n"
        "    ('', 'uploads', 'uploads/2024/', '2024', 'uploads_2024', 'uploads/uploads')]\n"
    )
    answer, _ = answers(uploads_list=["2024/b.pdf", "uploads/c.pdf", "uploads_2024/a.pdf"])
    top = ["2024/", "uploads/", "uploads_2024/"]
    result = template.run(path=path, answer=answer).result["result"]
    assert result == [top, top, ["b.pdf"], ["b.pdf"], ["a.pdf"], ["c.pdf"]]
