"""Parts of a settings document as an error message shows them."""

import json

SHOWN_CHARACTERS = 200


def shorten(text: str) -> str:
    """`text` on one line, cut at 200 characters."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 3]}..."


def shown(value: object) -> str:
    """`value` as YAML would write it; of a list or a mapping with content only that it is one."""
    if value and isinstance(value, dict):
        return "a mapping"
    if value and isinstance(value, list):
        return "a list"
    return shorten(json.dumps(value, ensure_ascii=False, default=str))
