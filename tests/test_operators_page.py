"""docs/reference/operators has a page for every operator; the demo answers every example."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

from pilothouse.artifacts.manifest import TransformForm
from pilothouse.demo.smol import smol_folder
from pilothouse.demo.wheels import IndexUnreachable
from pilothouse.edits.operator import DEFAULTS
from pilothouse.edits.operators import EXTRAS, OPERATORS
from pilothouse.edits.ops import KINDS
from pilothouse.edits.row import ROWS
from pilothouse.engine.ops import DEVICE_KINDS
from pilothouse.engine.plan.table_size import MIB
from pilothouse.engine.plan.tap_plan import EditPlan
from pilothouse.term import Positions, SteerTerm
from pilothouse.types import Operator, Reserved
from tests.support.servers.server_process import ServerProcess, free_port, started

CHECKOUT = Path(__file__).parent.parent
FOLDER = CHECKOUT / "docs" / "reference" / "operators"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
INDEX = PAGES.pop("README")
FEATURES = set(EXTRAS)
FORMS = ("vector", *get_args(TransformForm))
HEADINGS = ("takes", "made for", "stage", "tables", "policies", "source")


def examples_script() -> ModuleType:
    """scripts/operator_examples.py, which is no package."""
    path = CHECKOUT / "scripts" / "operator_examples.py"
    spec = importlib.util.spec_from_file_location("operator_examples", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SCRIPT = examples_script()


def terms_of(page: str) -> list[SteerTerm]:
    return [
        SteerTerm.model_validate(term)
        for example in SCRIPT.examples(page)
        for term in example.terms
    ]


def index_rows() -> dict[str, list[str]]:
    """The index's table of operators: name -> cells."""
    found = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\) \|(.*)\|$", INDEX, re.MULTILINE)
    assert all(name == linked for name, linked, _ in found)
    return {name: [cell.strip() for cell in cells.split("|")] for name, _, cells in found}


def test_every_operator_and_feature_has_a_page_and_every_page_is_of_one() -> None:
    reserved = {name for each in get_args(Reserved) for name in get_args(each) or (each,)}
    assert set(OPERATORS) == set(get_args(Operator))
    assert set(PAGES) == set(OPERATORS) | FEATURES == reserved


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_it_takes_where_it_stands_what_it_costs_and_where_it_is_from(
    name: str,
) -> None:
    page = PAGES[name]
    assert page.startswith(f"# `{name}`\n\n    h' = ")
    rows = re.findall(r"^\| ([a-z ]+) \| (.+) \|$", page, re.MULTILINE)
    assert tuple(key for key, _ in rows[: len(HEADINGS)]) == HEADINGS
    for part in ("**When.**", "**Together with others.**", "**Limits.**", "## On the real model"):
        assert page.count(part) == 1


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_its_own_operator_or_feature_with_what_came_of_it(name: str) -> None:
    examples = list(SCRIPT.examples(PAGES[name]))
    assert examples and all(each.text is not None for each in examples)
    for example in examples:
        answers = example.text.splitlines()[len(example.messages) :]
        assert [line.partition(":")[0] for line in answers] == [
            "plain",
            *(str(number) for number, _ in enumerate(example.terms, 1)),
        ]
    for term in terms_of(PAGES[name]):
        features = {
            "feature": term.sae is not None,
            "gate": term.gate is not None,
            "restore_norm": bool(term.restore_norm),
            "token_unit": term.unit == "token",
        }
        default = term.op is None
        assert features[name] if name in FEATURES else default or term.op == name


@pytest.mark.parametrize("name", OPERATORS)
def test_the_index_says_which_forms_an_operator_takes_and_what_beside(name: str) -> None:
    _, takes, *forms, policies = index_rows()[name]
    spec = OPERATORS[name]
    told = {form for form, cell in zip(FORMS, forms, strict=True) if cell}
    defaults = {form for form, cell in zip(FORMS, forms, strict=True) if cell == "default"}
    assert told == set(spec.forms)
    assert defaults == {form for form, operator in DEFAULTS.items() if operator == name}
    assert ("`scale`" in takes) == spec.takes_scale
    assert ("`scale`" in takes and "`scale`?" not in takes) == spec.needs_scale
    assert ("`value`" in takes) == spec.takes_value
    assert ("`unit`" in takes) == spec.takes_unit
    able = {form for form, needs in spec.forms.items() if needs <= {ROWS}}
    some = "yes" if able == set(spec.forms) else ", ".join(sorted(able)) or "no"
    assert policies.replace("-", "") == some


def test_the_index_names_every_operator_and_feature_and_way_of_naming_positions() -> None:
    assert set(index_rows()) == set(OPERATORS)
    assert [name for name in FEATURES if f"[`{name}`]({name}.md)" not in INDEX] == []
    assert [name for name in Positions.model_fields if f"{name}:" not in INDEX] == []


def memory_rows() -> dict[str, tuple[str, str]]:
    """The index's table of memory: what is reserved -> numbers per slot, and MiB of an example."""
    section = INDEX.partition("## What must be reserved")[2].partition("\n## ")[0]
    found = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([0-9.]+) MiB \|$", section, re.MULTILINE)
    return {told: (numbers, size) for told, numbers, size in found}


def names_that_need(need: str) -> set[str]:
    """The operators and extras that a tap must have a kind of table for."""
    operators = {
        name
        for name, spec in OPERATORS.items()
        if any(need in needs for needs in spec.forms.values())
    }
    return operators | {name for name, extra in EXTRAS.items() if need in extra.needs}


@pytest.mark.parametrize("name", DEVICE_KINDS)
def test_the_index_tells_the_memory_that_each_kind_of_table_takes(name: str) -> None:
    width, rank = 4096, 8
    flags = frozenset(flag.name for flag in KINDS[name].flags) - {"statistics"}
    edits = EditPlan(rank=rank if name == ROWS else 0, tables=flags)
    size = DEVICE_KINDS[name].slot_bytes(edits, width)
    needs = {ROWS} if name == ROWS else flags
    names = {each for need in needs for each in names_that_need(need)}
    [(numbers, told)] = [
        row
        for what, row in memory_rows().items()
        if (names & set(re.findall(r"`(\w+)`", what)) if needs else what.startswith(name))
    ]
    assert told == f"{65 * size / MIB:.1f}"
    formula = re.sub(r"(\d) D|\bD\b", lambda each: f"{each[1] or 1} * {width}", numbers)
    formula = formula.replace("R (", "R * (").replace("R", str(rank))
    assert eval(formula) * 4 == size


def test_links_between_pages_lead_somewhere() -> None:
    for text in (INDEX, *PAGES.values()):
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (FOLDER / target).is_file(), target


def reaches_the_answer(term: dict[str, Any]) -> bool:
    """Whether some fed token of a short answer is meant for sure."""
    return "positions" not in term or term["on"] == "output"


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server that the index says how to start, on a free port."""
    try:
        model = smol_folder(lambda _: None)
    except IndexUnreachable as error:
        if os.environ.get("PILOTHOUSE_REQUIRE_TOOLS"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    [command] = re.findall(r"```bash\n(pilothouse serve .*?)```", INDEX, re.DOTALL)
    given = command.replace("\\\n", " ").replace('"$(pilothouse demo --fetch-only)"', str(model))
    config = "examples/smol/operators.yaml"
    words = shlex.split(given.replace(config, str(CHECKOUT / config)))[1:]
    port = free_port()
    log = tmp_path_factory.mktemp("operators") / "server.txt"
    with started([*words, "--port", str(port)], port, log, {}) as server:
        yield server


@pytest.mark.full
@pytest.mark.server
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["README", *PAGES])
def test_the_real_model_answers_every_example_as_its_page_says(
    name: str, real_server: ServerProcess
) -> None:
    ask = SCRIPT.asker(real_server.url)
    for example in SCRIPT.examples(PAGES.get(name, INDEX)):
        for term in example.terms:
            steered = ask(example.messages, [term])[1]
            if reaches_the_answer(term):
                assert steered[term.get("vector") or term["sae"]] > 0, term
        if example.text is not None:
            told = "run scripts/operator_examples.py and look at what changed"
            assert SCRIPT.answered(example, ask) == example.text, told
