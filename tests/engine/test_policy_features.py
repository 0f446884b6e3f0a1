"""Policies' edits of features of any SAE: what the textbook says, one policy after another.

Shapes: T tokens, D width, P policy targets, K rows of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.edits.program import Program, compile_program
from pilothouse.edits.sources import Sources
from pilothouse.engine.plan.tap_plan import EditPlan
from pilothouse.engine.worker.kernel import PolicyTables, policy_delta
from pilothouse.engine.worker.policy_edits import policy_programs, stage_tables
from pilothouse.engine.worker.sae_weights import sae_tables
from pilothouse.engine.worker.tables import named_tensors, policies_on, policy_tables
from pilothouse.errors import ConfigError
from pilothouse.term import SteerTerm
from tests.edits.test_sae import FORMS, loaded, made_as, some_feature
from tests.engine.worker.test_kernel import Ranks
from tests.reference.sae import Book
from tests.support.artifacts.sae_files import FEATURES, WIDTH, hidden
from tests.support.engines.catalogs import policy

CPU = torch.device("cpu")
WHOLE = slice(0, WIDTH)
LINEAR = [form for form in FORMS if "polynomial" not in form]


@pytest.fixture(scope="module")
def saes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Book, Sae]]:
    """A book and its SAE of each form."""
    books = {form: made_as(form) for form in LINEAR}
    return {
        form: (made, loaded(tmp_path_factory.mktemp("sae"), made)) for form, made in books.items()
    }


def program(saes: Mapping[str, tuple[Book, Sae]], form: str, **term: Any) -> Program:
    sources = Sources(edits={}, saes={name: sae for name, (_, sae) in saes.items()})
    made = compile_program([SteerTerm.model_validate({"sae": form} | term)], sources)
    assert made is not None
    return made


def tables(
    saes: Mapping[str, tuple[Book, Sae]], programs: list[Program], part: slice = WHOLE
) -> PolicyTables:
    """What a tap of these policies has, as the engine makes it."""
    known = {sae.digest: sae for _, sae in saes.values()}
    tap = next(iter(programs[0].layers))
    arrays, rows = stage_tables(programs, tap, WIDTH, known)
    latents = [
        sae_tables(known[each.sae], part, CPU) for each in EditPlan(policy_rows=rows).policy_latents
    ]
    made = policy_tables(arrays, part, rows, CPU, total=WIDTH, latents=latents)
    found = policies_on(named_tensors(made).__getitem__, made)
    assert found is not None
    return found


def ran(h_TD: Any, made: PolicyTables, strengths_TP: Any) -> Any:
    narrow_TD = torch.from_numpy(h_TD.astype(np.float32))
    strengths = torch.from_numpy(np.asarray(strengths_TP, np.float32))
    return h_TD + policy_delta(narrow_TD, strengths, made).numpy()


def edited(made: Book, h_TD: Any, rules: Mapping[int, tuple[str, float, float | None]]) -> Any:
    return np.stack([made.edited(h_D, dict(rules)) for h_D in h_TD])


def stream() -> Any:
    return hidden(24, 1).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("form", LINEAR)
def test_a_policys_edit_of_a_feature_is_the_textbooks(
    saes: dict[str, tuple[Book, Sae]], form: str
) -> None:
    (made, sae), h_TD = saes[form], stream()
    feature = some_feature(sae, h_TD)
    loud = program(saes, form, feature=[feature, (feature + 1) % FEATURES], value=4.0)
    quiet = program(saes, form, feature=feature, op="ablate")
    strengths_TP = np.zeros((len(h_TD), 2))
    strengths_TP[::3, 0], strengths_TP[1::3, 1] = 1.0, 1.0
    got_TD = ran(h_TD, tables(saes, [loud, quiet]), strengths_TP)
    set_both = {each % FEATURES: ("set", 4.0, None) for each in (feature, feature + 1)}
    assert got_TD[::3] == pytest.approx(edited(made, h_TD[::3], set_both), abs=1e-4)
    gone_TD = edited(made, h_TD[1::3], {feature: ("ablate", 0.0, None)})
    assert got_TD[1::3] == pytest.approx(gone_TD, abs=1e-4)
    assert np.abs(gone_TD - h_TD[1::3]).max() > 0.05
    assert np.array_equal(got_TD[2::3], h_TD[2::3]), "where no policy holds nothing moves a bit"


@pytest.mark.parametrize("form", ["abstopk", "topk", "topk of layer norm", "pursuit"])
def test_the_later_of_two_policies_on_a_chosen_feature_has_the_last_word(
    saes: dict[str, tuple[Book, Sae]], form: str
) -> None:
    (made, sae), h_TD = saes[form], stream()
    feature = some_feature(sae, h_TD)
    programs = [program(saes, form, feature=feature, value=value) for value in (3.0, 5.0)]
    got_TD = ran(h_TD, tables(saes, programs), np.ones((len(h_TD), 2)))
    wanted_TD = edited(made, h_TD, {feature: ("set", 5.0, None)})
    assert got_TD == pytest.approx(wanted_TD, abs=2e-4)


@pytest.mark.parametrize(
    ("first", "second", "is_chosen_before"),
    [("topk", "jumprelu", False), ("jumprelu", "topk", True), ("abstopk", "topk centred", True)],
)
def test_thresholds_see_what_earlier_policies_wrote_and_choices_do_not(
    saes: dict[str, tuple[Book, Sae]], first: str, second: str, is_chosen_before: bool
) -> None:
    h_TD = stream()
    (one, one_sae), (other, other_sae) = saes[first], saes[second]
    feature, later = some_feature(one_sae, h_TD), some_feature(other_sae, h_TD)
    programs = [
        program(saes, first, feature=feature, value=6.0),
        program(saes, second, feature=later, op="scale", scale=3.0),
    ]
    got_TD = ran(h_TD, tables(saes, programs), np.ones((len(h_TD), 2)))
    set_TD = edited(one, h_TD, {feature: ("set", 6.0, None)})
    rule = {later: ("scale", 3.0, None)}
    after_TD, before_TD = edited(other, set_TD, rule), set_TD + edited(other, h_TD, rule) - h_TD
    assert np.abs(after_TD - before_TD).max() > 0.05, "else the order would show nothing"
    wanted_TD = before_TD if is_chosen_before else after_TD
    assert got_TD == pytest.approx(wanted_TD, abs=2e-4)


@pytest.mark.parametrize("form", ["topk", "abstopk of constant norm", "jumprelu of layer norm"])
def test_ranks_that_share_a_token_carry_it_out_as_one(
    saes: dict[str, tuple[Book, Sae]], form: str
) -> None:
    h_TD = stream()
    feature = some_feature(saes[form][1], h_TD)
    programs = [program(saes, form, feature=feature, value=4.0)]
    narrow_TD = torch.from_numpy(h_TD.astype(np.float32))
    strengths_TP, ranks = torch.ones(len(h_TD), 1), Ranks(2, WIDTH)

    def one_rank(part: slice) -> Tensor:
        own = tables(saes, programs, part)
        return policy_delta(narrow_TD[:, part], strengths_TP, own, ranks.all_reduce)

    wanted_TD = ran(h_TD, tables(saes, programs), strengths_TP) - h_TD
    assert np.abs(wanted_TD).max() > 0.05
    assert np.abs(ranks.run(one_rank) - wanted_TD).max() < 1e-4


def test_a_decoder_that_is_not_linear_is_refused(tmp_path: Path) -> None:
    sae = loaded(tmp_path, made_as("topk polynomial"))
    then = {"action": "steer", "sae": "poly", "feature": 3, "value": 2.0}
    rule = {"id": "r", "phase": "output", "when": "x >= 0.5", "then": then}
    with pytest.raises(ConfigError, match=r"policy p, rule r: .*whose decoder is not linear"):
        policy_programs([policy("p", [rule], {"x": "now/now"})], Sources({}, saes={"poly": sae}))
