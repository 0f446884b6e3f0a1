"""A plan lays down what a profile needs and nothing else; with that alone the profile is exact.

Shapes: T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pilothouse.artifacts.catalog import Catalog
from pilothouse.artifacts.saes import cache
from pilothouse.edits.program import compile_program
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.tap_plan import EditPlan
from pilothouse.engine.scheduler.messages import Upload
from pilothouse.engine.worker.buffers import TapBuffers
from pilothouse.engine.worker.kernel import edit_delta
from pilothouse.term import SteerTerm
from tests.edits.test_sae import FORMS, loaded, made_as, some_feature
from tests.support.artifacts.sae_files import WIDTH, hidden
from tests.support.engines.harness import make_plan
from tests.support.models.tiny_architectures import D_MODEL
from tests.support.parity.operators import CASES, CATALOGUE, LIMITS, with_saes

CPU = torch.device("cpu")
SLOT = 2


def check(plan: Plan, terms: Sequence[SteerTerm], h_TD: np.ndarray) -> list[EditPlan]:
    """What the plan's own tables do is what the program says; the plans of its taps."""
    program = compile_program(terms, plan.sources)
    assert program is not None
    whole = {each.tap: slice(0, each.width) for each in plan.body.taps}
    made = TapBuffers.allocate(plan, whole, max_tokens=len(h_TD), device=CPU)
    made.upload(Upload(SLOT, program.layers))
    saes = {each.digest: each for each in plan.sources.saes.values()}
    count, found = len(h_TD), []
    for tap, edit in program.layers.items():
        planned = plan.taps()[tap].edits
        assert planned is not None
        found.append(planned)
        got_TD = edit_delta(
            torch.from_numpy(h_TD),
            torch.full((count,), SLOT),
            torch.full((count,), program.coefficient),
            made.tables[tap],
        ).numpy()
        wanted_TD = edit.apply(h_TD, program.coefficient, saes) - h_TD
        assert np.abs(wanted_TD).max() > 0.01
        assert got_TD == pytest.approx(wanted_TD, abs=2e-4, rel=1e-4)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda each: each.name)
def test_of_every_operator(case: Any, tmp_path: Path) -> None:
    catalog, saes = with_saes(CATALOGUE, tmp_path)
    profiles = {"demo:x": {"steer": list(case.terms)}}
    named = {
        "vectors": {name: {"path": name} for name in catalog.vectors},
        "probes": {name: {"path": name} for name in catalog.probes},
    }
    plan = make_plan(catalog, limits=LIMITS, saes=saes, profiles=profiles, **named)
    h_TD = np.random.default_rng(5).normal(size=(16, D_MODEL)).astype(np.float32)
    terms = [SteerTerm.model_validate(each) for each in case.terms]
    for planned in check(plan, terms, h_TD):
        assert planned.rank <= 8


@pytest.mark.parametrize("form", FORMS)
def test_of_features_of_every_kind_of_sae(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = loaded(tmp_path, made_as(form))
    monkeypatch.setitem(cache._OPEN, sae.digest, sae)
    h_TD = hidden().astype(np.float32)
    feature = some_feature(sae, h_TD.astype(np.float64))
    term = {"sae": "s", "feature": [feature, (feature + 1) % 40], "value": 4.0}
    plan = make_plan(
        Catalog(saes={"s": sae}),
        d_model=WIDTH,
        num_layers=6,
        model_id=sae.model_id,
        saes={"s": {"path": str(tmp_path), "average_norm": sae.average_norm or 7.0}},
        profiles={"demo:x": {"steer": [term]}},
    )
    [planned] = check(plan, [SteerTerm.model_validate(term)], h_TD)
    assert planned.rank == 2
