"""The destination of an export, which is written aside and then renamed into place, so that nobody
ever sees half of one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from converters.common.errors import OptionError


@contextmanager
def staging(parent: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield an empty folder, for files or folders called ``names``. When the block succeeds, its
    content moves to ``parent``; when it fails, ``parent`` is as it was before.

    An existing file is replaced. An existing folder is not, because Triton may be serving the model
    in it. Raises `OptionError`.
    """
    _check_free(parent, names)
    outermost_new = next((p for p in reversed((parent, *parent.parents)) if not p.exists()), None)
    parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    try:
        yield aside
        for result in sorted(aside.iterdir()):
            result.rename(parent / result.name)
        outermost_new = None
    finally:
        shutil.rmtree(aside)
        if outermost_new is not None:
            shutil.rmtree(outermost_new)


def _check_free(parent: Path, names: Sequence[str]) -> None:
    """Raise `OptionError` where ``names`` cannot be written to ``parent``."""
    if parent.exists() and not parent.is_dir():
        raise OptionError("output", f"{parent} is not a folder")
    for name in names:
        if (parent / name).is_dir():
            raise OptionError(
                "output", f"{parent / name} exists already; remove it, or choose another --name"
            )
