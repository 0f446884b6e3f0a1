"""Every table of the docs that is made from code is what the code says now."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.generated_docs import BLOCK, DOCS, TABLES, generated

PAGES = {
    str(path.relative_to(DOCS)): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
}
WITH_TABLES = [name for name, page in PAGES.items() if BLOCK.search(page)]


@pytest.mark.parametrize("name", WITH_TABLES)
def test_a_page_has_the_tables_that_the_code_makes(name: str) -> None:
    assert generated(PAGES[name]) == PAGES[name], "run make docs ARGS=--write"


def test_each_table_stands_on_exactly_one_page() -> None:
    names = [found["name"] for page in PAGES.values() for found in BLOCK.finditer(page)]
    assert sorted(names) == sorted(TABLES)


def test_a_table_that_differs_is_seen() -> None:
    [page] = [text for text in PAGES.values() if "generated: verbs" in text]
    assert generated(page.replace("serve the demo", "sell the demo")) == page


def test_the_readme_is_short_and_says_first_that_no_gpu_was_used() -> None:
    lines = (Path(DOCS).parent / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 100
    assert any("Not run on a GPU yet" in line for line in lines[:8])
