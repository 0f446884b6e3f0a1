"""The rows of a feature edit do what the textbook says: h + (f' - f) W_dec, error and rest kept.

Shapes: T tokens, D width, M features.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.edits.gate import Gate
from pilothouse.edits.layer import Assembly, LayerEdit
from pilothouse.edits.ops.rows import GatedRows
from pilothouse.edits.row import Row, RowStage, row_parts
from pilothouse.edits.sae import FeatureEdit, feature_read, feature_rows, plain_read
from pilothouse.edits.sae_codes import edited, encode
from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import Tap
from tests.reference.sae import Book, changed
from tests.support.artifacts import sae_files as files
from tests.support.artifacts.sae_files import FEATURES, WIDTH, book, hidden

RULES: list[tuple[str, float]] = [
    ("set", 3.0),
    ("set", 0.0),
    ("set", -2.0),
    ("scale", 0.0),
    ("scale", 2.5),
    ("scale", -1.0),
    ("ablate", 0.0),
    ("add", 1.5),
    ("add", -0.5),
    ("floor", 2.0),
    ("cap", 1.0),
    ("cap", 0.0),
    ("steer", 1.5),
    ("steer", -0.75),
]
FORMS: dict[str, dict[str, Any]] = {
    "relu": {},
    "relu less b_dec": {"subtracts_b_dec": True},
    "relu scaled": {"scale": 0.37, "subtracts_b_dec": True},
    "relu centred": {"is_centred": True, "subtracts_b_dec": True},
    "jumprelu": {},
    "jumprelu less b_dec": {"subtracts_b_dec": True},
    "jumprelu chosen by norms": {"norms": "select"},
    "gated": {},
    "gated less b_dec": {"subtracts_b_dec": True},
    "gated scaled": {"scale": 2.2, "subtracts_b_dec": True},
    "relu of layer norm": {"norm": "layer_norm"},
    "jumprelu of layer norm": {"norm": "layer_norm", "subtracts_b_dec": True},
    "gated of constant norm": {"norm": "constant_norm", "subtracts_b_dec": True},
    "jumprelu of centred constant norm": {"norm": "constant_norm", "is_centred": True},
    "topk": {"subtracts_b_dec": True},
    "topk of layer norm": {"norm": "layer_norm"},
    "topk by decoder norms": {"norms": "scale"},
    "topk centred": {"is_centred": True, "subtracts_b_dec": True},
    "abstopk": {},
    "abstopk by decoder norms": {"norms": "scale", "subtracts_b_dec": True},
    "abstopk of constant norm": {"norm": "constant_norm"},
    "top_afa": {"subtracts_b_dec": True},
    "top_afa of layer norm": {"norm": "layer_norm", "subtracts_b_dec": True},
    "pursuit": {"subtracts_b_dec": True},
    "pursuit of constant norm": {"norm": "constant_norm", "subtracts_b_dec": True},
    "pursuit signed": {
        "is_signed": True,
        "tolerance": 0.0,
        "ends_on_repeat": False,
        "b_dec": np.zeros(WIDTH),
    },
    "topk polynomial": {"poly": True},
    "topk polynomial of layer norm": {"poly": True, "norm": "layer_norm", "subtracts_b_dec": True},
    "jumprelu polynomial": {"poly": True, "subtracts_b_dec": True},
}
READABLE = [
    form
    for form, changes in FORMS.items()
    if form.split()[0] in ("relu", "jumprelu", "gated") and "norm" not in changes
]
SIGNED = {"abstopk", "pursuit signed"}


def made_as(form: str) -> Book:
    """The book of a form's name."""
    changes = dict(FORMS[form])
    make = files.poly_book if changes.pop("poly", False) else book
    return make(form.split()[0], **changes)


def loaded(folder: Path, made: Book) -> Sae:
    """A book through a file, in the format that can say it."""
    if made.form == "top_afa":
        return load_sae("s", files.top_afa(folder, made), "top-afa")
    if made.is_signed:
        return load_sae("s", files.itda(folder, made), "itda")
    if made.norms == "select":
        changes = {"norm_activation": "inference", "sparsity_include_decoder_norm": True}
        return load_sae("s", files.llamascopium(folder, made, **changes), "llamascopium")
    if made.scale != 1.0:
        norm = float(np.sqrt(WIDTH) / made.scale)
        place = files.saelens(folder, made, normalize_activations="expected_average_only_in")
        return load_sae("s", place, "saelens", SaeHints(average_norm=norm))
    place = files.saelens(folder, made)
    if made.is_centred:
        kwargs = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
        about = {"model_name": "demo", "hook_name": "blocks.4.hook_resid_post"}
        files.saelens(folder, made, metadata=about | kwargs)
    return load_sae("s", place, "saelens")


def layer_edit(sae: Sae, *edits: FeatureEdit) -> LayerEdit:
    """The rows, put together as a program's are."""
    assembly = Assembly(sae.tap)
    parts = row_parts(RowStage.CODE, feature_rows(sae, edits))
    assembly.take(SteerTerm(vector="s", op="apply"), 1.0, parts)
    edit = assembly.edit(sae.width)
    assert edit is not None
    return edit


def rows_of(edit: LayerEdit) -> GatedRows:
    rows = edit.get(GatedRows)
    assert rows is not None
    return rows


def exact(edit: LayerEdit, sae: Sae, edits: tuple[FeatureEdit, ...], h_TD: Any) -> Any:
    """What the tables' float32 rows write, with the rows as they were before the rounding."""
    rows = feature_rows(sae, edits)
    wide = GatedRows(
        reads_RD=np.array([row.read_D for row in rows]),  # type: ignore[arg-type]
        writes_RD=np.array([row.write_D for row in rows]),  # type: ignore[arg-type]
        gates_RG=np.array([row.gate for row in rows]),  # type: ignore[arg-type]
        sees_RR=np.zeros((len(rows), len(rows)), np.float32),
        statistics_R=tuple(row.statistic for row in rows),
        latents_R=tuple(row.latent for row in rows),
    )
    assert edit.rank == wide.rank
    return LayerEdit(sae.width, (wide,)).apply(h_TD, 1.0, {sae.digest: sae})


def expected(made: Book, edits: tuple[FeatureEdit, ...], h_TD: Any) -> Any:
    changes = {each.feature: (each.op, each.value, each.above) for each in edits}
    return np.stack([made.edited(h, changes) for h in h_TD])


def on_and_off(sae: Sae, feature: int, h_TD: Any) -> None:
    """A test of a feature that is never on, or always, would prove half of it."""
    share = (encode(sae, h_TD)[:, feature] != 0).mean()
    assert 0.05 < share < 0.95


def some_feature(sae: Sae, h_TD: Any) -> int:
    """A feature that is on at about a third of the tokens, and somewhere well over 1."""
    codes_TM = encode(sae, h_TD)
    distance_M = np.abs((codes_TM != 0).mean(axis=0) - 0.35)
    return int(np.where(codes_TM.max(axis=0) > 1.2, distance_M, np.inf).argmin())


@pytest.mark.parametrize(("rule", "value"), RULES)
@pytest.mark.parametrize("form", FORMS)
def test_an_edit_is_the_textbooks(tmp_path: Path, form: str, rule: str, value: float) -> None:
    made = made_as(form)
    sae, h_TD = loaded(tmp_path, made), hidden()
    feature = some_feature(sae, h_TD)
    on_and_off(sae, feature, h_TD)
    edits = (FeatureEdit(feature, rule, value),)  # type: ignore[arg-type]
    want_TD = expected(made, edits, h_TD)
    assert np.abs(want_TD - h_TD).max() > 0.05
    edit = layer_edit(sae, *edits)
    assert exact(edit, sae, edits, h_TD) == pytest.approx(want_TD, abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_tables_float32_rows_are_as_near_as_float32_can_be(tmp_path: Path, form: str) -> None:
    made = made_as(form)
    sae, h_TD = loaded(tmp_path, made), hidden()
    edits = (FeatureEdit(some_feature(sae, h_TD), "set", 3.0),)
    got_TD = layer_edit(sae, *edits).apply(h_TD, 1.0, {sae.digest: sae})
    assert got_TD == pytest.approx(expected(made, edits, h_TD), abs=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_several_features_at_once_do_not_hear_each_other(tmp_path: Path, form: str) -> None:
    made = made_as(form)
    sae, h_TD = loaded(tmp_path, made), hidden()
    first = some_feature(sae, h_TD)
    edits = (
        FeatureEdit(first, "set", 4.0),
        FeatureEdit((first + 1) % FEATURES, "ablate"),
        FeatureEdit((first + 2) % FEATURES, "add", 1.0),
        FeatureEdit((first + 3) % FEATURES, "cap", 0.3),
    )
    want_TD = expected(made, edits, h_TD)
    assert exact(layer_edit(sae, *edits), sae, edits, h_TD) == pytest.approx(want_TD, abs=1e-6)


def test_the_order_of_the_edits_changes_no_bit(tmp_path: Path) -> None:
    sae = loaded(tmp_path, book("jumprelu"))
    edits = (FeatureEdit(3, "set", 4.0), FeatureEdit(9, "ablate"), FeatureEdit(21, "add", 1.0))
    assert layer_edit(sae, *edits).content() == layer_edit(sae, *reversed(edits)).content()


@pytest.mark.parametrize("rule", ["scale", "ablate", "cap"])
def test_an_inactive_feature_stays_as_it_is(tmp_path: Path, rule: str) -> None:
    sae, h_TD = loaded(tmp_path, book("jumprelu")), hidden()
    feature = some_feature(sae, h_TD)
    value = {"scale": 5.0, "ablate": 0.0, "cap": 0.5}[rule]
    off_T = encode(sae, h_TD)[:, feature] == 0.0
    assert 0 < off_T.sum() < len(off_T)
    edit = layer_edit(sae, FeatureEdit(feature, rule, value))  # type: ignore[arg-type]
    got_TD = edit.apply(h_TD, 1.0)
    assert np.array_equal(got_TD[off_T], h_TD[off_T])
    assert (np.abs(got_TD[~off_T] - h_TD[~off_T]).max(axis=1) > 0).any()


def test_a_learned_codes_step_down_leaves_an_inactive_feature(tmp_path: Path) -> None:
    sae, h_TD = loaded(tmp_path, book("relu")), hidden()
    feature = some_feature(sae, h_TD)
    off_T = encode(sae, h_TD)[:, feature] == 0.0
    got_TD = layer_edit(sae, FeatureEdit(feature, "steer", -2.0)).apply(h_TD, 1.0)
    assert np.array_equal(got_TD[off_T], h_TD[off_T])


@pytest.mark.parametrize("above", [0.0, 0.8])
@pytest.mark.parametrize("form", ["relu", "jumprelu", "gated"])
def test_an_edit_holds_only_where_the_code_is_over(tmp_path: Path, form: str, above: float) -> None:
    made = book(form)
    sae, h_TD = loaded(tmp_path, made), hidden()
    feature = some_feature(sae, h_TD)
    edits = (FeatureEdit(feature, "set", 5.0, above=above),)
    codes_T = encode(sae, h_TD)[:, feature]
    want_TD = expected(made, edits, h_TD)
    assert (codes_T > above).any()
    assert (codes_T <= above).any()
    got_TD = exact(layer_edit(sae, *edits), sae, edits, h_TD)
    assert got_TD == pytest.approx(want_TD, abs=1e-6)


def test_over_nothing_means_over_the_threshold(tmp_path: Path) -> None:
    made = book("jumprelu", threshold=np.full(FEATURES, 2.0))
    sae, h_TD = loaded(tmp_path, made), hidden()
    feature = some_feature(sae, h_TD)
    read_D, bias, *_ = feature_read(sae, feature)
    z_T = h_TD @ read_D + bias
    assert ((z_T > 0.0) & (z_T <= 2.0)).any()
    edits = (FeatureEdit(feature, "set", 5.0, above=0.0),)
    got_TD = exact(layer_edit(sae, *edits), sae, edits, h_TD)
    assert got_TD == pytest.approx(expected(made, edits, h_TD), abs=1e-6)


def test_what_is_not_edited_is_kept(tmp_path: Path) -> None:
    """With an orthonormal decoder that is its own encoder, the other codes and the rest stay."""
    basis_DD, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(WIDTH, WIDTH)))
    part_DM = basis_DD[:, : WIDTH // 2]
    made = Book(
        W_enc=part_DM,
        W_dec=part_DM.T.copy(),
        b_dec=np.zeros(WIDTH),
        b_enc=np.zeros(WIDTH // 2),
        form="relu",
    )
    sizes = {"d_in": WIDTH, "d_sae": WIDTH // 2}
    sae = load_sae("s", files.saelens(tmp_path, made, **sizes), "saelens")
    h_TD = hidden()
    got_TD = layer_edit(sae, FeatureEdit(2, "set", 7.0)).apply(h_TD, 1.0)
    before_TM, after_TM = encode(sae, h_TD), encode(sae, got_TD)
    on_T = before_TM[:, 2] > 0
    assert after_TM[on_T, 2] == pytest.approx(7.0, abs=1e-5)
    others = [each for each in range(WIDTH // 2) if each != 2]
    assert after_TM[:, others] == pytest.approx(before_TM[:, others], abs=1e-5)
    rest_DN = basis_DD[:, WIDTH // 2 :]
    assert got_TD @ rest_DN == pytest.approx(h_TD @ rest_DN, abs=1e-5)


def test_values_are_shares_of_the_largest_code_where_it_is_known(tmp_path: Path) -> None:
    folder = files.saelens(tmp_path, book("jumprelu"))
    files.save(folder / "features.safetensors", {"max_act": np.arange(FEATURES)})
    sae = load_sae("s", folder, "saelens")
    [share] = feature_rows(sae, [FeatureEdit(8, "set", 0.5, 0.25, "max_act")])
    [plain] = feature_rows(sae, [FeatureEdit(8, "set", 4.0, 2.0)])
    assert share.gate == plain.gate
    with pytest.raises(RequestError, match="a feature never on"):
        feature_rows(sae, [FeatureEdit(0, "set", 0.5, unit="max_act")])


@pytest.mark.parametrize("form", ["relu", "jumprelu", "gated"])
def test_a_feature_is_a_read_row(tmp_path: Path, form: str) -> None:
    sae, h_TD = loaded(tmp_path, book(form, subtracts_b_dec=True)), hidden()
    codes_TM = encode(sae, h_TD)
    for feature in range(FEATURES):
        read_D, bias, threshold, _ = feature_read(sae, feature)
        z_T = h_TD @ read_D + bias
        assert np.where(z_T > threshold, z_T, 0.0) == pytest.approx(codes_TM[:, feature], abs=1e-9)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (FeatureEdit(FEATURES, "ablate"), "got feature 40, want 0 to 39"),
        (FeatureEdit(-1, "ablate"), "got feature -1"),
        (FeatureEdit(1, "set", float("nan")), "got nan, want a finite number"),
        (FeatureEdit(1, "set", 1.0, above=float("inf")), "got inf, want a finite number"),
        (FeatureEdit(1, "set", 1.0, above=-1.0), "got above -1"),
        (FeatureEdit(1, "scale", 1.0), "changes nothing"),
        (FeatureEdit(1, "add", 0.0), "changes nothing"),
        (FeatureEdit(1, "steer", 0.0), "changes nothing"),
        (FeatureEdit(1, "floor", -1.0), "changes nothing"),
        (FeatureEdit(1, "ablate", 2.0), "with 'ablate', want none"),
        (FeatureEdit(1, "set", 1.0, unit="max_act"), "no file of largest codes"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(tmp_path: Path, edit: FeatureEdit, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        feature_rows(loaded(tmp_path, book("relu")), [edit])


def test_a_feature_is_edited_once(tmp_path: Path) -> None:
    sae = loaded(tmp_path, book("relu"))
    with pytest.raises(RequestError, match="feature 3 is edited 2 times"):
        feature_rows(sae, [FeatureEdit(3, "ablate"), FeatureEdit(3, "set", 1.0)])


@pytest.mark.parametrize(
    ("form", "changes", "said"),
    [
        ("topk", {}, "hangs on all others"),
        ("abstopk", {}, "hangs on all others"),
        ("top_afa", {"subtracts_b_dec": True}, "hangs on all others"),
        ("pursuit", {}, "hangs on all others"),
        ("relu", {"norm": "layer_norm"}, "normalises each token"),
        ("relu", {"norm": "constant_norm"}, "normalises each token"),
    ],
)
def test_what_needs_more_than_a_row_cannot_be_read_by_one(
    tmp_path: Path, form: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        plain_read(loaded(tmp_path, book(form, **changes)), 1)


@pytest.mark.parametrize("form", [each for each in FORMS if each not in READABLE])
def test_a_row_that_needs_more_says_of_what(tmp_path: Path, form: str) -> None:
    sae = loaded(tmp_path, made_as(form))
    [row] = feature_rows(sae, [FeatureEdit(3, "set", 2.0)])
    wanted = (sae.digest, 3) if sae.needs_all_codes else None
    assert (row.latent and row.latent[:2]) == wanted
    assert bool(row.statistic) == (made_as(form).norm != "none")
    edit = layer_edit(loaded(tmp_path / "plain", book("relu")), FeatureEdit(3, "set", 2.0))
    plain = rows_of(edit)
    assert (plain.statistics_R, plain.latents_R) == ((), ())


@pytest.mark.parametrize("form", ["topk", "topk of layer norm", "jumprelu of layer norm"])
def test_what_a_row_reads_in_is_part_of_its_content(tmp_path: Path, form: str) -> None:
    edit = layer_edit(loaded(tmp_path, made_as(form)), FeatureEdit(3, "set", 2.0))
    bare = LayerEdit(WIDTH, (replace(rows_of(edit), statistics_R=(), latents_R=()),))
    assert edit.content() != bare.content()
    assert edit.content() == edit.part(slice(0, WIDTH)).content()


@pytest.mark.parametrize("above", [0.0, 0.5])
@pytest.mark.parametrize("form", ["topk", "abstopk", "pursuit signed"])
def test_a_chosen_code_is_edited_only_where_it_is_over(
    tmp_path: Path, form: str, above: float
) -> None:
    made = made_as(form)
    sae, h_TD = loaded(tmp_path, made), hidden()
    feature = some_feature(sae, h_TD)
    edits = (FeatureEdit(feature, "add", 2.0, above=above),)
    is_off_T = encode(sae, h_TD)[:, feature] <= above
    assert 0 < is_off_T.sum() < len(h_TD)
    got_TD = layer_edit(sae, *edits).apply(h_TD, 1.0, {sae.digest: sae})
    assert np.array_equal(got_TD[is_off_T], h_TD[is_off_T])
    assert got_TD == pytest.approx(expected(made, edits, h_TD), abs=2e-5)


@pytest.mark.parametrize(("rule", "value"), [("floor", -1.0), ("floor", 0.0), ("steer", 0.0)])
@pytest.mark.parametrize("form", sorted(SIGNED))
def test_codes_under_zero_can_be_held_up(
    tmp_path: Path, form: str, rule: str, value: float
) -> None:
    made = made_as(form)
    sae, h_TD = loaded(tmp_path, made), hidden()
    feature = int((encode(sae, h_TD) < -1.0).sum(axis=0).argmax())
    edits = (FeatureEdit(feature, rule, value),)  # type: ignore[arg-type]
    want_TD = expected(made, edits, h_TD)
    assert np.abs(want_TD - h_TD).max() > 0.05
    assert exact(layer_edit(sae, *edits), sae, edits, h_TD) == pytest.approx(want_TD, abs=1e-6)


def test_a_projection_does_not_stand_beside_a_decoder_that_is_not_linear(tmp_path: Path) -> None:
    sae = loaded(tmp_path, files.poly_book("topk"))
    unit_D = np.eye(WIDTH)[0]
    for is_linear in (True, False):
        assembly = Assembly(sae.tap)
        [row] = feature_rows(sae, [FeatureEdit(3, "set", 2.0)])
        assert row.latent is not None
        row = row._replace(latent=row.latent._replace(is_linear=is_linear))
        projection = Row(unit_D, unit_D, Gate(slope=-1.0))
        parts = row_parts(RowStage.CODE, [row]) + row_parts(RowStage.PROJECTION, [projection])
        assembly.take(SteerTerm(vector="s", op="apply"), 1.0, parts)
        if is_linear:
            assert assembly.edit(WIDTH) is not None
            continue
        with pytest.raises(RequestError, match="whose decoder is not linear"):
            assembly.edit(WIDTH)


@pytest.mark.parametrize("form", ["topk", "topk polynomial", "jumprelu of layer norm"])
def test_a_weight_and_its_inverse_as_coefficient_cancel(tmp_path: Path, form: str) -> None:
    made = made_as(form)
    sae, h_TD = loaded(tmp_path, made), hidden()
    edits = (FeatureEdit(some_feature(sae, h_TD), "set", 3.0),)
    assembly = Assembly(sae.tap)
    parts = row_parts(RowStage.CODE, feature_rows(sae, edits))
    assembly.take(SteerTerm(vector="s", op="apply"), -0.25, parts)
    edit = assembly.edit(sae.width)
    assert edit is not None
    got_TD = edit.apply(h_TD, -4.0, {sae.digest: sae})
    assert got_TD == pytest.approx(expected(made, edits, h_TD), abs=2e-5)


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("topk", {}),
        ("abstopk", {"norms": "scale"}),
        ("relu", {"norm": "layer_norm"}),
        ("jumprelu", {"norm": "constant_norm", "subtracts_b_dec": True}),
        ("topk", {"poly": True}),
    ],
)
def test_all_forms_can_be_edited_whole(tmp_path: Path, form: str, changes: dict[str, Any]) -> None:
    kept = {key: each for key, each in changes.items() if key != "poly"}
    made = files.poly_book(form) if "poly" in changes else book(form, **kept)
    sae, h_TD = loaded(tmp_path, made), hidden()
    codes_TM = encode(sae, h_TD)
    new_TM = codes_TM.copy()
    new_TM[:, 5] = [changed(each, "set", -3.0) for each in codes_TM[:, 5]]
    want_TD = expected(made, (FeatureEdit(5, "set", -3.0),), h_TD)
    assert edited(sae, h_TD, codes_TM, new_TM) == pytest.approx(want_TD, abs=1e-6)


def test_rows_lie_where_codes_do(tmp_path: Path) -> None:
    sae = loaded(tmp_path, book("relu"))
    assert sae.tap == Tap(4, "resid_post")
    edit = layer_edit(sae, FeatureEdit(3, "set", 1.0))
    assert edit.rank == 1
    assert edit.tables == (rows_of(edit),)
    assert not rows_of(edit).has_planes
