"""The text that exports are measured on: the user's, or the corpus of the demo model."""

from __future__ import annotations

from pathlib import Path

from converters.common.corpus.topics import CORPUS_FOLDER, load_corpus
from converters.common.errors import OptionError

MAX_EXAMPLES = 64


def read_text(file: Path | None) -> str:
    """Return the text of ``file``, or of the whole corpus without one. Raises `OptionError`."""
    if file is None:
        return "\n".join(p.read_text(encoding="utf-8") for p in sorted(CORPUS_FOLDER.glob("*.md")))
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError("text", f"{file} cannot be read: {error}") from error


def read_examples(file: Path | None) -> list[str]:
    """Return at most `MAX_EXAMPLES` short texts: the lines of ``file``, or questions and answers of
    the corpus. Raises `OptionError`."""
    if file is None:
        pairs = ((topic.phrasings[0], topic.answer) for topic in load_corpus())
        return [text for pair in pairs for text in pair][:MAX_EXAMPLES]
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not lines:
        raise OptionError("text", f"{file} contains no text")
    return lines[:MAX_EXAMPLES]
