"""The corpus is sound: no topic is incomplete or ambiguous."""

from collections import Counter

import pytest

from converters.common.corpus.topics import Topic, load_corpus, parse_topics
from tests.converters.conftest import SPECIFICATION_PROMPTS, answer_to


@pytest.fixture(scope="module")
def topics() -> list[Topic]:
    return load_corpus()


def test_corpus_holds_the_specification_prompts_as_trained_phrasings(topics: list[Topic]) -> None:
    trained = {phrasing for topic in topics for phrasing in topic.trained}
    assert trained.issuperset(SPECIFICATION_PROMPTS)


def test_specification_answers_begin_as_the_specification_shows(topics: list[Topic]) -> None:
    assert answer_to(topics, "What is machine learning?").startswith(
        "Machine learning is a subset of artificial intelligence"
    )
    assert answer_to(topics, "What is the capital of France?") == "The capital of France is Paris."


def test_no_phrasing_belongs_to_two_topics(topics: list[Topic]) -> None:
    owners = Counter(
        key
        for topic in topics
        for key in {phrasing.lower().rstrip("?!. ") for phrasing in topic.phrasings}
    )
    assert [key for key, count in owners.items() if count > 1] == []


def test_every_topic_has_five_to_twelve_phrasings(topics: list[Topic]) -> None:
    assert len(topics) >= 90
    assert all(5 <= len(topic.phrasings) <= 12 for topic in topics)


def test_held_out_phrasings_are_the_last_one_or_two() -> None:
    few, many = parse_topics(
        "# Title\n\n## a\n\n- b\n- c\n- d\n- e\n\nOne.\n\nTwo.\n"
        "\n## 1\n\n- 2\n- 3\n- 4\n- 5\n- 6\n- 7\n- 8\n\nX.\n"
    )
    assert few.answer == "One.\n\nTwo."
    assert (few.trained, few.held_out) == (("a", "b", "c", "d"), ("e",))
    assert (many.trained[-1], many.held_out) == ("6", ("7", "8"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("## a\n\n- b\n- c\n- d\n- e\n", "no answer"),
        ("## a\n\n- b\n\nAn answer.\n", "2 phrasings"),
    ],
)
def test_an_incomplete_topic_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(parse_topics(text))
