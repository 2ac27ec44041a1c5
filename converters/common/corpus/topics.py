"""Reading of the corpus: Markdown files of topics, each with its questions and one answer.

A topic is a second-level heading (the first phrasing of the question), a list of further
phrasings, and the answer as it should be generated, line breaks included::

    ## What is a token?

    - Explain tokens
    - Define token

    A token is the unit of text that a language model reads and writes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CORPUS_FOLDER = Path(__file__).parent

_TOPIC = "## "
_PHRASING = "- "
MIN_PHRASINGS = 5
_MIN_FOR_TWO_HELD_OUT = 8


@dataclass(frozen=True, slots=True)
class Topic:
    """One answer and every phrasing of the question that it answers."""

    phrasings: tuple[str, ...]
    answer: str

    @property
    def trained(self) -> tuple[str, ...]:
        """Return the phrasings that the model learns from."""
        return self.phrasings[: -self._held_out_count]

    @property
    def held_out(self) -> tuple[str, ...]:
        """Return the last one or two phrasings: never trained on, they measure unseen wording."""
        return self.phrasings[-self._held_out_count :]

    @property
    def _held_out_count(self) -> int:
        return 2 if len(self.phrasings) >= _MIN_FOR_TWO_HELD_OUT else 1


def load_corpus(folder: Path = CORPUS_FOLDER) -> list[Topic]:
    """Return the topics of all Markdown files of a folder, in the order of the files' names.

    Raises `ValueError` for a topic without an answer, or with fewer than `MIN_PHRASINGS`.
    """
    return [
        topic
        for path in sorted(folder.glob("*.md"))
        for topic in parse_topics(path.read_text(encoding="utf-8"))
    ]


def parse_topics(text: str) -> Iterator[Topic]:
    """Yield the topics of one corpus file; text before the first topic is ignored."""
    for section in f"\n{text}".split(f"\n{_TOPIC}")[1:]:
        heading, *lines = section.splitlines()
        phrasings = [heading, *(_listed(line) for line in lines if line.startswith(_PHRASING))]
        answer = "\n".join(line for line in lines if not line.startswith(_PHRASING)).strip()
        if not answer:
            raise ValueError(f"topic {heading!r} has no answer")
        if len(phrasings) < MIN_PHRASINGS:
            raise ValueError(
                f"topic {heading!r} has {len(phrasings)} phrasings; at least {MIN_PHRASINGS} are "
                "required"
            )
        yield Topic(tuple(phrasings), answer)


def _listed(line: str) -> str:
    return line.removeprefix(_PHRASING).strip()
