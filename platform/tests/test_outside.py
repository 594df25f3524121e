"""The SDK on the machine of a developer: where there is no run, and what speaks HTTP with a key."""

import http.server
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

import bifrost
from bifrost import context


def test_outside_an_execution_there_is_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIFROST_URL", raising=False)
    with pytest.raises(AttributeError):
        _ = context.org_id
    with pytest.raises(RuntimeError):
        _ = context.org_id
    with pytest.raises(RuntimeError, match="BIFROST_URL"):
        bifrost.files.read("a.txt")


def test_outside_an_execution_files_speak_http(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"data/a.txt": "grüezi"}

    class Api(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, answer = 200, ""
            match self.path.rpartition("/")[2]:
                case "read":
                    answer = json.dumps(held[body["path"]])
                case "write":
                    held[body["path"]] = body["content"]
                case "list" if body["directory"] in ("", "data"):
                    answer = json.dumps(["a.txt", "deep/"] if body["directory"] else ["data/"])
                case _:
                    code, answer = 404, '{"detail": "no such folder"}'
            self.send_response(code)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            monkeypatch.setenv("BIFROST_URL", f"http://127.0.0.1:{server.server_port}/")
            monkeypatch.setenv("BIFROST_TOKEN", "bfsk_x")
            files = bifrost.files
            assert files.read_bytes("data/a.txt") == "grüezi".encode()
            files.write_bytes("data/b.txt", b"bytes")
            assert held["data/b.txt"] == "bytes"
            with pytest.raises(ValueError, match="UTF-8"):
                files.write_bytes("data/c.bin", b"\xff")
            paths = ("data/a.txt", "data/deep", "data/none", "data", "none", "none/a.txt")
            assert [bool(files.exists(path)) for path in paths] == [True, True, False, True, False, False]
            # As in a run.
            same = ("", ".", "/workspace", "/workspace/data/a.txt", "data/", "none/../data/./a.txt")
            assert [path for path in same if not files.exists(path)] == []
            assert files.read(Path("/workspace/data/a.txt")) == "grüezi"
            strays = (("/etc/passwd", "workspace"), ("../a.txt", "temp"), ("/workspace/a", "temp"))
            for path, location in strays:
                with pytest.raises(ValueError, match="outside"):
                    files.read(path, location)
        finally:
            server.shutdown()


def test_outside_an_execution_a_server_without_answer_is_an_integration_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("BIFROST_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("BIFROST_TOKEN", "bfsk_x")

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.recv(1)
            connection.close()

        hanging = threading.Thread(target=hang_up, daemon=True)
        hanging.start()
        with pytest.raises(bifrost.IntegrationError, match="may be too large") as failure:
            bifrost.files.write("a.txt", "x" * 20_000_000)
        hanging.join()
    assert failure.value.integration == "bifrost"
    with pytest.raises(bifrost.IntegrationError, match="gives no answer"):
        bifrost.files.read("a.txt")


def test_outside_an_execution_the_context_says_whether_the_developer_is_an_administrator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"user": {"id": "u1", "email": "ann@example.com", "name": "Ann"}, "is_platform_admin": True}
    monkeypatch.setattr(bifrost._http, "get", lambda _: told)
    monkeypatch.setattr(bifrost._context, "_developers", None)
    assert (context.email, context.is_platform_admin) == ("ann@example.com", True)


@pytest.mark.parametrize("module", ["secrets", "oauth", "organizations", "roles", "forms", "executions"])
def test_outside_an_execution_other_modules_have_nobody_to_ask(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIFROST_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("BIFROST_TOKEN", "bfsk_x")
    functions = getattr(bifrost, module)
    listing = functions.list_providers if module == "oauth" else functions.list
    with pytest.raises(RuntimeError, match="only available inside a Bifrost execution"):
        listing().send(None)


def test_outside_an_execution_config_speaks_http(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str | None, Any]] = []

    class Api(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers["Authorization"], body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"key": "a", "value": 5, "config_type": "int"}')

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("BIFROST_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("BIFROST_TOKEN", "bfsk_x")
        with pytest.raises(StopIteration) as answer:
            bifrost.config.get("a").send(None)
    assert answer.value.value == 5
    assert seen == [("/api/sdk/config/get", "Bearer bfsk_x", {"key": "a"})]


def test_the_context_outside_an_execution_is_both_kinds_of_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BIFROST_URL", "BIFROST_TOKEN", "BIFROST_DEV_URL", "BIFROST_DEV_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AttributeError):
        context.org_id  # noqa: B018
    with pytest.raises(RuntimeError):
        context.org_id  # noqa: B018
    with pytest.raises(RuntimeError):
        bifrost.workflows.execute("child")
