"""The file of docs/contributing/adding-an-operator.md steers an engine as it stands on the page.

Shapes: T tokens, D width.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pilothouse import term as terms
from pilothouse.cli.plan_report import tables_report
from pilothouse.edits.layer import affine_of
from pilothouse.edits.operator import DEFAULTS, OPERATORS
from pilothouse.edits.program import compile_program
from pilothouse.edits.table import KINDS, Table
from pilothouse.engine.ops import DEVICE_KINDS
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.tap_plan import EditPlan
from pilothouse.engine.plan.validate import capacity_problem, refuse_unreserved
from pilothouse.engine.worker.kernel import edit_delta
from pilothouse.engine.worker.tables import allocate, upload
from pilothouse.errors import ConfigError, RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import Tap
from tests.edits.test_operators import AT, SOURCES
from tests.reference.hf_hooks import HookedModel
from tests.support.engines.catalogs import policy
from tests.support.engines.harness import engine, make_plan
from tests.support.models.tiny_architectures import make_architecture
from tests.support.parity.operators import ALL, CATALOGUE, OUTPUT, PROMPT, Case, check

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "contributing" / "adding-an-operator.md"
LONGEST = 60
CPU = torch.device("cpu")
GRANT = {
    "taps": {"operators": ["add", "ablate", "scale_stream"]},
    "auth": {"client_steering": True},
}


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[Table]]:
    """The page's file, imported; everything is as before once the module's tests are done."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) <= LONGEST
    path = tmp_path_factory.mktemp("operator") / "scale_stream.py"
    path.write_text(code, encoding="utf-8")
    registries = (KINDS, DEVICE_KINDS, OPERATORS, DEFAULTS)
    before, names = [dict(each) for each in registries], set(terms._REGISTERED)
    spec = importlib.util.spec_from_file_location("scale_stream", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        yield module.Scaling
    finally:
        del sys.modules[spec.name]
        for registry, kept in zip(registries, before, strict=True):
            registry.clear()
            registry.update(kept)
        terms._REGISTERED.clear()
        terms._REGISTERED.update(names)


def scaled(value: float, **more: object) -> SteerTerm:
    term = {"vector": "a", "op": "scale_stream", "value": value, "on": "all"}
    return SteerTerm.model_validate(term | more)


def test_a_term_can_name_it_once_it_is_registered_and_no_other_word() -> None:
    with pytest.raises(ValidationError, match="Input should be 'add', 'add_below'"):
        scaled(2.0)


@pytest.mark.usefixtures("operator")
def test_it_is_its_own_definition() -> None:
    program = compile_program([scaled(1.5)], SOURCES)
    assert program is not None
    h_TD = np.random.default_rng(3).normal(size=(5, SOURCES.edits["a"].width)).astype(np.float32)
    assert program.layers[AT].apply(h_TD, program.coefficient) == pytest.approx(1.5 * h_TD)
    assert "no constant" in str(affine_of(program.layers[AT], 1.0))


@pytest.mark.usefixtures("operator")
def test_the_device_does_what_numpy_does_each_token_by_itself() -> None:
    width = SOURCES.edits["a"].width
    lines = [
        [scaled(1.5)],
        [scaled(-0.3), SteerTerm(vector="b", op="ablate", on="all")],
        [scaled(0.8, restore_norm=True), SteerTerm(vector="b", scale=2.0, on="all")],
    ]
    programs = [compile_program(line, SOURCES) for line in lines]
    flags = frozenset({"scaling", "restores_norm"})
    tables = allocate(EditPlan(rank=2, tables=flags), slots=len(lines) + 1, width=width, device=CPU)
    for slot, program in enumerate(programs, 1):
        assert program is not None
        upload(tables, slot, program.layers[AT])
    draw = np.random.default_rng(4)
    h_TD = draw.normal(size=(16, width)).astype(np.float32)
    slot_T, strength_T = np.arange(16) % 4, draw.normal(size=16).astype(np.float32)
    got_TD = edit_delta(
        torch.from_numpy(h_TD), torch.from_numpy(slot_T), torch.from_numpy(strength_T), tables
    ).numpy()
    for t, slot in enumerate(slot_T):
        token_1D = h_TD[t : t + 1]
        if slot == 0:
            assert not got_TD[t].any()
            continue
        edit = programs[slot - 1].layers[AT]  # type: ignore[union-attr]
        wanted_1D = edit.apply(token_1D, float(strength_T[t])) - token_1D
        assert got_TD[t] == pytest.approx(wanted_1D[0], abs=1e-5)


def test_programs_differ_by_their_number_and_others_keep_their_digest(
    operator: type[Table],
) -> None:
    def digest(*line: SteerTerm) -> str:
        program = compile_program(line, SOURCES)
        assert program is not None
        return program.digest

    assert digest(scaled(1.5)) != digest(scaled(1.6))
    added = SteerTerm(vector="a", scale=1.0, on="all")
    with_it = digest(added)
    del KINDS[operator.name]
    try:
        assert compile_program((added,), SOURCES) is not None
        assert digest(added) == with_it
    finally:
        KINDS[operator.name] = operator


@pytest.mark.usefixtures("operator")
def test_it_must_be_reserved_and_is_shown_where_it_is() -> None:
    plan, without = make_plan(CATALOGUE, **GRANT), make_plan(CATALOGUE, auth=GRANT["auth"])
    term = scaled(2.0, vector="v")
    refuse_unreserved(term, plan, "steer.0")
    with pytest.raises(RequestError, match=r"steer\.0\.op: got 'scale_stream', available are"):
        refuse_unreserved(term, without, "steer.0")
    program = compile_program([term], without.sources)
    assert program is not None
    assert capacity_problem(program, plan.taps()) is None
    assert "needs a scaled stream, none reserved" in str(capacity_problem(program, without.taps()))
    tap = Plan.from_wire(plan.to_wire()).taps()[Tap(1, "resid_post")]
    assert tap.edits is not None and "scaling" in tap.edits.tables
    assert {each["scaling"] for each in tables_report(plan, 1024)["taps"]} == {True}


@pytest.mark.usefixtures("operator")
def test_what_cannot_be_done_with_it_is_refused() -> None:
    with pytest.raises(RequestError, match="'b': a second scaling at layer 2, want one"):
        compile_program([scaled(1.5), scaled(2.0, vector="b")], SOURCES)
    then = {"action": "steer", "vector": "v", "op": "scale_stream", "value": 2.0}
    rule = {"id": "r", "phase": "output", "when": "x >= 0.5", "then": then}
    with pytest.raises(ConfigError, match="it scales the stream; policies steer with vectors"):
        make_plan(CATALOGUE, (policy("push", [rule], {"x": "p/all"}),))


@pytest.mark.engine
@pytest.mark.usefixtures("operator")
def test_it_steers_an_engine_as_transformers_with_hooks(tmp_path: Path) -> None:
    make_architecture(tmp_path, "qwen3")
    term = {"vector": "v", "op": "scale_stream", "value": 0.1, "layers": [1]}
    cases = [
        Case(name, ({**term, "on": name},), lambda _: lambda h_TD: 0.1 * h_TD, where)
        for name, where in (("all", ALL), ("prompt", PROMPT), ("output", OUTPUT))
    ]
    plan = make_plan(CATALOGUE, **GRANT)
    with engine(tmp_path, plan, max_num_batched_tokens=40) as started:
        errors = check(started, HookedModel(tmp_path), cases)
    assert max(errors.values()) <= 1e-4
