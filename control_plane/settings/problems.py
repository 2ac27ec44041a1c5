"""Everything that is wrong with the settings, one line for each problem."""

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from control_plane.settings.keys import KeyPath, Keys, dotted
from control_plane.settings.text import shown


class SettingsError(Exception):
    """The settings cannot be used. `problems` holds one line for each reason."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


def explain(error: ValidationError, keys: Keys) -> list[tuple[KeyPath, str]]:
    """The path and the line of each problem that pydantic found."""
    return [_explain(detail, keys) for detail in error.errors(include_url=False)]


def _explain(detail: Any, keys: Keys) -> tuple[KeyPath, str]:  # noqa: ANN401
    path: KeyPath = detail["loc"]
    if detail["type"] == "invalid_key":
        path = (*path[:-1], str(path[-1]))
    if keys.find(path) is None:
        return path, keys.unknown(path)
    accepted = keys.accepted(path)
    if detail["type"] == "missing":
        return path, f"{dotted(path)}: missing; must be {accepted}"
    return path, f"{dotted(path)}: must be {accepted}{_instead(path, detail['input'], keys)}"


def _instead(path: KeyPath, value: object, keys: Keys) -> str:
    """What stands there now, unless that is a secret or may hold one."""
    node = keys.find(path) or {}
    if node.get("writeOnly") or ("properties" in node and not isinstance(value, list)):
        return ""
    return f", not {shown(value)}"
