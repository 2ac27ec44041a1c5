"""Where an export goes: made aside, then renamed into place: no half of one is ever seen."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from converters.errors import OptionError


@contextmanager
def staging(parent: Path, names: list[str]) -> Iterator[Path]:
    """An empty folder beside the destination, for files or folders called ``names``. When the block
    ends well, what was made moves to ``parent``; in any case the empty folder goes away.

    A file that is there is replaced. A model in a repository may be in use: `OptionError`.
    """
    if parent.exists() and not parent.is_dir():
        raise OptionError("output", f"{parent} is not a folder")
    for name in names:
        if (parent / name).is_dir():
            raise OptionError("output", f"{parent / name} exists already: remove it or use --name")
    missing = next((p for p in reversed((parent, *parent.parents)) if not p.exists()), None)
    parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    try:
        yield aside
        for made in sorted(aside.iterdir()):
            made.rename(parent / made.name)
        missing = None
    finally:
        shutil.rmtree(aside)
        if missing is not None:
            shutil.rmtree(missing)
