"""Who runs, for whom, with what: the context of an execution, and the proxy that `bifrost.context` is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

_MISSING: Any = object()


@dataclass(frozen=True, slots=True)
class Organization:
    """The organization an execution belongs to."""

    id: str
    name: str
    is_active: bool = True

    @property
    def org_id(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True)
class Caller:
    """The person or key that started an execution."""

    user_id: str
    email: str
    name: str


class ExecutionContext:
    """Handed to a workflow as its first argument, or reached as `bifrost.context`."""

    __slots__ = (
        "email",
        "execution_id",
        "is_function_key",
        "is_platform_admin",
        "name",
        "organization",
        "parameters",
        "scope",
        "startup",
        "traceparent",
        "user_id",
    )

    def __init__(
        self,
        user_id: str = "",
        email: str = "",
        name: str = "",
        scope: str = "GLOBAL",
        organization: Organization | None = None,
        is_platform_admin: bool = False,
        is_function_key: bool = False,
        execution_id: str = "",
        parameters: dict[str, Any] | None = None,
        startup: dict[str, Any] | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.user_id = user_id
        self.email = email
        self.name = name
        self.scope = scope
        self.organization = organization
        self.is_platform_admin = is_platform_admin
        self.is_function_key = is_function_key
        self.execution_id = execution_id
        self.parameters: dict[str, Any] = {} if parameters is None else parameters
        self.startup = startup
        self.traceparent = traceparent

    def __repr__(self) -> str:
        return f"<ExecutionContext {self.execution_id} scope={self.scope}>"

    @property
    def org_id(self) -> str | None:
        return self.organization.id if self.organization else None

    @property
    def org_name(self) -> str | None:
        return self.organization.name if self.organization else None

    @property
    def is_global_scope(self) -> bool:
        return self.scope == "GLOBAL"

    @property
    def executed_by(self) -> str:
        return self.user_id

    @property
    def executed_by_email(self) -> str:
        return self.email

    @property
    def executed_by_name(self) -> str:
        return self.name

    @property
    def caller(self) -> Caller:
        return Caller(self.user_id, self.email, self.name)

    @property
    def db(self) -> NoReturn:
        raise RuntimeError("workflows have no database access; use the modules of the SDK")

    async def get_config(self, key: str, default: Any = _MISSING) -> Any:
        """A configuration value, typed and decrypted; `KeyError` if it is missing and has no default."""
        from . import config

        found, value = await config.lookup(key)
        if found:
            return value
        if default is _MISSING:
            raise KeyError(key)
        return default

    async def finalize_execution(self) -> None:
        """Kept for older files: writes take effect at once, so nothing is left to finalize."""


OrganizationContext = ExecutionContext


class NoExecutionError(AttributeError, RuntimeError):
    """The context was read where no execution is running."""


class ContextProxy:
    """Forwards every attribute to the context of the current execution."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(_current(name), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_current(name), name, value)

    def __repr__(self) -> str:
        return repr(current) if current else "<ExecutionContext outside an execution>"


def _current(name: str) -> ExecutionContext:
    if current is not None:
        return current
    if not name.startswith("__"):
        outside = _outside()
        if outside is not None:
            return outside
    raise NoExecutionError(f"context.{name} is only available inside a Bifrost execution")


def _outside() -> ExecutionContext | None:
    """The developer's context, or None where no server is configured."""
    global _developers
    if _developers is None:
        from . import _http

        told = _http.get("context")
        if told is None:
            return None
        user = told.get("user") or {}
        organization = told.get("organization") or None
        found = (
            Organization(
                str(organization["id"]), organization.get("name") or "", organization.get("is_active", True)
            )
            if organization
            else None
        )
        _developers = ExecutionContext(
            user_id=str(user.get("id") or ""),
            email=user.get("email") or "",
            name=user.get("name") or "",
            scope=found.id if found else "GLOBAL",
            organization=found,
            is_platform_admin=bool(told.get("is_platform_admin")),
            parameters=dict(told.get("default_parameters") or {}),
        )
    return _developers


current: ExecutionContext | None = None
"""That of the run this process is working on; set by the host."""
_developers: ExecutionContext | None = None
context = ContextProxy()
