"""The organizations of this installation."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any

from . import _runtime


@dataclass(frozen=True, slots=True)
class OrganizationRecord:
    """An organization as it is stored."""

    id: str
    name: str
    domain: str | None = None
    is_active: bool = True
    created_by: str | None = None
    created_at: str | None = None
    updated_at: str | None = None


async def get(org_id: str) -> OrganizationRecord:
    """One's own organization, or any for a platform admin; `ValueError` if it does not exist."""
    found = await _runtime.call("organizations.get", {"org_id": str(org_id)})
    if found is None:
        raise ValueError(f"there is no organization {org_id}")
    return _record(found)


async def list() -> builtins.list[OrganizationRecord]:
    """All organizations; platform admins only."""
    return [_record(row) for row in await _runtime.call("organizations.list", {})]


async def create(name: str, domain: str | None = None, is_active: bool = True) -> OrganizationRecord:
    """A new organization; platform admins only."""
    arguments = {"name": name, "domain": domain, "is_active": is_active}
    return _record(await _runtime.call("organizations.create", arguments))


async def update(org_id: str, **fields: Any) -> OrganizationRecord:
    """Change `name`, `domain` or `is_active`; platform admins only."""
    unknown = sorted(fields.keys() - {"name", "domain", "is_active"})
    if unknown:
        raise ValueError(f"an organization has no {', '.join(unknown)} to update")
    return _record(await _runtime.call("organizations.update", {**fields, "org_id": str(org_id)}))


async def delete(org_id: str) -> bool:
    """Deactivate an organization; its data stays. Platform admins only."""
    return bool(await _runtime.call("organizations.delete", {"org_id": str(org_id)}))


def _record(row: dict[str, Any]) -> OrganizationRecord:
    return OrganizationRecord(**{name: row[name] for name in OrganizationRecord.__slots__ if name in row})
