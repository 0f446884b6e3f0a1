"""Links of every page, and pages that code and configuration name, lead to files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
TREES = ("docs", "deploy", "loadtest", "examples", "probes", "policies")
PAGES = [
    *sorted(CHECKOUT.glob("*.md")),
    *(page for tree in TREES for page in sorted((CHECKOUT / tree).rglob("*.md"))),
]
CODE = [
    path
    for tree in ("middleware", "scripts", "deploy", "examples", "loadtest", "policies")
    for kind in ("*.py", "*.yml", "*.yaml")
    for path in sorted((CHECKOUT / tree).rglob(kind))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_a_pages_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)", text)
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_pages_that_code_names_are_there() -> None:
    named = {
        found
        for path in CODE
        for found in re.findall(r"(?<![\w/])docs/[\w/-]+\.md", path.read_text(encoding="utf-8"))
    }
    assert "docs/reference/http.md" in named
    assert sorted(each for each in named if not (CHECKOUT / each).is_file()) == []
