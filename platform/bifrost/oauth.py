"""Accounts at other services: the connections of the organization, then the global ones."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from . import _runtime

_TOKEN = ("access_token", "refresh_token", "token_type", "expires_at", "expires_in", "scope", "scopes")


async def get(provider: str, org_id: str | None = None) -> dict[str, Any] | None:
    """The connection with a token that is good for a minute at least, or None; one that ended is refreshed.

    A connection that nobody has authorized yet has `access_token` None. `ValueError` when the token ended and
    the provider gives no new one.
    """
    found = await _runtime.call("oauth.get", {"provider": provider, "org_id": org_id})
    return None if found is None else dict(found)


async def refresh_token(provider: str, org_id: str | None = None) -> dict[str, Any]:
    """Fetch a new token now, for a service that refuses one before its end."""
    return dict(await _runtime.call("oauth.refresh_token", {"provider": provider, "org_id": org_id}))


async def set_token(provider: str, token: str | Mapping[str, Any], org_id: str | None = None) -> None:
    """Store a token in a connection of the organization: itself, or what a token endpoint or `get` answers.

    It is good for one hour if nobody says for how long.
    """
    given = {"access_token": token} if isinstance(token, str) else {k: token[k] for k in _TOKEN if k in token}
    if not given.get("access_token"):
        raise ValueError("a token has an access_token")
    end = given.get("expires_at")
    if isinstance(end, datetime):
        given["expires_at"] = (end if end.tzinfo else end.astimezone()).isoformat()
    await _runtime.call("oauth.set_token", {"provider": provider, "token": given, "org_id": org_id})


async def list_providers(org_id: str | None = None) -> builtins.list[str]:
    """The names of the connections."""
    return [str(name) for name in await _runtime.call("oauth.list_providers", {"org_id": org_id})]


async def delete_token(provider: str, org_id: str | None = None) -> bool:
    """Remove the tokens of a connection of the organization; whether there were any."""
    return bool(await _runtime.call("oauth.delete_token", {"provider": provider, "org_id": org_id}))
