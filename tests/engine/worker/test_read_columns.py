"""What taps read: rows as before, and codes of any SAE as the textbook has them.

Shapes: T tokens, D width, M features, E read columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.edits.sae import feature_read
from pilothouse.engine.plan.feature_log import LoggedFeature, logged_reads, logged_sae
from pilothouse.engine.plan.read_rows import OwnedRow, Read, lay_out_reads, reads_of
from pilothouse.engine.plan.tap_plan import TapPlan
from pilothouse.engine.scheduler.feature_pool import FeaturePool
from pilothouse.engine.worker.read_columns import ReadColumns, columns_of, read
from pilothouse.engine.worker.sae_weights import sae_tables
from pilothouse.head import Head
from pilothouse.probes.heads import TapReads, make_head, read_tokens
from pilothouse.types import Tap
from tests.edits.test_sae import FORMS, loaded, made_as
from tests.engine.worker.test_kernel import Ranks
from tests.reference.sae import Book
from tests.support.artifacts.sae_files import FEATURES, WIDTH, hidden

CPU = torch.device("cpu")
WHOLE = slice(0, WIDTH)
FEW, MANY = (7, 3, 31), tuple(reversed(range(FEATURES)))
ROW_D = np.random.default_rng(9).normal(size=WIDTH).astype(np.float32)


@pytest.fixture(scope="module")
def saes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Book, Sae]]:
    """A book and its SAE of each form."""
    books = {form: made_as(form) for form in FORMS}
    return {
        form: (made, loaded(tmp_path_factory.mktemp("sae"), made)) for form, made in books.items()
    }


class Laid:
    """One tap of features of some SAEs, beside a plain row of somebody else."""

    def __init__(self, saes: Sequence[Sae], features: Sequence[int]) -> None:
        self.saes = {sae.digest: sae for sae in saes}
        self.tap = saes[0].tap
        logged = {name: logged_features(sae, features) for name, sae in self.saes.items()}
        rows = [OwnedRow("somebody", self.tap, ROW_D), *logged_reads(logged, self.saes)]
        (self.plan,), self.columns, tensors = lay_out_reads({}, rows, {self.tap: WIDTH})
        self.rows_DE = tensors.get(f"reads/{self.tap.layer}/{self.tap.site}")
        self.facts = [
            logged_sae(name, each, self.columns[f"sae/{name}"]) for name, each in logged.items()
        ]

    def on(self, part: slice = WHOLE) -> ReadColumns:
        assert self.rows_DE is not None
        resident_saes = {
            each.sae: sae_tables(self.saes[each.sae], part, CPU) for each in self.plan.resident_saes
        }
        made = columns_of(self.plan, self.rows_DE[part], resident_saes, CPU)
        assert made is not None
        return made

    def codes(self, scores_TE: Any, sae: Sae, features: Sequence[int]) -> Any:
        """What the pool makes of each token by itself."""
        pool = FeaturePool(self.facts)
        pool.grow(len(scores_TE))
        everyone = np.arange(len(scores_TE))
        pool.take(everyone, everyone, scores_TE)
        codes_TF = np.zeros((len(scores_TE), len(features)))
        for token in everyone:
            for each in pool.top(token, sae.digest, features, len(features)):
                codes_TF[token, features.index(each.feature)] = each.code
        return codes_TF


def logged_features(sae: Sae, features: Sequence[int]) -> tuple[LoggedFeature, ...]:
    return tuple(
        LoggedFeature(each, None, None if sae.needs_all_codes else feature_read(sae, each))
        for each in features
    )


def stream(count: int = 24, seed: int = 1) -> tuple[Any, Tensor]:
    narrow_TD = hidden(count, seed).astype(np.float32)
    return narrow_TD.astype(np.float64), torch.from_numpy(narrow_TD)


def told(made: Book, h_TD: Any, features: Sequence[int]) -> Any:
    """The textbook's codes."""
    return np.array([made.codes(h_D)[list(features)] for h_D in h_TD])


@pytest.mark.parametrize("features", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("form", FORMS)
def test_codes_of_every_form_are_the_textbooks(
    saes: dict[str, tuple[Book, Sae]], form: str, features: tuple[int, ...]
) -> None:
    made, sae = saes[form]
    h_TD, stream_TD = stream()
    laid = Laid([sae], features)
    scores_TE = laid.on().scores(stream_TD, None).numpy()
    wanted_TF = told(made, h_TD, features)
    assert np.abs(wanted_TF).max() > 0.5
    assert laid.codes(scores_TE, sae, features) == pytest.approx(wanted_TF, abs=1e-4)
    [column] = laid.columns["somebody"]
    assert scores_TE[:, column] == pytest.approx(h_TD @ ROW_D, abs=1e-4)


def test_several_saes_at_a_tap_are_read_side_by_side(saes: dict[str, tuple[Book, Sae]]) -> None:
    chosen = ["topk", "jumprelu", "relu of layer norm", "pursuit", "abstopk of constant norm"]
    laid = Laid([saes[form][1] for form in chosen], FEW)
    h_TD, stream_TD = stream()
    scores_TE = laid.on().scores(stream_TD, None).numpy()
    for form in chosen:
        made, sae = saes[form]
        wanted_TF = told(made, h_TD, FEW)
        assert laid.codes(scores_TE, sae, FEW) == pytest.approx(wanted_TF, abs=1e-4), form
    spread = [each for columns in laid.columns.values() for each in columns]
    assert sorted(spread) == list(range(scores_TE.shape[1]))


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("gated")])
def test_ranks_that_share_a_token_read_the_same_codes(
    saes: dict[str, tuple[Book, Sae]], form: str
) -> None:
    _, sae = saes[form]
    _, stream_TD = stream()
    laid, ranks = Laid([sae], FEW), Ranks(2, WIDTH)
    whole_TE = laid.on().scores(stream_TD, None)
    found: list[Tensor] = []

    def one_rank(part: slice) -> Tensor:
        found.append(laid.on(part).scores(stream_TD[:, part], ranks.all_reduce))
        return stream_TD[:, part]

    ranks.run(one_rank)
    assert len(found) == 2
    for each in found:
        assert torch.allclose(each, whole_TE, atol=1e-4)


def test_of_equal_codes_the_first_are_read_however_many_are_asked_for(
    saes: dict[str, tuple[Book, Sae]],
) -> None:
    made = made_as("topk")
    same = Book(**(vars(made) | {"W_enc": np.repeat(made.W_enc[:, :1], FEATURES, axis=1)}))
    same.b_enc[:] = 20.0
    _, stream_TD = stream()
    sae = saes["topk"][1]
    tables = sae_tables(sae, WHOLE, CPU)
    assert tables.encoder_DM is not None
    tables = tables._replace(
        encoder_DM=torch.from_numpy(same.W_enc.astype(np.float32)),
        encoder_bias_M=torch.from_numpy(same.b_enc.astype(np.float32)),
    )
    for features in (tuple(range(12)), tuple(range(FEATURES))):
        laid = Laid([sae], features)
        columns = columns_of(laid.plan, laid.rows_DE, {sae.digest: tables}, CPU)
        assert columns is not None
        scores_TE = columns.scores(stream_TD, None)[:, list(laid.columns[f"sae/{sae.digest}"])]
        assert sae.k is not None
        assert (scores_TE[:, : sae.k] > 0).all()
        assert not scores_TE[:, sae.k :].any()


HIDDEN = (
    Head(kind="mlp", hidden_width=5),
    Head(kind="mlp", hidden_width=7, normaliser="layer_norm"),
    Head(kind="mahalanobis", rank=3),
    Head(kind="attention", heads=2, hidden_width=4, normaliser="rms"),
    Head(normaliser="layer_norm"),
)


class LaidHeads:
    """One tap with a plain row and heads that have more before their rows."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self.tap = Tap(1, "resid_post")
        self.reads = [self._reads(number, head) for number, head in enumerate(heads)]
        wanted: list[Read] = [OwnedRow("somebody", self.tap, ROW_D)]
        for number, reads in enumerate(self.reads):
            wanted += reads_of(str(number), self.tap, reads)
        (self.plan,), self.columns, self.tensors = lay_out_reads({}, wanted, {self.tap: WIDTH})

    def _reads(self, number: int, head: Head) -> TapReads:
        generator = np.random.default_rng(number)
        arrays = {
            name: (0.3 * generator.normal(size=shape)).astype(np.float32)
            for name, shape in head.shapes(layers=1, width=WIDTH).items()
        }
        [reads] = make_head(head).reads(arrays)
        return reads

    def on(self, part: slice = WHOLE) -> ReadColumns:
        hidden = []
        for number in range(len(self.plan.hidden)):
            place = f"hidden/1/resid_post/{number}"
            arrays = {name: self.tensors[f"{place}/{name}"] for name in ("bias", "rows")}
            hidden.append(arrays | {"weights": self.tensors[f"{place}/weights"][part]})
        rows_DE = self.tensors["reads/1/resid_post"][part]
        made = columns_of(self.plan, rows_DE, {}, CPU, hidden)
        assert made is not None
        return made

    def wanted(self, h_TD: Any) -> Any:
        """Each head's columns, by the numpy reference."""
        found_TE = np.zeros((len(h_TD), self.plan.read_stop))
        found_TE[:, self.columns["somebody"]] = (h_TD @ ROW_D)[:, None]
        for number, reads in enumerate(self.reads):
            found_TE[:, self.columns[str(number)]] = read_tokens((reads,), h_TD[None])
        return found_TE


def test_hidden_layers_and_normalisers_give_what_their_heads_say() -> None:
    laid = LaidHeads(HIDDEN)
    h_TD, stream_TD = stream()
    scores_TE = laid.on().scores(stream_TD, None).numpy()
    assert scores_TE == pytest.approx(laid.wanted(h_TD), rel=1e-4, abs=1e-4)
    spread = sorted(each for columns in laid.columns.values() for each in columns)
    assert spread == list(range(laid.plan.read_stop))


def test_ranks_that_share_a_token_have_the_same_hidden_layers() -> None:
    laid, ranks = LaidHeads(HIDDEN), Ranks(2, WIDTH)
    h_TD, stream_TD = stream()
    found: list[Tensor] = []

    def one_rank(part: slice) -> Tensor:
        found.append(laid.on(part).scores(stream_TD[:, part], ranks.all_reduce))
        return stream_TD[:, part]

    ranks.run(one_rank)
    assert len(found) == 2
    for each in found:
        assert each.numpy() == pytest.approx(laid.wanted(h_TD), rel=1e-4, abs=1e-4)


def test_columns_are_found_again_by_their_names() -> None:
    columns = LaidHeads(HIDDEN).on()
    named = columns.named_tensors()
    _, stream_TD = stream()
    again = columns.on(named.__getitem__)
    assert torch.equal(again.scores(stream_TD, None), columns.scores(stream_TD, None))


def test_a_tap_of_plain_rows_runs_the_product_alone() -> None:
    tap = TapPlan(layer=1, site="resid_post", width=WIDTH, read_start=2, read_stop=4)
    rows_DE = np.stack([ROW_D, -ROW_D], axis=1)
    columns = columns_of(tap, rows_DE, {}, CPU)
    assert columns is not None
    _, stream_TD = stream()
    scores_TE = columns.scores(stream_TD, None)
    assert torch.equal(scores_TE, read(stream_TD, torch.from_numpy(rows_DE)))
    assert list(columns.named_tensors()) == ["reads"]
    nothing = tap.model_copy(update={"read_stop": 2})
    assert columns_of(nothing, None, {}, CPU) is None
