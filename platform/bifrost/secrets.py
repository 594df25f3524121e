"""Secrets of the organization, then the global ones."""

from __future__ import annotations

import builtins

from . import _runtime


async def get(key: str, org_id: str | None = None) -> str | None:
    """The decrypted secret, or None."""
    value = await _runtime.call("secrets.get", {"key": key, "org_id": org_id})
    return None if value is None else str(value)


async def set(key: str, value: str, org_id: str | None = None) -> None:
    """Store a secret; the next read sees it."""
    await _runtime.call("secrets.set", {"key": key, "value": value, "org_id": org_id})


async def list(org_id: str | None = None) -> builtins.list[str]:
    """The names of all secrets, without their values."""
    return [str(name) for name in await _runtime.call("secrets.list", {"org_id": org_id})]


async def delete(key: str, org_id: str | None = None) -> bool:
    """Remove a secret; whether there was one."""
    return bool(await _runtime.call("secrets.delete", {"key": key, "org_id": org_id}))
