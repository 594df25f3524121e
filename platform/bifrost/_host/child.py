"""One run: from the start frame to the result frame.

Forked from the warm template, so everything imported here is already in memory. A `process` run ends with the
process; a `pooled` one goes on to the next start frame of the same organization.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
import resource
import shutil
import signal
import stat
import tempfile
import time
import traceback
from _thread import _count as count_threads
from asyncio import AbstractEventLoop
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context, copy_context
from types import CoroutineType, FrameType, FunctionType, GeneratorType
from typing import Any, NoReturn

from .. import _context, _runtime, errors
from .._awaitable import Flag
from .._context import ExecutionContext, Organization, context
from . import failures, forks, logs, script, surroundings, variables
from .calling import bind, options_of, with_omitted
from .connection import Connection
from .convert import ResultTooLarge, encode_result
from .failures import NoResult, ResourceLimit, WorkflowLoadError, WorkflowNotFound
from .frames import FrameTooLarge, pack, quote, with_last
from .importer import WorkspaceFinder
from .isolation import Isolation
from .limits import Interrupted, Limits, address_space

_DEFAULT_RESULT_BYTES = 16 * 1024 * 1024
_LAST_MOMENT = 0.002
_BRIEF = 0.002
"""Seconds. A run that takes less leaves little."""
_GROWTH = 64 << 20
_SCRIPT_RESULT = {"status": "completed", "message": "Script executed successfully"}


class Terminated(Interrupted):
    """SIGTERM: the run was cancelled or timed out, and has a moment to clean up."""


_running = False


def on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    """Installed by the template, so that a child has it from its first instruction."""
    global _running
    if not _running:
        os._exit(143)
    _running = False  # a second SIGTERM must not disturb the clean-up, it only shortens it
    raise Terminated


class Child:
    """A process that runs workflows for one connection.

    Made in the template, before the fork: every object a run need not make itself is a page it need not copy.
    """

    def __init__(self, finder: WorkspaceFinder, base_address_space: int, isolation: Isolation) -> None:
        self.isolation = isolation
        self.connection = Connection()
        self.finder = finder
        self.limits = Limits(base_address_space)
        self.loop: AbstractEventLoop | None = None
        self.generation: str | None = None
        self.temp_dir: str | None = None
        self.pooled_runs = 0
        self.script_runs = 0
        self.handler = logs.WorkspaceHandler(self.connection, finder.root)
        self.out, self.err = logs.PrintStream(self.connection, 1), logs.PrintStream(self.connection, 2)
        logs.activate(self.handler, self.out, self.err)
        self.surroundings = surroundings.Surroundings(self.handler, self.out, self.err)
        self.has_served = False
        self.size = base_address_space
        """Bytes of address space that no circles are looked for in."""
        self.context = Context()
        """What files have set in context variables while they were loaded; each run has a copy."""
        self.threads = 0
        self.has_programs = False
        """Whether files have started programs while they were loaded, and have not collected them all."""
        forks.in_copies_of_runs(self._forget_connection)

    def serve(self, fd: int) -> NoReturn:
        """Take start frames from `fd` until there are no more."""
        self.connection.attach(fd)
        global _running
        owner = os.getpid()
        code = 70
        try:
            while True:
                start = self.connection.next_start()
                self.isolation.enclose()
                began = time.monotonic()
                execution = Execution(self, start)
                # What the run before has set in context variables belongs to that one's context.
                own = self.context.copy() if self.has_served else None
                frame = own.run(execution.perform) if own is not None else execution.perform()
                _running = False
                if os.getpid() != owner:
                    break  # user code forked, and the copy came back from the workflow: it has no say here
                self._flush()
                is_last = not start.get("pooled")
                if not is_last and self._has_more_than_before():
                    is_last = True
                    frame = with_last(frame)
                self.connection.send(frame)
                if is_last:
                    break
                self.has_served = True
                del execution, own, frame
                if time.monotonic() - began > _BRIEF:
                    self._collect_circles()
            code = 0
        except Terminated:
            self._flush()
            code = 143
        except BaseException:
            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
        finally:
            os._exit(code)

    def rehearse(self, fd: int, path: str) -> None:
        """One run in the template, of code that is ours; leaves nothing behind."""
        self.connection.attach(fd)
        self.handler.script = path
        frame = Execution(self, self.connection.next_start()).perform()
        self._flush()
        self.connection.send(frame)
        self.connection.detach()
        if self.loop is not None:
            # Each run makes a loop of its own: what a loop waits with, a copy of it would share.
            self.loop.close()
            self.loop = None
        self.handler.script = None
        self.generation = None
        self.finder.forget_rehearsal()

    def end_rehearsals(self) -> None:
        surroundings.forget_loops()

    def begin_pooled(self) -> None:
        """Have a run find what the first one of this process found."""
        if self.has_served:
            self.loop = surroundings.renew_loop(self.loop)
            self.surroundings.restore()
            if tempfile.tempdir != self.temp_dir:
                tempfile.tempdir = None
        else:
            self.surroundings.keep()
        self.threads = count_threads()
        self.has_programs = self.has_programs and surroundings.has_children()

    def keep_loaded(self) -> None:
        """What files did to the process while they were loaded is there for all its runs."""
        self.surroundings.keep()
        self.context = copy_context()
        self.threads = count_threads()
        self.has_programs = surroundings.has_children()

    def _has_more_than_before(self) -> bool:
        """Whether the run leaves threads or programs, which would go on beside the next one."""
        if not self._has_more():
            return False
        time.sleep(_LAST_MOMENT)  # for what is ending already
        return self._has_more()

    def _has_more(self) -> bool:
        # How a program of a file ended is for the file to ask.
        return count_threads() > self.threads or (not self.has_programs and surroundings.are_programs_alive())

    def _collect_circles(self) -> None:
        """Have what runs leave in circles not be missing to the next.

        Python goes by the number of objects in them, not by their size.
        """
        size = address_space()
        if size > self.size + _GROWTH:
            gc.collect()
            self.size = address_space()
        else:
            # Where it has grown by less, the next run may add to that.
            self.size = min(self.size, size)

    def _flush(self) -> None:
        self.out.finish()
        self.err.finish()

    def _forget_connection(self) -> None:
        global _running
        _running = False
        self.connection.detach()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def use_temp_dir(self, start: dict[str, Any]) -> str | None:
        """The run's directory for temporary files: that of the process, or a new one in it."""
        path: str | None = start.get("temp_dir") or self.isolation.folder
        if path is not None and start.get("pooled"):
            path = self._next_temp_dir(path)
        if path != self.temp_dir:
            if path is not None:
                os.makedirs(path, 0o700, exist_ok=True)
            self.enter(path)
        return path

    def _next_temp_dir(self, folder: str) -> str:
        """A directory in `folder` that nobody has been in, or that of the run before if it looks like one.

        Most runs leave nothing, and making a directory costs more than all the rest of a short run.
        """
        if self.pooled_runs and self.temp_dir is not None:
            if _is_untouched(self.temp_dir):
                return self.temp_dir
            shutil.rmtree(self.temp_dir, ignore_errors=True)
        self.pooled_runs += 1
        return f"{folder}/{self.pooled_runs}"

    def enter(self, folder: str | None) -> None:
        """Have temporary files, and what belongs to a home, made in `folder`."""
        self.temp_dir = folder
        self.surroundings.set_variable("TMPDIR", folder)
        if folder is not None:
            self.surroundings.set_variable("HOME", folder)
        tempfile.tempdir = None

    def use_generation(self, generation: str | None) -> None:
        """Modules of another state of the workspace are not reused; without a hash none are.

        The hash follows a change by a moment, so the files that were executed are looked at too.
        """
        if self.generation is not None and (generation != self.generation or self.finder.cache.is_stale()):
            self.finder.forget_modules()
        self.generation = generation or ""


def _is_untouched(folder: str) -> bool:
    """Whether a directory is empty and as it was made."""
    try:
        if stat.S_IMODE(os.lstat(folder).st_mode) != 0o700:
            return False
        with os.scandir(folder) as left:
            return next(left, None) is None
    except OSError:
        return False


class Execution:
    """One attempt of one execution in this process."""

    def __init__(self, child: Child, start: dict[str, Any]) -> None:
        self.child = child
        self.start = start
        self.connection = child.connection
        self.limits = child.limits
        self.function: Callable[..., Any] | None = None
        self.variables: Callable[[], str] = lambda: "{}"
        self.frame: FrameType | None = None
        """That of the workflow function. No local variable holds it: the frame of that one is below it, and
        both would stay, with all they hold, until Python looks for such circles."""
        before = resource.getrusage(resource.RUSAGE_SELF)
        # A process run pays for its own start, a pooled one only for what it does itself.
        self.cpu_before = before.ru_utime + before.ru_stime if start.get("pooled") else 0.0

    def perform(self) -> bytes:
        """Run it and give the result frame."""
        global _running
        _running = True
        try:
            self._prepare()
            value = self._call_script() if self.start.get("code") is not None else self._call_function()
            self.connection.settle()
            _running = False
            self.limits.lift_cpu()
            return self._succeeded(value)
        except Terminated:
            raise
        except BaseException as error:
            _running = False
            self.limits.lift_cpu()
            frame = self._failed(error)
            # Frames in it hold the task that failed, which holds the error: such circles keep all they know.
            error.__traceback__ = None
            return frame
        finally:
            self.frame = None
            script.forget_main_module()
            self.connection.forget_calls()
            _context.current = _runtime.current = None

    # -- before ------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        start, child = self.start, self.child
        told = start["context"]
        organization = told.get("organization")
        self.context = ExecutionContext(
            user_id=told.get("user_id") or "",
            email=told.get("email") or "",
            name=told.get("name") or "",
            scope=told.get("scope") or "GLOBAL",
            organization=Organization(
                organization["id"], organization.get("name") or "", organization.get("is_active", True)
            )
            if organization
            else None,
            is_platform_admin=bool(told.get("is_platform_admin")),
            is_function_key=bool(told.get("is_function_key")),
            execution_id=start.get("execution_id") or "",
            startup=start.get("startup"),
            traceparent=told.get("traceparent"),
        )
        if start.get("pooled"):
            child.begin_pooled()
        # Where libraries that trace look for their parent.
        child.surroundings.set_variable("TRACEPARENT", self.context.traceparent or None)
        child.use_generation(start.get("generation"))
        temp_dir = child.use_temp_dir(start)
        _context.current = self.context
        _runtime.current = _runtime.Run(self.connection, child.finder.root, temp_dir)
        if limits := start.get("limits"):
            self.limits.apply(limits)
        gc.enable()

    def _load(self) -> Callable[..., Any]:
        workflow = self.start["workflow"]
        finder = self.child.finder
        file = finder.file(workflow["path"])
        finder.enter_folder(file.folder)
        loaded = finder.loaded
        try:
            module = finder.load_file(file)
        except (FileNotFoundError, NotADirectoryError) as problem:
            if problem.filename == file.path:
                raise WorkflowNotFound(f"there is no file {workflow['path']}") from None
            raise self._load_error(problem) from problem
        except (Interrupted, MemoryError, errors.UserError):
            raise
        except BaseException as problem:
            raise self._load_error(problem) from problem
        if finder.loaded != loaded and self.start.get("pooled"):
            self.child.keep_loaded()
        function = getattr(module, workflow["function"], None)
        if not callable(function):
            raise WorkflowNotFound(f"{workflow['path']} has no function {workflow['function']}")
        return function  # type: ignore[no-any-return]

    def _load_error(self, problem: BaseException) -> WorkflowLoadError:
        path = self.start["workflow"]["path"]
        return WorkflowLoadError(f"cannot load {path}: {type(problem).__name__}: {problem}")

    # -- calling -----------------------------------------------------------------------------------------

    def _call_function(self) -> Any:
        self.function = function = self._load()
        target = inspect.unwrap(function) if hasattr(function, "__wrapped__") else function
        given = with_omitted(function, target, self.start.get("parameters") or {})
        args, kwargs, extra = bind(target, self.context, given)
        self.context.parameters = extra
        code = getattr(target, "__code__", None)
        if not self.start.get("capture_variables") or code is None:
            return self._finish(function(*args, **kwargs))
        begin, end = variables.capture_frame(code)

        def collect() -> str:
            found = self.frame.f_locals.items() if self.frame is not None else ()
            return variables.encode_variables([*extra.items(), *found], variables.parameters_of(code))

        self.variables = collect
        begin()
        try:
            value = function(*args, **kwargs)
            if isinstance(value, CoroutineType):
                if value.cr_code is not code:
                    # That of a decorator, which calls the function when it runs itself.
                    return self._finish(value)
                # Calling it has only made the coroutine; its frame stays the same from here to its end.
                self.frame = value.cr_frame
        finally:
            # What hides in an object that is no coroutine starts later; then there is nothing to show.
            self.frame = end() or self.frame
        return self._finish(value)

    def _call_script(self) -> Any:
        start = self.start
        name = start.get("script_name") or "inline_script"
        self.child.script_runs += 1
        filename = f"<{name}>"
        self.child.handler.script = filename
        self.child.finder.enter_folder(self.child.finder.root)
        parameters = start.get("parameters") or {}
        self.context.parameters = dict(parameters)
        namespace = script.main_module(filename)
        # The names of logging and context are the ones scripts have always been given.
        namespace.update(context=context, logger=logging.getLogger(name), logging=logging)
        namespace.update(parameters)
        hidden = frozenset(namespace)
        if start.get("capture_variables"):
            self.variables = lambda: variables.encode_variables(list(namespace.items()), hidden)
        try:
            code, is_function = script.compile_script(start["code"], filename)
        except (SyntaxError, ValueError, RecursionError) as problem:
            raise WorkflowLoadError(f"cannot load {name}: {type(problem).__name__}: {problem}") from problem
        if is_function:
            exec(code, namespace)
            self._finish(script.function_of(namespace)())
        elif code.co_flags & inspect.CO_COROUTINE:
            self._finish(FunctionType(code, namespace)())
        else:
            exec(code, namespace)
        return _SCRIPT_RESULT

    def _finish(self, value: Any) -> Any:
        """Drive a coroutine to its end; anything else is the result already."""
        if isinstance(value, CoroutineType):
            return self._run(value)
        if _is_awaitable(value) and not isinstance(value, str | bytes | list | Mapping):
            return self._run(_await(value))
        return value

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        loop = self.child.loop
        if loop is None or loop.is_closed():
            self.child.loop = loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        finally:
            self._wind_up(loop)

    def _wind_up(self, loop: AbstractEventLoop) -> None:
        """What `asyncio.run` does at its end: no task, generator or pool thread outlives the run."""
        left = asyncio.all_tasks(loop)
        if left:
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        if getattr(loop, "_asyncgens", None):
            loop.run_until_complete(loop.shutdown_asyncgens())
        if getattr(loop, "_default_executor", None) is not None:
            # A loop has only one default executor in its life, so a pooled process takes a new loop.
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    # -- after -------------------------------------------------------------------------------------------

    def _succeeded(self, value: Any) -> bytes:
        if self.start.get("kind") == "data_provider":
            value = options_of(value)
        limit = (self.start.get("limits") or {}).get("result_bytes") or _DEFAULT_RESULT_BYTES
        text, kind = encode_result(value, limit)
        success = value.get("success") if isinstance(value, dict) else None
        partial = success is False or (type(success) is Flag and not success)
        outcome = "completed_with_errors" if partial else "success"
        return self._frame(outcome, text, kind, "null")

    def _failed(self, error: BaseException) -> bytes:
        shown: BaseException = error
        if isinstance(error, SystemExit):
            shown = NoResult(f"the run called sys.exit({'' if error.code is None else repr(error.code)})")
        elif (limit := self.limits.explain(error)) is not None:
            shown = ResourceLimit(limit)
        kind = type(shown)
        message = failures.message_of(shown)
        is_user_error = isinstance(shown, errors.UserError)
        if is_user_error:
            logs.send_line(self.connection, "ERROR", message)
        else:
            logs.send_line(self.connection, "ERROR", "An error occurred during execution")
            logs.send_line(self.connection, "TRACEBACK", failures.traceback_of(error))
        names = [quote(c.__name__) for c in kind.__mro__ if c not in (BaseException, object)]
        described = (
            f'{{"type":{quote(kind.__name__)},"message":{quote(message)},'
            f'"user_error":{"true" if is_user_error else "false"},"mro":[{",".join(names)}]}}'
        )
        return self._frame("failed", "null", None, described)

    def _frame(self, outcome: str, result: str, result_type: str | None, error: str) -> bytes:
        try:
            shown = self.variables()
        except Exception as problem:  # user types may misbehave; a debugging aid must not fail the run
            logs.send_line(self.connection, "DEBUG", f"variables could not be captured: {problem!r}")
            shown = "{}"
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = used.ru_utime + used.ru_stime - self.cpu_before
        # One process may have had more than is charged to the group: it shares pages with the template.
        peak = max(used.ru_maxrss * 1024, self.child.isolation.peak())
        kind = f'"{result_type}"' if result_type else "null"
        try:
            return pack(
                f'{{"t":"result","outcome":"{outcome}","result":{result},"result_type":{kind},"error":{error},'
                f'"variables":{shown},'
                f'"usage":{{"cpu_seconds":{cpu:.6f},"peak_memory_bytes":{peak}}}}}'
            )
        except FrameTooLarge as problem:
            raise ResultTooLarge(str(problem)) from None


def _is_awaitable(value: Any) -> bool:
    """As `inspect.isawaitable`, without asking an abstract base class, which would remember the answer."""
    if isinstance(value, GeneratorType):
        return bool(value.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)
    return hasattr(type(value), "__await__")


async def _await(value: Any) -> Any:
    return await value
