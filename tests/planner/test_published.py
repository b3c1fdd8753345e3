"""The page explained: its document holds what the plan says now, and how far off that is stays known."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.planner.published import OFFICIAL, ROWS, TABLES, as_ringlight, errors, prose

PAGE = Path(__file__).parents[2] / "docs" / "the_page.md"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_the_document_has_the_tables_that_the_plan_prints(table: object) -> None:
    """`python -m tests.planner.published` prints them anew."""
    assert "\n".join(table()) in PAGE.read_text(encoding="utf-8")  # type: ignore[operator]


def test_the_documents_sentences_have_the_figures_of_its_tables() -> None:
    document = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert not [said for said in prose() if said not in document]


def test_one_card_is_predicted_within_a_fifth_where_software_is_as_lean() -> None:
    """The official code, the page and SGLang's check on one GPU. vLLM-Omni's row is diffusers, which takes twice as
    long as its operations need; that one is off by half, and the document says so."""
    known = errors()
    for key in ((OFFICIAL, "u1r1", "Total"), ("the page", "u1r1", "Denoising"), ("the page", "u1r1", "Decoding")):
        assert abs(known[key][0]) < 0.22, key
    assert abs(known["SGLang's H100 check", "u1r1", "Denoising"][0]) < 0.22
    assert abs(known["SGLang's H100 check", "u1r1", "Total"][0]) < 0.22


def test_many_cards_are_predicted_within_a_fifth_once_nothing_is_hidden_or_shared() -> None:
    """The official code waits for its exchanges, and decodes on one card."""
    known = errors()
    for name in ("u4r1", "u8r1"):
        assert abs(known[OFFICIAL, name, "Total"][1]) < 0.2
        assert known[OFFICIAL, name, "Total"][0] < -0.4  # what Ringlight is expected to save there


def test_rows_are_whole() -> None:
    for row in ROWS:
        assert set(row.seconds) <= set(as_ringlight(row))
