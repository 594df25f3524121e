"""Threads, loops and copies of a process that share the one connection of a run."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from conftest import Flow, Frame, Template, pack, read_frame

from bifrost import WorkflowError
from bifrost._host import connection as module
from bifrost._host.connection import Connection


class Reads:
    """Stands in for `os` in the module: tells when somebody reads, and refuses a second beside the first."""

    def __init__(self, came: threading.Semaphore) -> None:
        self._came = came
        self._inside = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _exit(self, code: int) -> NoReturn:
        raise SystemExit(code)

    def read(self, fd: int, size: int) -> bytes:
        if not self._inside.acquire(blocking=False):
            raise AssertionError("two threads read at once")
        try:
            self._came.release()
            return os.read(fd, size)
        finally:
            self._inside.release()


class Turn(threading.Condition):
    """Tells when somebody waits for another to read."""

    def __init__(self, came: threading.Semaphore) -> None:
        super().__init__()
        self._came = came

    def wait(self, timeout: float | None = None) -> bool:
        self._came.release()
        return super().wait(timeout)


class Ends:
    """A connection, and the worker's end of it."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)
        self.here, self.worker = socket.socketpair()
        self.worker.settimeout(10)
        self.connection = Connection()
        self.connection.attach(self.here.fileno())
        self.connection._turn = Turn(self.came)

    def asked(self) -> Frame:
        frame = read_frame(self.worker.recv)
        assert frame is not None
        return frame

    def tell(self, frame: Frame) -> None:
        self.worker.sendall(pack(frame))

    def answer(self, call: Frame, value: Any = None) -> None:
        self.tell({"t": "reply", "id": call["id"], "ok": value})

    def begin(self, action: Callable[[], Any]) -> Begun:
        """Begin it in a thread of its own: when this returns, it reads, lets another read, or is over."""
        begun = Begun(action, self.came)
        assert self.came.acquire(timeout=10)
        return begun

    def begin_call(self) -> tuple[Begun, Frame]:
        """A thread that waits for the answer of a call."""
        return self.begin(lambda: self.connection.call("files.write", {}).result()), self.asked()


class Begun:
    """What a function does in a thread."""

    def __init__(self, action: Callable[[], Any], over: threading.Semaphore) -> None:
        self._action = action
        self._over = over
        self._value: Any = None
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._action()
        except BaseException as problem:
            self._problem = problem
        finally:
            self._over.release()

    def result(self) -> Any:
        self._thread.join(10)
        assert not self._thread.is_alive(), "it hangs"
        if self._problem is not None:
            raise self._problem
        return self._value


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    made = Ends()
    monkeypatch.setattr(module, "os", Reads(made.came))
    yield made
    made.worker.close()
    made.here.close()


def test_an_answer_reaches_its_thread_though_another_goes_on_reading(ends: Ends) -> None:
    slow, slow_call = ends.begin_call()
    quick, quick_call = ends.begin_call()
    ends.answer(quick_call, "quick")
    assert quick.result() == "quick"
    ends.answer(slow_call, "slow")
    assert slow.result() == "slow"


def test_the_end_of_a_run_waits_for_a_call_whose_answer_another_thread_reads(ends: Ends) -> None:
    waiting, call = ends.begin_call()
    end = ends.begin(ends.connection.settle)
    ends.answer(call, "written")
    assert waiting.result() == "written"
    end.result()


def test_the_end_of_a_run_does_not_wait_for_what_is_asked_later(ends: Ends) -> None:
    ends.connection.call("files.write", {})
    first = ends.asked()
    end = ends.begin(ends.connection.settle)
    late = ends.connection.call("files.write", {})
    ends.answer(first)
    end.result()
    assert late.reply is None


@pytest.mark.parametrize("is_forgotten", [True, False])
def test_the_next_run_starts_though_a_thread_of_the_last_one_still_reads(
    ends: Ends, is_forgotten: bool
) -> None:
    waiting, call = ends.begin_call()
    if is_forgotten:
        ends.connection.forget_calls()
    start = ends.begin(ends.connection.next_start)
    ends.tell({"t": "start", "execution_id": "e"})
    assert start.result()["execution_id"] == "e"
    if is_forgotten:
        with pytest.raises(WorkflowError, match="the run has ended"):
            waiting.result()
    else:
        ends.answer(call)
        waiting.result()


def test_a_loop_does_not_wait_for_what_another_thread_has_read(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(fd: int, size: int) -> bytes:
        assert select.select([fd], [], [], 0)[0], "this would wait"
        return os.read(fd, size)

    monkeypatch.setattr(module.os, "read", read)
    ends.connection._on_readable()
    call = ends.connection.call("files.write", {})
    ends.answer(ends.asked(), "written")
    ends.connection._on_readable()
    assert call.reply is not None


def test_a_handler_that_interrupts_reading_may_ask_as_well(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = []
    is_answered = threading.Event()

    def interrupted(fd: int, size: int) -> bytes:
        monkeypatch.setattr(module.os, "read", os.read)
        answers.append(ends.connection.call("files.read", {}).result())
        is_answered.set()
        return os.read(fd, size)

    monkeypatch.setattr(module.os, "read", interrupted)
    waiting = Begun(ends.connection.call("files.write", {}).result, ends.came)
    outer, inner = ends.asked(), ends.asked()
    ends.answer(inner, "inner")
    assert is_answered.wait(10)
    ends.answer(outer, "outer")
    assert waiting.result() == "outer"
    assert answers == ["inner"]


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_an_answer_for_a_loop_that_is_closed_disturbs_no_other_call(ends: Ends, is_cancelled: bool) -> None:
    loop = asyncio.new_event_loop()
    abandoned = ends.connection.call("workflows.execute", {})

    async def begin() -> None:
        await abandoned

    task = loop.create_task(begin())
    # A turn of the loop, in which the task comes to wait.
    loop.run_until_complete(asyncio.sleep(0))
    if is_cancelled:
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    ends.answer(ends.asked(), "too late")
    call = ends.connection.call("files.read", {})
    ends.answer(ends.asked(), "text")
    assert ends.begin(call.result).result() == "text"
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_copy_of_the_process_takes_no_answers(template: Template, flow: Flow) -> None:
    path = flow(
        "import os\nfrom bifrost import workflows\n"
        "async def run():\n"
        "    child = workflows.execute('child')\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        try: child['status']\n"
        "        except RuntimeError as error: assert 'forked process' in str(error)\n"
        "        return 'copy'\n"
        "    os.waitpid(pid, 0)\n"
        "    print('the copy has ended')\n"
        "    return child['status']\n"
    )
    connection = template.connect()
    connection.send(template.start_frame(path=path))
    call = connection.until(lambda frame: frame["t"] == "call")
    connection.until(lambda frame: frame.get("message") == "the copy has ended")
    connection.send({"t": "reply", "id": call["id"], "ok": {"status": "Success"}})
    assert connection.until(lambda frame: frame["t"] == "result")["result"] == "Success"
    template.exit_of(connection.pid)
    connection.close()
