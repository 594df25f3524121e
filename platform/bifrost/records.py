"""Records that modules of the SDK hand out, for annotations in workflow files."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class Role:
    """A role as it is stored."""

    id: str
    name: str
    description: str | None = None
    is_active: bool = True
    created_by: str | None = None
    created_at: str | None = None
    updated_at: str | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """A form as it is stored."""

    id: str
    name: str
    description: str | None = None
    linked_workflow: str | None = None
    form_schema: dict[str, Any] = field(default_factory=dict)
    is_active: bool = True
    created_by: str | None = None
    created_at: str | None = None
    updated_at: str | None = None


@dataclass(slots=True)
class OAuthCredentials:
    """What a connection to another service gives: the token, and when it ends."""

    connection_name: str = ""
    access_token: str = field(default="", repr=False)
    token_type: str = "Bearer"
    expires_at: datetime | None = None
    refresh_token: str | None = field(default=None, repr=False)
    scopes: str = ""

    def is_expired(self) -> bool:
        """Whether the token has ended or is about to; one without an end never is."""
        if self.expires_at is None:
            return False
        end = self.expires_at
        if end.tzinfo is None:
            end = end.replace(tzinfo=UTC)
        return datetime.now(UTC) >= end - timedelta(seconds=60)

    def get_auth_header(self) -> str:
        """The value of an `Authorization` header."""
        return f"{self.token_type} {self.access_token}"
