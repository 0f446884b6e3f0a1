"""The figures of a reconstruction, against ones worked out by hand; edits and the page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.matrix import Matrix
from pilothouse.demo.answers import Answer
from pilothouse.demo.sae.concepts import CONCEPTS
from pilothouse.demo.sae.edits import (
    Candidate,
    Heard,
    against,
    bar_of,
    changed,
    terms_of,
    value_of,
)
from pilothouse.demo.sae.reconstruction import Explained, Losses, explained
from pilothouse.demo.sae.sae_card import Screened
from pilothouse.demo.sae.stream import Learnt, is_ordinary
from pilothouse.edits.sae_codes import decode, encode
from pilothouse.types import Tap
from tests.support.training.sae_samples import line_of

WIDTH, FEATURES = 6, 12


def an_sae(scale: float = 1.0) -> Sae:
    """A ReLU SAE that tells each dimension and its opposite: it loses nothing where scale is 1."""
    whole_DM = np.concatenate([np.eye(WIDTH), -np.eye(WIDTH)], axis=1)
    return Sae(
        name="tiny",
        model_id="m",
        tap=Tap(0, "resid_post"),
        form="relu",
        encoder_DM=Matrix(whole_DM),
        encoder_bias_M=np.zeros(FEATURES),
        decoder_MD=Matrix(scale * whole_DM.T),
        decoder_bias_D=np.zeros(WIDTH),
        average_norm=10.0,
    )


def learnt() -> Learnt:
    lines = [line_of("a b c d"), line_of("e f g", held_out=True), line_of("h i", held_out=True)]
    hidden_RD = np.random.default_rng(0).normal(1.0, 1.0, (9, WIDTH)).astype(np.float16)
    return Learnt(hidden_RD, lines)


def nothing(_title: str, _total: int | None) -> Any:
    return lambda _count: None


def test_an_sae_that_loses_nothing_explains_all() -> None:
    found = explained(an_sae(), learnt(), nothing)
    assert found.explained_variance(0).estimate == pytest.approx(1.0, abs=1e-12)
    assert found.l0(0).estimate == WIDTH
    assert found.table_N4[:, 0].tolist() == [3, 2]


def test_explained_variance_is_of_held_out_rows_about_their_mean() -> None:
    sae, given = an_sae(scale=0.8), learnt()
    rows_RD = given.hidden_RD[given.rows.is_held_out_R].astype(np.float64)
    left_RD = rows_RD - decode(sae, encode(sae, rows_RD), rows_RD)
    varies = ((rows_RD - rows_RD.mean(axis=0)) ** 2).sum()
    found = explained(sae, given, nothing)
    told = found.explained_variance(0)
    assert told.estimate == pytest.approx(1 - (left_RD**2).sum() / varies)
    assert told.low <= told.estimate <= told.high
    assert (found.fired_M > 0).sum() == np.any(encode(sae, rows_RD) > 0, axis=0).sum()


def test_loss_recovered_is_nought_at_the_mean_and_one_without_a_loss() -> None:
    table_N4 = np.array([[10, 20.0, 20.0, 50.0], [10, 30.0, 30.0, 60.0]])
    assert Losses(table_N4).recovered(0).estimate == 1.0
    as_the_mean = table_N4[:, [0, 1, 3, 3]]
    assert Losses(as_the_mean).recovered(0).estimate == 0.0
    half = np.array([[10, 20.0, 30.0, 40.0]])
    assert Losses(half).recovered(0).estimate == 0.5
    assert Losses(half).per_token == (2.0, 3.0, 4.0)


def test_ratios_are_of_sums_and_not_means_of_ratios() -> None:
    table_N4 = np.array([[1, 10, 0, 1], [9, 0, 0, 1]], np.float64)
    assert Explained(table_N4, np.zeros(1, np.int64), np.zeros(1)).l0(0).estimate == 1.0


def test_a_stream_out_of_the_ordinary_is_not_learnt() -> None:
    hidden_RD = np.ones((8, WIDTH), np.float16)
    hidden_RD[2] *= 5
    assert is_ordinary(hidden_RD).tolist() == [True, True, False, *[True] * 5]
    found = Learnt(hidden_RD, [line_of("a b c d e f g h")])
    assert found.left_out == 1 and len(found.hidden_RD) == 7
    assert found.rows.position_R.tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert found.average_norm == pytest.approx(WIDTH**0.5, rel=1e-3)


def test_a_strength_is_the_length_that_is_written_whatever_the_decoders_rows() -> None:
    for scale in (0.5, 2.0):
        sae = an_sae(scale)
        value = value_of(sae, 3, 0.4)
        assert value * scale == pytest.approx(0.4 * 10.0)


def test_an_edit_sets_the_feature_where_the_answer_comes_from_and_in_it() -> None:
    last, output = terms_of("tiny", "music", 2.5)
    assert last.positions is not None and last.on == "prompt"
    assert output.on == "output" and output.positions is None
    assert {each.feature for each in (last, output)} == {"music"}
    assert {each.value for each in (last, output)} == {2.5}


def test_the_weakest_of_equal_strengths_is_taken() -> None:
    tried = tuple(
        Screened(strength=strength, changed=share)
        for strength, share in ((0.2, 0.3), (0.3, 0.7), (0.4, 0.7))
    )
    assert Candidate(0, CONCEPTS["music"], tried).best.strength == 0.3


def heard(*said: str) -> Heard:
    return Heard(
        tuple(f"q{at}" for at in range(len(said))), tuple(Answer((), each) for each in said)
    )


def test_an_answer_is_judged_by_the_words_of_the_label() -> None:
    given = heard("I like the band and its singer.", "I like the sea.")
    assert given.counts(CONCEPTS["music"]) == [2.0, 0.0]
    assert given.counts(CONCEPTS["water and sea"]) == [0.0, 1.0]


def test_nine_in_ten_plain_answers_do_not_pass_the_bar() -> None:
    assert bar_of([0.0] * 9 + [4.0]) == 0.0
    assert bar_of([0.0] * 8 + [1.0, 4.0]) == 1.0


def test_an_answer_changes_beyond_its_plain_one_and_beyond_the_bar() -> None:
    plain = heard("A song.", *["So be it."] * 7, "A band.", "A band and its singer.")
    # One more than its own plain answer is not enough where others have as many by themselves.
    edited = heard("A song, a band.", "A band.", "A band, a drum.", "music " * 30)
    assert changed(CONCEPTS["music"], plain, edited) == [True, False, True, False]
    found = against(CONCEPTS["music"], plain, edited, 0)
    assert (found.n, found.changed.estimate, found.degenerate) == (4, 0.5, 0.25)
    assert found.effect.estimate == (1 + 1 + 2 + 0) / 4
