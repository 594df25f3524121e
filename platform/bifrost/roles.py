"""Roles: those of the organization and the global ones. To change them one must administer the platform."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import Any

from . import _runtime
from .records import Role


async def create(name: str, description: str = "") -> Role:
    """A new role of the execution's organization, or a global one; platform admins only."""
    return _record(await _runtime.call("roles.create", {"name": name, "description": description}))


async def get(role_id: str) -> Role:
    """One role; `ValueError` if there is none."""
    return _record(await _runtime.call("roles.get", {"role_id": str(role_id)}))


async def list() -> builtins.list[Role]:
    """The active roles, by name."""
    return [_record(row) for row in await _runtime.call("roles.list", {})]


async def update(role_id: str, **fields: Any) -> Role:
    """Change `name`, `description` or `is_active`; platform admins only."""
    unknown = sorted(fields.keys() - {"name", "description", "is_active"})
    if unknown:
        raise ValueError(f"a role has no {', '.join(unknown)} to update")
    return _record(await _runtime.call("roles.update", {**fields, "role_id": str(role_id)}))


async def delete(role_id: str) -> bool:
    """Deactivate a role, which then grants nothing; platform admins only."""
    return bool(await _runtime.call("roles.delete", {"role_id": str(role_id)}))


async def list_users(role_id: str) -> builtins.list[str]:
    """The ids of the users who have a role."""
    return [str(user) for user in await _runtime.call("roles.list_users", {"role_id": str(role_id)})]


async def list_forms(role_id: str) -> builtins.list[str]:
    """The ids of the forms a role opens."""
    return [str(form) for form in await _runtime.call("roles.list_forms", {"role_id": str(role_id)})]


async def assign_users(role_id: str, user_ids: Iterable[str]) -> None:
    """Give a role to users, by id or e-mail address, all of them or none; platform admins only."""
    arguments = {"role_id": str(role_id), "user_ids": [str(user) for user in _several(user_ids)]}
    await _runtime.call("roles.assign_users", arguments)


async def assign_forms(role_id: str, form_ids: Iterable[str]) -> None:
    """Open forms to a role, all of them or none; platform admins only."""
    arguments = {"role_id": str(role_id), "form_ids": [str(form) for form in _several(form_ids)]}
    await _runtime.call("roles.assign_forms", arguments)


def _several(ids: Iterable[str]) -> Iterable[str]:
    if isinstance(ids, str):
        raise TypeError("a list of ids is needed, not one")
    return ids


def _record(row: dict[str, Any]) -> Role:
    return Role(**{name: row[name] for name in Role.__slots__ if name in row})
