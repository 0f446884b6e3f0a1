"""SAE features in the kernel: as numpy computes them, as the textbook says, each token by itself.

Shapes: T tokens, D width, M features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.edits.layer import LayerEdit
from pilothouse.edits.sae import FeatureEdit
from pilothouse.edits.sae_codes import statistic_of
from pilothouse.edits.statistic import Statistic
from pilothouse.engine.plan.table_size import table_bytes
from pilothouse.engine.plan.tap_plan import EditPlan
from pilothouse.engine.worker.kernel import EditTables, edit_delta
from pilothouse.engine.worker.sae_weights import resident_sae, sae_tables
from pilothouse.engine.worker.tables import allocate, named_tensors, tables_on, upload
from pilothouse.engine.worker.tap import needs_true_stream
from tests.edits.test_sae import FORMS, RULES, expected, layer_edit, loaded, made_as, some_feature
from tests.engine.worker.test_kernel import Ranks
from tests.reference.sae import Book
from tests.support.artifacts.sae_files import FEATURES, WIDTH, hidden

CPU = torch.device("cpu")
WHOLE = slice(0, WIDTH)
RANK = 4


@pytest.fixture(scope="module")
def saes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Book, Sae]]:
    """A book and its SAE of each form."""
    books = {form: made_as(form) for form in FORMS}
    return {
        form: (made, loaded(tmp_path_factory.mktemp("sae"), made)) for form, made in books.items()
    }


def planned(saes: Sequence[Sae], rank: int = RANK) -> EditPlan:
    """What a tap of these SAEs is planned with."""
    return EditPlan(
        rank=rank,
        statistics=any(statistic_of(sae) != Statistic.NONE for sae in saes),
        latents=tuple(resident_sae(sae) for sae in saes if sae.needs_all_codes),
    )


def tables_of(saes: Sequence[Sae], edits: Sequence[LayerEdit], part: slice = WHOLE) -> EditTables:
    """The tables of a tap, a program in each slot from 1 on."""
    tables = allocate(
        planned(saes),
        slots=len(edits) + 1,
        width=part.stop - part.start,
        device=CPU,
        total=saes[0].width,
        latents=[sae_tables(sae, part, CPU) for sae in saes if sae.needs_all_codes],
    )
    for slot, edit in enumerate(edits, 1):
        assert planned(saes).lacks(EditPlan.needed_by(edit)) is None
        upload(tables, slot, edit.part(part))
    return tables


def ran(tables: EditTables, h_TD: Any, slot_T: Any, coefficient_T: Any = None) -> Any:
    strength_T = np.ones(len(h_TD)) if coefficient_T is None else coefficient_T
    delta_TD = edit_delta(
        torch.from_numpy(np.asarray(h_TD, np.float32)),
        torch.from_numpy(np.asarray(slot_T)),
        torch.from_numpy(np.asarray(strength_T, np.float32)),
        tables,
    )
    return delta_TD.numpy()


def stream(seed: int = 1, count: int = 32) -> Any:
    """float32 numbers, of which the textbook and the kernel see the same."""
    return hidden(count, seed).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("form", FORMS)
def test_the_kernel_does_what_numpy_and_the_textbook_do(
    saes: dict[str, tuple[Book, Sae]], form: str
) -> None:
    made, sae = saes[form]
    h_TD = stream()
    feature = some_feature(sae, h_TD)
    cases = [(FeatureEdit(feature, *rule),) for rule in RULES]  # type: ignore[arg-type]
    cases.append(
        (
            FeatureEdit(feature, "set", 4.0),
            FeatureEdit((feature + 1) % FEATURES, "ablate"),
            FeatureEdit((feature + 2) % FEATURES, "add", 1.0),
            FeatureEdit((feature + 3) % FEATURES, "set", 2.0, above=0.0),
        )
    )
    edits = [layer_edit(sae, *each) for each in cases]
    tables = tables_of([sae], edits)
    for slot, (case, edit) in enumerate(zip(cases, edits, strict=True), 1):
        got_TD = ran(tables, h_TD, np.full(len(h_TD), slot))
        numpy_TD = edit.apply(h_TD.astype(np.float32), 1.0, {sae.digest: sae}) - h_TD
        assert got_TD == pytest.approx(numpy_TD, abs=1e-4)
        wanted_TD = expected(made, case, h_TD) - h_TD
        assert np.abs(wanted_TD).max() > 0.05
        assert got_TD == pytest.approx(wanted_TD, abs=1e-4)


MANY = ("relu scaled", "topk", "abstopk of constant norm", "jumprelu of layer norm")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(MANY), st.integers(0, FEATURES - 1), st.sampled_from(RULES)),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 99),
)
def test_each_token_gets_its_own_feature_of_its_own_sae(
    saes: dict[str, tuple[Book, Sae]], chosen: list[Any], seed: int
) -> None:
    here = [saes[form][1] for form in MANY]
    by_digest = {sae.digest: sae for sae in here}
    edits = [
        layer_edit(saes[form][1], FeatureEdit(feature, *rule)) for form, feature, rule in chosen
    ]
    tables, draw = tables_of(here, edits), np.random.default_rng(seed)
    h_TD, slot_T = stream(seed, 16), draw.integers(0, len(edits) + 1, 16)
    coefficient_T = draw.normal(size=16).astype(np.float32)
    got_TD = ran(tables, h_TD, slot_T, coefficient_T)
    for t, slot in enumerate(slot_T):
        if slot == 0:
            assert not got_TD[t].any()
            continue
        token_1D = h_TD[t : t + 1].astype(np.float32)
        wanted_1D = edits[slot - 1].apply(token_1D, float(coefficient_T[t]), by_digest) - token_1D
        assert np.abs(got_TD[t] - wanted_1D[0]).max() < 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_slot_and_padding_get_exact_zeros(
    saes: dict[str, tuple[Book, Sae]], form: str
) -> None:
    _, sae = saes[form]
    tables = tables_of([sae], [layer_edit(sae, FeatureEdit(3, "set", 5.0))])
    h_TD = stream()
    h_TD[::4] = 0.0
    assert not ran(tables, h_TD, np.zeros(len(h_TD), np.int64)).any()
    assert np.isfinite(ran(tables, h_TD, np.ones(len(h_TD), np.int64))).all()
    upload(tables, 1, None)
    assert not ran(tables, h_TD, np.ones(len(h_TD), np.int64)).any()


@pytest.mark.parametrize("form", FORMS)
def test_other_tokens_of_the_batch_change_no_bit(
    saes: dict[str, tuple[Book, Sae]], form: str
) -> None:
    _, sae = saes[form]
    edits = [
        layer_edit(sae, FeatureEdit(some_feature(sae, stream()), "set", 5.0)),
        layer_edit(sae, FeatureEdit(7, "add", -2.0), FeatureEdit(8, "scale", 3.0)),
    ]
    tables, h_TD = tables_of([sae], edits), stream()
    slot_T = np.arange(len(h_TD)) % 3
    before_TD = ran(tables, h_TD, slot_T)
    is_mine_T = np.arange(len(h_TD)) % 5 == 1
    others_TD = np.where(is_mine_T[:, None], h_TD, -3.0 * h_TD[::-1])
    after_TD = ran(tables, others_TD, np.where(is_mine_T, slot_T, (slot_T + 1) % 3))
    assert np.array_equal(before_TD[is_mine_T], after_TD[is_mine_T])
    assert not np.array_equal(before_TD[~is_mine_T], after_TD[~is_mine_T])


COMPILED = (
    "jumprelu of layer norm",
    "topk of layer norm",
    "abstopk",
    "top_afa",
    "pursuit",
    "topk polynomial",
)


def test_compiled_is_eager(saes: dict[str, tuple[Book, Sae]]) -> None:
    here = [saes[form][1] for form in COMPILED]
    edits = [
        layer_edit(each, FeatureEdit(some_feature(each, stream()), "set", 5.0)) for each in here
    ]
    tables = tables_of(here, edits)
    h_TD, strength_T = torch.from_numpy(hidden().astype(np.float32)), torch.ones(32)
    slot_T = torch.arange(32) % (len(edits) + 1)
    graph = torch.compile(edit_delta, fullgraph=True, dynamic=True, backend="aot_eager")
    got_TD = graph(h_TD, slot_T, strength_T, tables)
    wanted_TD = edit_delta(h_TD, slot_T, strength_T, tables)
    assert torch.allclose(got_TD, wanted_TD, atol=1e-5)
    assert not got_TD[slot_T == 0].any()
    assert (got_TD[slot_T > 0].abs().amax(dim=1) > 0.05).float().mean() > 0.8


@pytest.mark.full
@pytest.mark.parametrize("form", COMPILED)
def test_what_inductor_makes_of_it_is_eager(saes: dict[str, tuple[Book, Sae]], form: str) -> None:
    _, sae = saes[form]
    tables = tables_of([sae], [layer_edit(sae, FeatureEdit(3, "set", 5.0))])
    torch._dynamo.reset()
    graph = torch.compile(edit_delta, fullgraph=True, dynamic=True)
    for count in (32, 7):
        h_TD = torch.from_numpy(hidden(count).astype(np.float32))
        slot_T, strength_T = torch.arange(count) % 2, torch.ones(count)
        wanted_TD = edit_delta(h_TD, slot_T, strength_T, tables)
        got_TD = graph(h_TD, slot_T, strength_T, tables)
        assert torch.allclose(got_TD, wanted_TD, atol=1e-4)
        assert not got_TD[slot_T == 0].any()


@pytest.mark.parametrize("form", [each for each in FORMS if each.split()[0] != "relu"])
def test_ranks_that_share_a_token_find_the_same_codes(
    saes: dict[str, tuple[Book, Sae]], form: str
) -> None:
    _, sae = saes[form]
    h_TD = torch.from_numpy(hidden().astype(np.float32))
    edit = layer_edit(
        sae, FeatureEdit(some_feature(sae, stream()), "set", 5.0), FeatureEdit(9, "add", 1.0)
    )
    slot_T, strength_T = torch.arange(32) % 2, torch.ones(32)
    ranks = Ranks(2, WIDTH)

    def one_rank(part: slice) -> Tensor:
        tables = tables_of([sae], [edit], part)
        return edit_delta(h_TD[:, part], slot_T, strength_T, tables, ranks.all_reduce)

    wanted_TD = edit_delta(h_TD, slot_T, strength_T, tables_of([sae], [edit])).numpy()
    assert np.abs(wanted_TD).max() > 0.05
    assert np.abs(ranks.run(one_rank) - wanted_TD).max() < 1e-4


def test_of_equal_codes_the_first_is_chosen(tmp_path: Path) -> None:
    made = made_as("topk")
    made.W_enc[:, 1:], made.b_enc[:] = made.W_enc[:, :1], 20.0
    sae = loaded(tmp_path, made)
    edits = [layer_edit(sae, FeatureEdit(each, "ablate")) for each in (made.k - 1, made.k)]
    tables, h_TD = tables_of([sae], edits), stream()
    assert ran(tables, h_TD, np.full(len(h_TD), 1)).any(axis=1).all()
    assert not ran(tables, h_TD, np.full(len(h_TD), 2)).any()


def test_a_tap_without_features_has_what_it_had() -> None:
    plain = allocate(EditPlan(rank=2), slots=3, width=WIDTH, device=CPU)
    assert set(named_tensors(plain)) == {
        "additions_vectors_SD",
        "rows_reads_SRD",
        "rows_writes_SRD",
        "rows_gates_SRG",
        "rows_sees_SRR",
    }
    assert plain.latents == ()
    assert table_bytes(EditPlan(rank=2), slots=3, width=WIDTH, num_targets=0) == sum(
        each.numel() * each.element_size() for each in named_tensors(plain).values()
    )


def test_a_tap_without_features_runs_the_operations_it_ran(saes: Any) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    _, sae = saes["relu"]
    tables = tables_of([sae], [layer_edit(sae, FeatureEdit(3, "set", 5.0))])

    def operations(call: Callable[..., Tensor], of: EditTables) -> list[str]:
        graph = make_fx(lambda h, s, c: call(h, s, c, of))(
            torch.randn(4, WIDTH), torch.ones(4).long(), torch.ones(4)
        )
        return [str(node.target) for node in graph.graph.nodes]

    names = " ".join(operations(edit_delta, tables))
    assert not any(
        each in names for each in ("sqrt", "gather", "topk", "clamp", "where.ScalarSelf")
    )
    _, normed = saes["jumprelu of layer norm"]
    more = tables_of([normed], [layer_edit(normed, FeatureEdit(3, "set", 5.0))])
    assert "sqrt" in " ".join(operations(edit_delta, more))


@pytest.mark.parametrize("form", FORMS)
def test_the_memory_of_a_tap_is_what_is_planned(
    saes: dict[str, tuple[Book, Sae]], form: str
) -> None:
    _, sae = saes[form]
    tables = tables_of([sae], [layer_edit(sae, FeatureEdit(3, "set", 5.0))])
    there = sum(each.numel() * each.element_size() for each in named_tensors(tables).values())
    assert table_bytes(planned([sae]), slots=2, width=WIDTH, num_targets=0) == there
    assert needs_true_stream(planned([sae]))
    found = named_tensors(tables)
    again = tables_on(lambda name: found[name], tables)
    assert named_tensors(again).keys() == found.keys()
    assert again.latents == tables.latents and again.width == WIDTH


@pytest.mark.parametrize(
    ("form", "said"),
    [("topk", "SAE that is not resident"), ("jumprelu of layer norm", "normalises each token")],
)
def test_a_tap_that_was_not_made_for_it_lacks_it(
    saes: dict[str, tuple[Book, Sae]], form: str, said: str
) -> None:
    _, sae = saes[form]
    _, other = saes["abstopk"]
    wanted = EditPlan.needed_by(layer_edit(sae, FeatureEdit(3, "set", 5.0)))
    assert said in (planned([other]).lacks(wanted) or "")
    assert planned([other, sae]).lacks(wanted) is None
