"""The generated pages of the manual, and its links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backends.contract import encoder, tensors
from backends.contract.kinds import RequestKind
from docs.tools import tensor_texts
from docs.tools.reference import DOCS, PAGES
from docs.tools.tensor_page import ENCODER_OUTPUTS
from tests.support.server import ROOT

PAGES_WITH_LINKS = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_current(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "run `make docs`"


def test_each_tensor_has_a_text_and_no_text_is_left_over() -> None:
    assert tensor_texts.INPUTS.keys() == {spec.name for spec in tensors.INPUTS}
    assert tensor_texts.OUTPUTS.keys() == {spec.name for spec in tensors.OUTPUTS}
    assert tensor_texts.ENCODER_INPUTS.keys() == {spec.name for spec in encoder.INPUTS}
    assert tensor_texts.ENCODER_OUTPUTS.keys() == {spec.name for spec in ENCODER_OUTPUTS}
    assert tensor_texts.KINDS.keys() == {str(kind) for kind in RequestKind}
    assert tensor_texts.INPUTS.keys() | tensor_texts.OUTPUTS.keys() >= tensor_texts.UPSTREAM


@pytest.mark.parametrize("page", PAGES_WITH_LINKS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for file, anchor in LINK.findall(page.read_text()):
        target = (page.parent / file) if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{file}#{anchor}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and Python-Markdown make them."""
    headings = HEADING.findall(page.read_text())
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}
