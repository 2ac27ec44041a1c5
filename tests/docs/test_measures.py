"""The code keeps to the measures of `docs/tools/measures.py`."""

from __future__ import annotations

import ast

import pytest

from docs.tools import measures
from docs.tools.measures import Measures, Source, measure, read_sources


@pytest.fixture(scope="module")
def measured() -> Measures:
    return measure(read_sources())


def of(text: str) -> Measures:
    return measure([Source("file.py", text, ast.parse(text))])


def test_function_docstrings_begin_with_a_verb(measured: Measures) -> None:
    worst = measures.worst_files(measured.fragments)
    assert measured.fragment_share <= measures.MAX_FRAGMENTS, worst


def test_files_and_functions_are_short(measured: Measures) -> None:
    assert len(measured.long_files) <= measures.MAX_LONG_FILES, measured.long_files
    assert measured.function_lines_p90 <= measures.MAX_FUNCTION_LINES_P90


def test_everything_is_annotated(measured: Measures) -> None:
    assert measured.unannotated == []


def test_constants_are_named_max_or_min(measured: Measures) -> None:
    assert len(measured.constants) <= measures.MAX_CONSTANTS, measured.constants


def test_no_call_splats_a_literal_tuple(measured: Measures) -> None:
    calls = measured.splatted_tuples
    assert len(calls) <= measures.MAX_SPLATTED_TUPLES, calls


@pytest.mark.parametrize(
    ("docstring", "fragments"),
    [("Return it.", 0), ("`model` is loaded.", 0), ("Whether it is.", 1), ("``The`` rest.", 1)],
)
def test_what_counts_as_a_fragment(docstring: str, fragments: int) -> None:
    found = of(f'def f() -> None:\n    """{docstring}"""\n')
    assert (found.documented, len(found.fragments)) == (1, fragments)


def test_what_else_counts() -> None:
    found = of(
        "_MOST_KEPT: int = 1\nALMOST_ALL = 2\n\ndef f(self, a, *b: int):\n    g(*(a, b), 1)\n"
    )
    assert found.constants == ["file.py:1: _MOST_KEPT"]
    assert found.unannotated == ["file.py:4: f: a, return"]
    assert found.splatted_tuples == ["file.py:5: g(*(…), …)"]
    assert found.function_lines_p90 == 2
