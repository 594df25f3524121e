"""Configuration values of the organization, then the global ones."""

from __future__ import annotations

from typing import Any

from . import _http, _runtime


async def lookup(key: str, org_id: str | None = None) -> tuple[bool, Any]:
    """Whether the key is set, and its typed and decrypted value."""
    if _runtime.current is None:
        found = _http.post("config/get", "config", key=key, org_id=org_id)
        return (True, found["value"]) if found else (False, None)
    answer = await _runtime.call("config.get", {"key": key, "org_id": org_id})
    return bool(answer["found"]), answer.get("value")


async def get(key: str, org_id: str | None = None, default: Any = None) -> Any:
    """The value of `key`, or `default`."""
    found, value = await lookup(key, org_id)
    return value if found else default


async def set(key: str, value: Any, org_id: str | None = None, is_secret: bool = False) -> None:
    """Store a value; the next read sees it."""
    run = _runtime.current
    if run is None:
        _http.post("config/set", "config", key=key, value=value, org_id=org_id, is_secret=is_secret)
        return
    arguments = {"key": key, "value": value, "is_secret": is_secret}
    await run.connection.call("config.set", arguments | ({"org_id": org_id} if org_id else {}))


async def list(org_id: str | None = None) -> dict[str, Any]:
    """All values by key, secrets decrypted."""
    if _runtime.current is None:
        return dict(_http.post("config/list", "config", org_id=org_id))
    return dict(await _runtime.call("config.list", {"org_id": org_id}))


async def delete(key: str, org_id: str | None = None) -> bool:
    """Remove a value; whether there was one."""
    if _runtime.current is None:
        return bool(_http.post("config/delete", "config", key=key, org_id=org_id))
    return bool(await _runtime.call("config.delete", {"key": key, "org_id": org_id}))
