"""Edits through the engine equal transformers with hooks that use SAELens' own objects.

Shapes: T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pilothouse.artifacts.catalog import Catalog
from pilothouse.artifacts.saes.cache import open_sae
from pilothouse.config import SaeRef
from pilothouse.term import SteerTerm
from tests.artifacts.saes.test_against_saelens import CASES, from_disk, theirs
from tests.reference.hf_hooks import HookedChange, HookedModel
from tests.support.engines.harness import all_logprobs, engine, make_plan
from tests.support.models.tiny_architectures import D_MODEL, make_architecture
from tests.support.parity.steering import LEAST_MISS, LEAST_MOVE, TOLERANCE

pytestmark = [pytest.mark.engine, pytest.mark.full, pytest.mark.timeout(600)]

LAYER, LENGTH, OUTPUT_TOKENS = 1, 21, 5
RESERVED = {"taps": {"operators": ["feature"]}, "auth": {"client_steering": True}}


@pytest.fixture(autouse=True)
def library() -> Any:
    """Imported late, as there."""
    return pytest.importorskip("sae_lens", reason="sae-lens is not installed (extra `sae`)")


def change_of(sae: Any, new: dict[int, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Their object's own codes changed and decoded, its error kept."""

    def change(h_TD: Any) -> Any:
        hidden_TD = torch.from_numpy(np.asarray(h_TD)).float()
        with torch.no_grad():
            codes_TM = sae.encode(hidden_TD)
            error_TD = hidden_TD - sae.decode(codes_TM.clone())
            sae.encode(hidden_TD)  # they keep the stream's norm in between
            changed_TM = codes_TM.clone()
            for feature, rule in new.items():
                changed_TM[:, feature] = rule(codes_TM[:, feature])
            changed_TD = sae.decode(changed_TM) + error_TD
        return changed_TD.double().numpy()

    return change


def on_most(sae: Any, stream_TD: Any) -> list[int]:
    """The features that most tokens of a stream turn on."""
    with torch.no_grad():
        codes_TM = sae.encode(torch.from_numpy(stream_TD).float())
    return [int(each) for each in (codes_TM != 0).sum(dim=0).topk(6).indices]


@pytest.mark.parametrize("forms", [list(CASES)[start::4] for start in range(4)], ids=str)
def test_the_engine_edits_as_their_objects_do(tmp_path: Path, forms: list[str]) -> None:
    make_architecture(tmp_path / "model", "qwen3")
    reference = HookedModel(tmp_path / "model")
    prompt = np.random.default_rng(3).integers(3, 249, LENGTH).tolist()
    stream_TD = reference.run(prompt).streams[LAYER]
    refs, asked = {}, {}
    for number, form in enumerate(forms):
        name, place = f"s{number}", tmp_path / f"s{number}"
        class_name, changes = CASES[form]
        hook = f"blocks.{LAYER}.hook_resid_post"
        theirs(class_name, width=D_MODEL, hook=hook, **changes).save_model(place)
        sae = from_disk(place)
        one, two, three, *others = on_most(sae, stream_TD)
        terms = [
            {"sae": name, "feature": one, "value": 6.0, "on": "all"},
            {"sae": name, "feature": [two], "op": "ablate", "on": "all"},
            {"sae": name, "feature": three, "scale": -2.0, "on": "all"},
        ]
        rules = (lambda f: 0 * f + 6.0, lambda f: 0 * f, lambda f: -2.0 * f)
        right = change_of(sae, dict(zip((one, two, three), rules, strict=True)))
        wrong = change_of(sae, dict(zip(others, rules, strict=True)))
        refs[name], asked[form] = (
            {"path": str(place), "model": "tiny", "average_norm": 6.0},
            (
                terms,
                right,
                wrong,
            ),
        )
    opened = {name: open_sae(name, SaeRef.model_validate(ref)) for name, ref in refs.items()}
    plan = make_plan(Catalog(saes=opened), saes=refs, limits={"max_norm_ratio": 1e6}, **RESERVED)
    with engine(tmp_path / "model", plan) as started:
        for form, (terms, *_) in asked.items():
            steer = tuple(SteerTerm.model_validate(term) for term in terms)
            params = started.params(
                steer=steer, decision_id=form, logprobs=-1, max_tokens=OUTPUT_TOKENS
            )
            started.add(form, prompt, params)
        outputs = started.drain()
    for form, (_, right, wrong) in asked.items():
        tokens = prompt + list(outputs[form].outputs[0].token_ids)
        assert len(tokens) == LENGTH + OUTPUT_TOKENS, form
        got_TV = all_logprobs(outputs[form])
        runs = [[HookedChange(LAYER, right)], [], [HookedChange(LAYER, wrong)]]
        want_TV, plain_TV, wrong_TV = (
            reference.run(tokens, edits).logprobs_TV[LENGTH - 1 : -1] for edits in runs
        )
        assert np.abs(got_TV - want_TV).max() <= TOLERANCE, form
        assert np.abs(plain_TV - want_TV).max() >= LEAST_MOVE, form
        assert np.abs(got_TV - wrong_TV).max() >= LEAST_MISS, form
