"""A term that names SAE features: what it asks, what is refused, and how far it may carry h.

Shapes: T tokens, D width, M features.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.artifacts.vector import build_vector
from pilothouse.edits.feature import feature_edits, feature_growth
from pilothouse.edits.program import compile_program, growth
from pilothouse.edits.sae import FeatureEdit
from pilothouse.edits.sources import Sources
from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import Tap
from tests.reference.sae import Book
from tests.support.artifacts import sae_files as files
from tests.support.artifacts.sae_files import FEATURES, book, hidden

NORM = 7.0
MAXIMA = np.linspace(0.0, 3.9, FEATURES)
LABELS = {"3": "the tide", "4": "tides", "8": "cargo", "9": "cargo"}


def term(**fields: Any) -> SteerTerm:
    return SteerTerm.model_validate({"sae": "s", "on": "all"} | fields)


def load(folder: Path, made: Book, norm: float | None = NORM, *, beside: bool = True) -> Sae:
    place = files.saelens(folder, made)
    if beside:
        files.save(place / "features.safetensors", {"max_act": MAXIMA})
        files.write_json(place / "labels.json", LABELS)
    return load_sae("s", place, "saelens", SaeHints(average_norm=norm))


@pytest.fixture
def sae(tmp_path: Path) -> Sae:
    return load(tmp_path / "s", book("jumprelu"))


@pytest.mark.parametrize(
    ("fields", "edits"),
    [
        ({"feature": 3, "value": 2.0}, [FeatureEdit(3, "set", 2.0)]),
        ({"feature": [3, 5], "scale": 0.5}, [FeatureEdit(f, "scale", 0.5) for f in (3, 5)]),
        ({"feature": "the tide", "op": "ablate"}, [FeatureEdit(3, "ablate")]),
        (
            {"feature": 3, "op": "floor", "value": 1.5, "unit": "max_act", "above": 0.1},
            [FeatureEdit(3, "floor", 1.5, 0.1, "max_act")],
        ),
    ],
)
def test_a_term_says_what_becomes_of_each_feature(
    sae: Sae, fields: dict[str, Any], edits: list[FeatureEdit]
) -> None:
    assert feature_edits(term(**fields), sae) == edits


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"feature": 3}, "value: got nothing, want a number for 'set'"),
        ({"feature": 3, "op": "scale"}, "scale: got nothing"),
        ({"feature": 3, "op": "scale", "value": 2.0}, "scale: got nothing"),
        ({"feature": 3, "value": 1.0, "scale": 2.0}, "scale: got 2, but 'set' takes none"),
        ({"feature": 3, "op": "ablate", "value": 2.0}, "value: got 2, but 'ablate' takes none"),
        ({"feature": 3, "op": "reflect"}, "op: got 'reflect', want one of"),
        ({"feature": 3, "value": 1.0, "unit": "residual"}, "unit: got 'residual', want one of"),
        ({"feature": 3, "scale": 2.0, "unit": "max_act"}, "'scale' counts nothing in it"),
        ({"feature": 3, "value": 1.0, "gate": {"probe": "p"}}, "gate: got one"),
        ({"feature": 3, "value": 1.0, "sites": "writers"}, "sites: got 'writers'"),
        ({"feature": "tide", "value": 1.0}, "no label is 'tide', near are ['tides'"),
        ({"feature": "cargo", "value": 1.0}, "label 'cargo' is of features [8, 9]"),
        ({"feature": FEATURES, "value": 1.0}, f"got feature {FEATURES}, want 0 to"),
        ({"feature": [3, 3], "value": 1.0}, "feature 3 is edited 2 times, want once"),
        ({"feature": 0, "value": 1.0, "unit": "max_act"}, "a feature never on"),
        ({"feature": 3, "value": 1.0, "layers": [2]}, "got 2, want any of [4]"),
        ({"feature": 3, "scale": 1.0}, "'scale' by 1 changes nothing"),
    ],
)
def test_what_a_feature_cannot_take_is_refused(sae: Sae, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        compile_program([term(**fields)], Sources({}, saes={"s": sae}))
    assert said in str(caught.value)


def test_an_sae_under_two_names_is_one_sae(sae: Sae, tmp_path: Path) -> None:
    again = load_sae("t", tmp_path / "s", "saelens", SaeHints(average_norm=2 * NORM))
    assert (again.digest, again is sae) == (sae.digest, False)
    sources = Sources({}, saes={"s": sae, "t": again})
    with pytest.raises(RequestError, match="feature 3 is edited 2 times, want once"):
        compile_program([term(feature=3, value=1.0), term(sae="t", feature=3, value=1.0)], sources)
    one = compile_program([term(feature=3, value=1.0), term(feature=5, value=2.0)], sources)
    two = compile_program(
        [term(feature=3, value=1.0), term(sae="t", feature=5, value=2.0)], sources
    )
    assert one is not None and two is not None
    assert one.digest == two.digest


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"vector": "v", "feature": 3}, "one of them"),
        ({"sae": None, "vector": "v", "feature": 3}, "feature: is of SAE features"),
        ({"sae": None, "vector": "v", "above": 3}, "above: is of SAE features"),
        ({"sae": None}, "want one of `vector` and `sae`"),
        ({}, "feature: missing"),
        ({"feature": []}, "a list of 1 to 64 numbers"),
        ({"feature": -1}, "want the number of a feature"),
        ({"feature": True}, "want the number of a feature"),
        ({"feature": 1.0}, "want the number of a feature"),
        ({"feature": [1, "2"]}, "a list of 1 to 64 numbers"),
        ({"feature": ""}, "or a label of 1 to 512 characters"),
    ],
)
def test_a_term_is_of_one_thing(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        term(**fields)


def test_a_feature_is_edited_once_across_terms(sae: Sae) -> None:
    terms = [term(feature=3, value=1.0), term(feature="the tide", op="add", value=1.0)]
    with pytest.raises(RequestError, match="feature 3 is edited 2 times"):
        compile_program(terms, Sources({}, saes={"s": sae}))


def test_the_value_is_content_and_no_coefficient(sae: Sae) -> None:
    sources = Sources({}, saes={"s": sae})
    one = compile_program([term(feature=3, value=1.0)], sources)
    two = compile_program([term(feature=3, value=2.0)], sources)
    assert one is not None and two is not None
    assert (one.coefficient, two.coefficient) == (1.0, 1.0)
    assert one.digest != two.digest


def test_a_label_and_its_number_are_one_program_in_any_order(sae: Sae) -> None:
    sources = Sources({}, saes={"s": sae})
    named = [term(feature="the tide", value=1.0), term(feature=5, scale=2.0)]
    numbered = [term(feature=5, scale=2.0), term(feature=3, value=1.0, on="prompt")]
    both = [compile_program(terms, sources) for terms in (named, numbered)]
    assert both[0] is not None and both[1] is not None
    assert both[0].digest == both[1].digest


def test_features_and_a_vector_of_any_strength_do_what_each_says(sae: Sae) -> None:
    made = book("jumprelu")
    pushed = build_vector(
        "v",
        model_id="demo",
        layers=(4,),
        directions_LD=hidden(1, seed=9).astype(np.float32),
        residual_norms_L=np.ones(1, np.float32),
        created_by="tests",
    )
    terms = [
        term(feature=[3, 5], value=2.5),
        SteerTerm(vector="v", scale=-6.5, on="all"),
    ]
    program = compile_program(terms, Sources({"v": pushed}, saes={"s": sae}))
    assert program is not None
    assert abs(program.coefficient) == 6.5
    h_TD = hidden()
    want_TD = np.stack([made.edited(h, {f: ("set", 2.5, None) for f in (3, 5)}) for h in h_TD])
    want_TD -= 6.5 * pushed.directions_LD[0]
    got_TD = program.layers[Tap(4, "resid_post")].apply(h_TD, program.coefficient)
    np.testing.assert_allclose(got_TD, want_TD, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"value": 2.0}, 2.0),
        ({"value": -2.0}, 2.0),
        ({"value": 2.0, "unit": "max_act"}, 2.0 * MAXIMA[10]),
        ({"op": "floor", "value": 1.0}, 1.0),
        ({"op": "cap", "value": 1.0}, 0.0),
        ({"op": "cap", "value": -1.0}, 1.0),
        ({"op": "add", "value": -1.5}, 1.5),
        ({"op": "steer", "value": -1.5}, 0.0),
        ({"op": "steer", "value": 1.5}, 1.5),
        ({"op": "ablate"}, 0.0),
        ({"scale": 0.25}, 0.0),
        ({"scale": 3.0}, 2.0 * MAXIMA[10]),
        ({"scale": -1.0}, MAXIMA[10]),
    ],
)
def test_growth_is_what_is_written_beyond_the_code(
    sae: Sae, fields: dict[str, Any], code: float
) -> None:
    length = float(np.linalg.norm(book("jumprelu").W_dec[10]))
    bounds = growth([term(feature=10, **fields)], Sources({}, saes={"s": sae}))
    assert bounds == {sae.tap: pytest.approx(code * length / NORM)}


def test_growth_of_several_features_adds_up(sae: Sae) -> None:
    parts = [feature_growth(term(feature=f, value=2.0), sae) for f in (10, 11)]
    assert feature_growth(term(feature=[10, 11], value=2.0), sae) == pytest.approx(sum(parts))


def test_a_scale_without_largest_codes_counts_as_the_whole_stream(tmp_path: Path) -> None:
    plain = load(tmp_path, book("jumprelu"), beside=False)
    assert feature_growth(term(feature=10, scale=1.5), plain) == pytest.approx(0.5)
    assert feature_growth(term(feature=10, scale=0.5), plain) == 0.0


def test_an_edit_by_length_is_refused_where_nobody_says_the_mean_length(tmp_path: Path) -> None:
    unmeasured = load(tmp_path, book("jumprelu"), None)
    with pytest.raises(RequestError, match=r"saes.s.average_norm: got nothing, want the mean"):
        feature_growth(term(feature=10, value=1.0), unmeasured)


def test_a_file_that_was_written_to_is_read_no_more(sae: Sae, tmp_path: Path) -> None:
    weights = tmp_path / "s" / "sae_weights.safetensors"
    os.truncate(weights, 100)
    with pytest.raises(RequestError, match=r"sae_weights.safetensors was written to since"):
        feature_edits(term(feature=3, value=1.0), sae)


def test_a_file_that_another_took_the_place_of_is_as_it_was(sae: Sae, tmp_path: Path) -> None:
    before = compile_program([term(feature=3, value=1.0)], Sources({}, saes={"s": sae}))
    other = files.saelens(tmp_path / "other", book("jumprelu", seed=5))
    os.replace(other / "sae_weights.safetensors", tmp_path / "s" / "sae_weights.safetensors")
    again = compile_program([term(feature=3, value=1.0)], Sources({}, saes={"s": sae}))
    assert before is not None and again is not None
    assert before.digest == again.digest
