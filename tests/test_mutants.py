"""Every mutant finds the code that it changes, so that `make mutants` cannot rot unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.mutants import MUTANTS, Mutant
from tests.mutants.source import MutantError, Package

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def package() -> Package:
    """The package as it is."""
    return Package(CHECKOUT / "middleware" / "pilothouse")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.name)
def test_a_mutants_code_is_found_and_changed(mutant: Mutant, package: Package) -> None:
    file, text = package.mutated(mutant.within, mutant.snippet, mutant.replacement)
    assert text != file.read_text(encoding="utf-8")
    assert all((CHECKOUT / each).is_file() for each in mutant.tests)


def written(folder: Path, *texts: str) -> Package:
    for number, text in enumerate(texts):
        (folder / f"part{number}.py").write_text(text, encoding="utf-8")
    return Package(folder)


def test_neither_layout_nor_file_matters(tmp_path: Path) -> None:
    laid_out = "class A:\n    def f(self):\n        return g(\n            1,  # why\n  2)\n"
    package = written(tmp_path, "x = 1\n", laid_out)
    file, changed = package.mutated("A.f", "g(1, 2)", "g(2, 1)")
    assert file.name == "part1.py"
    assert changed == "class A:\n    def f(self):\n        return g(2, 1)\n"


def test_the_head_of_a_statement_is_changed_alone(tmp_path: Path) -> None:
    package = written(tmp_path, "def f(ä):\n    if ä == 'ö':\n        return ä  # kept\n")
    _, changed = package.mutated("f", "if ä == 'ö': ...", "if False: ...")
    assert changed == "def f(ä):\n    if False:\n        return ä  # kept\n"


def test_statements_in_a_row_are_changed_together(tmp_path: Path) -> None:
    package = written(tmp_path, "def f():\n    a()\n    b()\n    if c:\n        a()\n")
    _, changed = package.mutated("f", "a()\nb()", "if d:\n    b()")
    assert changed == "def f():\n    if d:\n        b()\n    if c:\n        a()\n"


@pytest.mark.parametrize(
    ("within", "snippet", "replacement", "word"),
    [
        ("f", "a + b", "a", "stands 2 times"),
        ("g", "a + b", "a", "stands 0 times"),
        ("f", "return c", "return (", "does not parse"),
        ("f", "a +", "a", "does not parse"),
        ("f", "with x: ...", "with y: ...", "no head"),
    ],
)
def test_what_is_not_there_once_is_an_error(
    within: str, snippet: str, replacement: str, word: str, tmp_path: Path
) -> None:
    text = "def f(a, b, c):\n    with x:\n        c = (a + b) * (a + b)\n    return c\n"
    with pytest.raises(MutantError, match=word):
        written(tmp_path, text).mutated(within, snippet, replacement)
