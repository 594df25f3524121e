"""What one file publishes: reads its decorated functions, and tells what is wrong with them.

The source is read, never executed. Where an argument cannot be used the default is, and a problem says so
with line and hint, so that a slip never takes a workflow away.
"""

from __future__ import annotations

import ast
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from .._decorators import PARAMETER_TYPES
from . import signing
from .entries import FileEntry
from .literals import UNREADABLE, is_storable, literal, plain, storable
from .names import Names
from .signature import NO_VALUE, parameter_of

_NAME = re.compile(r"[a-z0-9_]{1,200}\Z")
# Bytes of a function's name: an index of PostgreSQL takes no long ones.
_LONGEST_FUNCTION = 500
_RATE = re.compile(r"([1-9][0-9]{0,4})\s*/\s*(s|m|h|d)\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_METHODS = ("GET", "POST", "PUT", "DELETE")

# Per decorator: arguments in the order they have by position, and those given by name only.
_SIGNATURES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "workflow": (
        (
            "name",
            "description",
            "category",
            "tags",
            "execution_mode",
            "timeout_seconds",
            "retry_policy",
            "schedule",
            "endpoint_enabled",
            "allowed_methods",
            "disable_global_key",
            "public_endpoint",
        ),
        (
            "id",
            "schedule_timezone",
            "schedule_overlap",
            "schedule_misfire",
            "isolation",
            "signature",
            "concurrency_limit",
            "concurrency_key",
            "rate_limit",
            "endpoint_rate_limit",
        ),
    ),
    "data_provider": (("name", "description", "category", "cache_ttl_seconds"), ("id",)),
    "param": (
        (
            "name",
            "type",
            "label",
            "required",
            "validation",
            "data_provider",
            "default_value",
            "help_text",
        ),
        ("description", "default", "options"),
    ),
}


@dataclass
class _Arguments:
    """The arguments one decorator was given, as literals."""

    node: ast.expr
    values: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, ast.expr] = field(default_factory=dict)

    def given(self, name: str) -> bool:
        return self.values.get(name) is not None


class Reader:
    """Reads the module-level functions of one file."""

    def __init__(self, found: FileEntry, tree: ast.Module) -> None:
        self.found = found
        self.tree = tree
        self.names = Names(tree)

    def read(self) -> None:
        functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
        for node in _statements(self.tree.body):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                earlier = functions.pop(node.name, None)
                if earlier is not None and self._marks(earlier):
                    self._warn(
                        earlier, f"{node.name} is defined again below", "Rename one of the two functions."
                    )
                functions[node.name] = node
        for function in functions.values():
            self._read_function(function)

    def _marks(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        return any(self.names.kind(d) in ("workflow", "data_provider") for d in function.decorator_list)

    def _read_function(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if not self._marks(function):
            return
        read = [
            (kind, self._arguments(kind, d))
            for d in function.decorator_list
            if (kind := self.names.kind(d)) is not None
        ]
        described = [arguments for kind, arguments in read if kind == "param"]
        parameters, accepts_extra = self._parameters(function, described)
        published: set[str] = set()
        for kind, arguments in read:
            if kind == "param":
                continue
            if kind in published:
                self._warn(
                    arguments.node,
                    f"{function.name} has @{kind} twice; the first is used",
                    "Remove one, or publish a second function that calls this one.",
                )
                continue
            head = self._head(function, arguments)
            if head is None:
                continue
            published.add(kind)
            if kind == "workflow":
                self.found.workflows.append(
                    {
                        **head,
                        **self._workflow(arguments),
                        **self._limits(arguments, parameters),
                        "parameters": parameters,
                        "accepts_extra": accepts_extra,
                    }
                )
            else:
                lifetime = self._number(arguments, "cache_ttl_seconds", 300, 0, 31_536_000)
                self.found.data_providers.append(
                    {**head, "cache_ttl_seconds": lifetime, "parameters": parameters}
                )

    # -- decorator arguments -----------------------------------------------------------------------------

    def _arguments(self, kind: str, decorator: ast.expr) -> _Arguments:
        read = _Arguments(decorator)
        if not isinstance(decorator, ast.Call):
            return read
        positional, keyword_only = _SIGNATURES[kind]
        for name, node in zip(positional, decorator.args, strict=False):
            read.nodes[name] = node
        if len(decorator.args) > len(positional):
            self._warn(
                decorator.args[len(positional)],
                f"@{kind} takes at most {len(positional)} arguments by position",
                "Pass the others by name.",
            )
        known = [*positional, *keyword_only]
        for keyword in decorator.keywords:
            if keyword.arg is None:
                self._warn(keyword.value, f"**arguments of @{kind} are not read", "Write the arguments out.")
            elif keyword.arg not in known:
                close = get_close_matches(keyword.arg, known, 1)
                hint = f"Did you mean {close[0]}?" if close else f"@{kind} knows: {', '.join(known)}."
                self._warn(keyword.value, f"@{kind} does not know the argument {keyword.arg}", hint)
            else:
                read.nodes[keyword.arg] = keyword.value
        for name, node in read.nodes.items():
            value = literal(node)
            if value is UNREADABLE:
                self._warn(
                    node,
                    f"the argument {name} of @{kind} is not a literal and is ignored",
                    "Files are indexed without running them; write the value itself.",
                )
            elif not is_storable(value):
                self._warn(
                    node,
                    f"the argument {name} of @{kind} cannot be stored and is ignored",
                    "Use no NUL or surrogate in text, no larger number than 64 bits hold, and less nesting.",
                    name,
                )
            else:
                read.values[name] = value
        return read

    def _head(
        self, function: ast.FunctionDef | ast.AsyncFunctionDef, arguments: _Arguments
    ) -> dict[str, Any] | None:
        name = self._text(arguments, "name", function.name)
        if not _NAME.match(name):
            self._problem(
                "error",
                arguments.nodes.get("name", function),
                f"{name!r} is not a valid name",
                'Use 1 to 200 lower-case letters, digits and _; name="..." overrides the function name.',
            )
            return None
        if len(function.name.encode()) > _LONGEST_FUNCTION:
            self._problem(
                "error", function, f"the name of {name} is too long", "Give the function a shorter one."
            )
            return None
        docstring = (ast.get_docstring(function) or "").strip().split("\n")[0].strip()
        return {
            "function": function.name,
            "name": name,
            "id": self._id(arguments),
            "description": self._text(arguments, "description", storable(docstring)),
            "category": self._text(arguments, "category", "General"),
            "line": function.lineno,
        }

    def _workflow(self, arguments: _Arguments) -> dict[str, Any]:
        endpoint = self._flag(arguments, "endpoint_enabled")
        signature, is_usable = self._signature(arguments)
        schedule = self._text(arguments, "schedule", "")
        return {
            "tags": self._texts(arguments, "tags", []),
            "execution_mode": self._choice(
                arguments, "execution_mode", ("sync", "async"), "sync" if endpoint else "async"
            ),
            "timeout_seconds": self._number(arguments, "timeout_seconds", 1800, 1, 7200),
            "retry_policy": self._retry_policy(arguments),
            "schedule": schedule or None,
            "schedule_timezone": self._text(arguments, "schedule_timezone", "UTC"),
            "schedule_overlap": self._choice(
                arguments, "schedule_overlap", ("skip", "queue", "allow"), "skip"
            ),
            "schedule_misfire": self._choice(
                arguments, "schedule_misfire", ("skip", "latest", "all"), "latest"
            ),
            "endpoint_enabled": endpoint and is_usable,
            "allowed_methods": self._allowed_methods(arguments),
            "disable_global_key": self._flag(arguments, "disable_global_key"),
            "public_endpoint": self._flag(arguments, "public_endpoint"),
            "signature": signature,
            "isolation": self._choice(arguments, "isolation", ("process", "pooled"), "process"),
        }

    def _limits(self, arguments: _Arguments, parameters: list[dict[str, Any]]) -> dict[str, Any]:
        """How many runs may run or start, and calls be made; a member is there only if there is a limit."""
        limits: dict[str, Any] = {}
        key = self._text(arguments, "concurrency_key", "")
        if arguments.given("concurrency_limit") or key:
            limits["concurrency_limit"] = self._number(arguments, "concurrency_limit", 1, 1, 100_000)
        if key:
            limits["concurrency_key"] = key
            known = [parameter["name"] for parameter in parameters]
            for name in _PLACEHOLDER.findall(key):
                if name not in known:
                    self._warn(
                        arguments.nodes["concurrency_key"],
                        f"concurrency_key names {name!r}, which is no parameter",
                        f"It stands for nothing; use one of {', '.join(known) or 'the parameters'}.",
                    )
        for name, counted in (("rate_limit", "starts"), ("endpoint_rate_limit", "calls")):
            rate = self._text(arguments, name, "")
            if found := _RATE.match(rate.strip()):
                limits[name] = {counted: int(found[1]), "seconds": _SECONDS[found[2]]}
            elif rate:
                self._unusable(arguments, name, f'Write "100/m": {counted} per s, m, h or d.')
        return limits

    def _retry_policy(self, arguments: _Arguments) -> dict[str, Any] | None:
        if not arguments.given("retry_policy"):
            return None
        policy = arguments.values["retry_policy"]
        if not isinstance(policy, dict):
            self._unusable(arguments, "retry_policy", 'Write {"max_attempts": 3, "backoff": 2}.')
            return None
        known = ("max_attempts", "backoff", "backoff_seconds", "max_backoff_seconds", "retry_on")
        for key in policy:
            if key not in known:
                self._warn(
                    arguments.nodes["retry_policy"],
                    f"retry_policy does not know {key!r}",
                    f"It knows: {', '.join(known)}.",
                )
        inner = _Arguments(
            arguments.node, dict(policy), dict.fromkeys(known, arguments.nodes["retry_policy"])
        )
        backoff = "backoff_seconds" if inner.given("backoff_seconds") else "backoff"
        named = self._texts(inner, "retry_on", []) if inner.given("retry_on") else None
        return {
            "max_attempts": self._number(inner, "max_attempts", 1, 1, 10),
            "backoff_seconds": self._number(inner, backoff, 2, 0, 86_400, whole=False),
            "max_backoff_seconds": self._number(inner, "max_backoff_seconds", 60, 0, 86_400, whole=False),
            "retry_on": named or None,
        }

    def _signature(self, arguments: _Arguments) -> tuple[dict[str, Any] | None, bool]:
        """The rule requests are verified by, and whether what was given can be used."""
        node = arguments.nodes.get("signature")
        if node is None or ("signature" in arguments.values and arguments.values["signature"] is None):
            return None, True
        try:
            return signing.rule_of(arguments.values.get("signature")), True
        except signing.UnusableError as error:
            self._problem(
                "error",
                node,
                "the value of signature cannot be used, so the endpoint is closed",
                f"{str(error)[0].upper()}{str(error)[1:]}.",
                "signature",
            )
            return None, False

    def _allowed_methods(self, arguments: _Arguments) -> list[str]:
        methods = [method.upper() for method in self._texts(arguments, "allowed_methods", ["POST"])]
        usable = [method for method in dict.fromkeys(methods) if method in _METHODS]
        if len(usable) < len(set(methods)) or not usable:
            self._unusable(arguments, "allowed_methods", f"Endpoints answer {', '.join(_METHODS)}.")
        return usable or ["POST"]

    def _id(self, arguments: _Arguments) -> str | None:
        value = arguments.values.get("id")
        if value is None:
            return None
        try:
            return str(uuid.UUID(value))
        except (ValueError, AttributeError, TypeError):
            self._problem(
                "error", arguments.nodes["id"], "id is not a UUID", "Leave it out, or write a UUID."
            )
            return None

    def _text(self, arguments: _Arguments, name: str, default: str) -> str:
        value = arguments.values.get(name)
        if value is None or isinstance(value, str):
            return default if value is None else value
        self._unusable(arguments, name, "It must be text.")
        return default

    def _texts(self, arguments: _Arguments, name: str, default: list[str]) -> list[str]:
        value = arguments.values.get(name)
        if value is None:
            return default
        if isinstance(value, list | tuple | set) and all(isinstance(item, str) for item in value):
            return sorted(value) if isinstance(value, set) else list(value)
        self._unusable(arguments, name, "It must be a list of texts.")
        return default

    def _flag(self, arguments: _Arguments, name: str) -> bool:
        value = arguments.values.get(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        self._unusable(arguments, name, "It must be True or False.")
        return False

    def _choice(self, arguments: _Arguments, name: str, choices: tuple[str, ...], default: str) -> str:
        value = arguments.values.get(name)
        if value is None:
            return default
        if value in choices:
            return str(value)
        self._unusable(arguments, name, f"Use one of {', '.join(choices)}.")
        return default

    def _number(
        self, arguments: _Arguments, name: str, default: int, least: int, most: int, *, whole: bool = True
    ) -> int | float:
        value = arguments.values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            self._unusable(arguments, name, f"It must be a number from {least} to {most}.")
            return default
        if not least <= value <= most:
            used = min(max(value, least), most)
            self._warn(
                arguments.nodes[name],
                f"{name} is {value}; {used} is used",
                f"Use a number from {least} to {most}.",
                name,
            )
            return used
        return value

    # -- parameters --------------------------------------------------------------------------------------

    def _parameters(
        self, function: ast.FunctionDef | ast.AsyncFunctionDef, described: list[_Arguments]
    ) -> tuple[list[dict[str, Any]], bool]:
        signature = function.args
        by_name: dict[str, _Arguments] = {}
        for arguments in described:
            name = arguments.values.get("name")
            if not isinstance(name, str) or not name:
                self._problem(
                    "error",
                    arguments.node,
                    "@param has no name",
                    'Write @param("name", ...) with a literal name.',
                )
            elif name in by_name:
                self._warn(arguments.node, f"@param {name} is given twice", "Remove one; the first is used.")
            else:
                by_name[name] = arguments
        plain = [*signature.posonlyargs, *signature.args]
        # Defaults belong to the last of the positional parameters.
        defaults: list[ast.expr | None] = [None] * (len(plain) - len(signature.defaults))
        pairs = [*zip(plain, [*defaults, *signature.defaults], strict=True)]
        takes_context = bool(plain) and self.names.is_context(plain[0])
        pairs = pairs[1:] if takes_context else pairs
        pairs += zip(signature.kwonlyargs, signature.kw_defaults, strict=True)
        listed = [
            self._merge(
                argument.arg,
                parameter_of(argument.arg, argument.annotation, default),
                by_name.pop(argument.arg, None),
            )
            for argument, default in pairs
        ]
        for name, arguments in by_name.items():
            listed.append(self._merge(name, parameter_of(name, None, NO_VALUE), arguments))
        return listed, takes_context or signature.kwarg is not None

    def _merge(self, name: str, parameter: dict[str, Any], arguments: _Arguments | None) -> dict[str, Any]:
        """What `@param` gives wins; what it leaves out the signature has supplied.

        A default that it gives is used where the parameter is missing, which then is not required.
        """
        if arguments is None:
            return parameter
        parameter["type"] = self._parameter_type(arguments, parameter["type"])
        parameter["label"] = self._text(arguments, "label", parameter["label"])
        parameter["description"] = self._text(arguments, "description", parameter["description"])
        parameter["description"] = self._text(arguments, "help_text", parameter["description"])
        parameter["data_provider"] = self._text(arguments, "data_provider", parameter["data_provider"])
        if arguments.given("required"):
            parameter["required"] = self._flag(arguments, "required")
        elif arguments.given("default_value") or arguments.given("default"):
            parameter["required"] = False
        for member, names in (
            ("default_value", ("default_value", "default")),
            ("validation", ("validation",)),
            ("options", ("options",)),
        ):
            parameter[member] = next(
                (plain(arguments.values[n]) for n in names if arguments.given(n)), parameter[member]
            )
        return parameter

    def _parameter_type(self, arguments: _Arguments, default: str) -> str:
        given = arguments.values.get("type")
        if given is None or given in PARAMETER_TYPES:
            return given or default
        self._problem(
            "error",
            arguments.nodes["type"],
            f"@param knows no type {given!r}, and no run of this file begins with it",
            f"Use one of {', '.join(PARAMETER_TYPES)}.",
            "type",
        )
        return default

    # -- problems ----------------------------------------------------------------------------------------

    def _unusable(self, arguments: _Arguments, name: str, hint: str) -> None:
        node = arguments.nodes.get(name, arguments.node)
        self._warn(node, f"the value of {name} cannot be used", hint, name)

    def _warn(self, node: ast.AST, message: str, hint: str, argument: str | None = None) -> None:
        self._problem("warning", node, message, hint, argument)

    def _problem(
        self, severity: str, node: ast.AST, message: str, hint: str, argument: str | None = None
    ) -> None:
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        self.found.problem(severity, line, column, message, hint, argument)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements at module level, including those under a module-level `if`, `try` or `with`."""
    waiting = body[::-1]
    while waiting:
        statement = waiting.pop()
        yield statement
        inner: list[ast.stmt] = []
        if isinstance(statement, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                inner += getattr(statement, part, [])
        if isinstance(statement, ast.Try):
            for handler in statement.handlers:
                inner += handler.body
        waiting += inner[::-1]
