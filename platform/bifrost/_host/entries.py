"""The index entry of one file, while it is being made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .literals import storable


@dataclass
class FileEntry:
    """What a file publishes, and its problems; what cannot be stored of their text is replaced."""

    workflows: list[dict[str, Any]] = field(default_factory=list)
    data_providers: list[dict[str, Any]] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)

    def problem(
        self, severity: str, line: int, column: int, message: str, hint: str, argument: str | None = None
    ) -> None:
        """Something to correct; `argument` names what of a decorator could not be used as given."""
        found = {
            "severity": severity,
            "line": line,
            "column": column,
            "message": storable(message),
            "hint": storable(hint),
        }
        self.problems.append(found if argument is None else {**found, "argument": argument})

    def entry(self, path: str, digest: str) -> dict[str, Any]:
        return {
            "path": path,
            "sha256": digest,
            "workflows": self.workflows,
            "data_providers": self.data_providers,
            "problems": self.problems,
        }
