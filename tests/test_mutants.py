"""Every mutant finds the code that it changes, so that `make mutants` cannot rot unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.mutants import MUTANTS, Mutant

CHECKOUT = Path(__file__).parent.parent
PACKAGE = CHECKOUT / "middleware" / "pilothouse"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.name)
def test_a_mutants_snippet_stands_exactly_once(mutant: Mutant) -> None:
    text = (PACKAGE / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.snippet) == 1
    assert mutant.snippet != mutant.replacement
    assert all((CHECKOUT / each).is_file() for each in mutant.tests)
