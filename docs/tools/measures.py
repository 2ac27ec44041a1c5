"""Measure how readable the code is: `python -m docs.tools.measures`.

`tests/docs/test_measures.py` holds the figures to the bounds below. CONTRIBUTING.md says what they
are for.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("backends", "control_plane", "converters")

MAX_FRAGMENTS = 0.02
"""The share of function docstrings that begin with a fragment word."""
MAX_FILE_LINES = 300
MAX_LONG_FILES = 0
"""Files over `MAX_FILE_LINES`."""
MAX_FUNCTION_LINES_P90 = 20
MAX_CONSTANTS = 0
"""Constants with a name that `WRONG_CONSTANT` finds."""
MAX_SPLATTED_TUPLES = 0
"""Calls `f(*(a, b), c)`."""

FRAGMENTS = """
a after all alone also an any as at because before behind both but by each either elsewhere every
everything first for from half here how if in into it its less like likewise many minus more most
much neither no nobody none not nothing of on once one only or other others out over past same since
so some such that the their them then there these they this those to two under until up what
whatever when where whether which while who whoever whom whose why with within without
"""
FRAGMENT_WORDS = frozenset(FRAGMENTS.split())
"""Words that begin a noun phrase or a clause, where a docstring begins with a verb."""

WRONG_CONSTANT = re.compile(r"\b_?(MOST|LEAST|LONGEST|HIGHEST|FEWEST|LOWEST)_")

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its path in the repository, its text and its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    def functions(self) -> Iterator[Function]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


@dataclass(frozen=True, slots=True)
class Measures:
    """The figures of some files. A finding is a place in a file and what stands there."""

    documented: int
    fragments: Sequence[str]
    long_files: Sequence[str]
    function_lines_p90: int
    unannotated: Sequence[str]
    constants: Sequence[str]
    splatted_tuples: Sequence[str]

    @property
    def fragment_share(self) -> float:
        return len(self.fragments) / max(1, self.documented)


def read_sources(packages: Iterable[str] = PACKAGES) -> list[Source]:
    """Return the Python files of `packages`, in order."""
    files = sorted(file for package in packages for file in (ROOT / package).rglob("*.py"))
    texts = ((str(file.relative_to(ROOT)), file.read_text()) for file in files)
    return [Source(path, text, ast.parse(text)) for path, text in texts]


def measure(sources: Sequence[Source]) -> Measures:
    """Return the figures of `sources`."""
    lines = sorted(_lines(function) for source in sources for function in source.functions())
    return Measures(
        documented=sum(_first_word(f) is not None for s in sources for f in s.functions()),
        fragments=[found for source in sources for found in _fragments(source)],
        long_files=[found for source in sources for found in _long_file(source)],
        function_lines_p90=lines[int(0.9 * len(lines))] if lines else 0,
        unannotated=[found for source in sources for found in _unannotated(source)],
        constants=[found for source in sources for found in _constants(source)],
        splatted_tuples=[found for source in sources for found in _splatted_tuples(source)],
    )


def _fragments(source: Source) -> Iterator[str]:
    for function in source.functions():
        word = _first_word(function)
        if word is not None and word.lower() in FRAGMENT_WORDS:
            yield f"{source.path}:{function.lineno}: {function.name}: {word} …"


def _first_word(function: Function) -> str | None:
    """Return the first word of the docstring; None where there is none."""
    words = (ast.get_docstring(function) or "").split()
    return words[0].strip("`*\"'(),.:;") if words else None


def _long_file(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > MAX_FILE_LINES:
        yield f"{source.path}: {lines} lines"


def _lines(function: Function) -> int:
    """Return the lines of a function, without its decorators and its docstring."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    documented = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - documented


def _unannotated(source: Source) -> Iterator[str]:
    for function in source.functions():
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        starred = [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
        missing = [
            argument.arg
            for argument in [*named, *starred]
            if argument.annotation is None and argument.arg not in ("self", "cls")
        ]
        if function.returns is None:
            missing.append("return")
        if missing:
            yield f"{source.path}:{function.lineno}: {function.name}: {', '.join(missing)}"


def _constants(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Store):
            continue
        if WRONG_CONSTANT.match(node.id):
            yield f"{source.path}:{node.lineno}: {node.id}"


def _splatted_tuples(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            splatted = (a.value for a in node.args if isinstance(a, ast.Starred))
            if any(isinstance(value, ast.Tuple) for value in splatted):
                yield f"{source.path}:{node.lineno}: {ast.unparse(node.func)}(*(…), …)"


def worst_files(fragments: Sequence[str], count: int = 15) -> list[tuple[str, int]]:
    """Return the files with most fragments, and how many each has."""
    files = [found.partition(":")[0] for found in fragments]
    return sorted({(f, files.count(f)) for f in files}, key=lambda pair: (-pair[1], pair[0]))[
        :count
    ]


def report(measures: Measures) -> Iterator[str]:
    """Yield the lines that the command prints."""
    share = f"{measures.fragment_share:.1%} of {measures.documented}"
    yield f"function docstrings that begin with a fragment word: {share}"
    for file, count in worst_files(measures.fragments):
        yield f"  {count:4} {file}"
    yield f"lines of a function, 90th percentile: {measures.function_lines_p90}"
    lists = {
        f"files over {MAX_FILE_LINES} lines": measures.long_files,
        "functions without all annotations": measures.unannotated,
        "constants that are no MAX_ or MIN_": measures.constants,
        "calls that splat a literal tuple": measures.splatted_tuples,
    }
    for name, found in lists.items():
        yield f"{name}: {len(found)}"
        yield from (f"  {line}" for line in found)


def main() -> None:
    """Print the report; with `--fragments`, each fragment."""
    measures = measure(read_sources())
    lines = measures.fragments if "--fragments" in sys.argv[1:] else report(measures)
    sys.stdout.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
