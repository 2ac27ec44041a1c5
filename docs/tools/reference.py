"""Write the pages of `docs/` that are generated from the code: `python -m docs.tools.reference`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from docs.tools.settings_page import settings_page
from docs.tools.tensor_page import tensor_page

DOCS = Path(__file__).resolve().parents[1]
PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "tensor-contract.md": tensor_page,
}


def main() -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())


if __name__ == "__main__":
    main()
