"""Labels come from strongest contexts, and are tested on text that they were not taken from."""

from __future__ import annotations

import numpy as np
import pytest

from pilothouse.demo.sae.concepts import CONCEPTS
from pilothouse.demo.sae.labels import (
    LOTS,
    STRONGEST,
    Label,
    by_lot,
    detected,
    in_reach,
    labels_of,
    strongest_contexts,
    widened,
)
from pilothouse.demo.sae.lines import Line, Rows
from tests.support.training.sae_samples import codes_where, line_of, many_lines

MUSIC, SPORT = CONCEPTS["music"], CONCEPTS["sport"]
FEATURES = 80


def a_text() -> tuple[list[Line], Rows]:
    lines = [*many_lines(["guitar", "piano"], 80), *many_lines(["football"], 80)]
    return lines, Rows.of(lines)


def test_a_token_counts_when_any_part_of_it_lies_in_a_word_of_the_class() -> None:
    line = line_of("the (guitar) is old")
    assert line.stands_in_T(MUSIC).tolist() == [False, True, False, False]


def test_reach_goes_both_ways_and_not_over_the_ends() -> None:
    stands_T = np.array([0, 0, 1, 0, 0, 0, 1], bool)
    assert widened(stands_T, 0).tolist() == stands_T.tolist()
    assert widened(stands_T, 1).tolist() == [False, True, True, True, False, True, True]
    assert widened(stands_T[:1], 8).tolist() == [False]


def test_rows_are_the_lines_tokens_from_the_first_that_is_to_be_known() -> None:
    lines = [line_of("a b c", first=1), line_of("d e", held_out=True)]
    rows = Rows.of(lines)
    assert rows.line_R.tolist() == [0, 0, 1, 1]
    assert rows.position_R.tolist() == [1, 2, 0, 1]
    assert rows.is_held_out_R.tolist() == [False, False, True, True]


def test_reach_is_asked_of_the_rows_that_are_left() -> None:
    lines = [line_of("a guitar here"), line_of("a b c"), line_of("piano")]
    kept_R = np.array([1, 1, 0, 0, 0, 0, 1], bool)
    found_R = in_reach(lines, Rows.of(lines).at(kept_R), MUSIC, 0)
    assert found_R.tolist() == [False, True, True]


def test_the_strongest_contexts_are_one_of_each_line_the_largest_code_first() -> None:
    line_R = np.array([0, 0, 1, 2])
    codes_RM = codes_where(2, {0: np.array([1.0, 4.0, 2.0, 3.0])})
    rows_MK = strongest_contexts(codes_RM, line_R)
    assert rows_MK[0, :4].tolist() == [1, 3, 2, -1]
    assert (rows_MK[1] == -1).all()


def planted() -> tuple[list[Line], Rows, object]:
    """Feature 3 is on at music, 5 at sport, 7 at both, 9 anywhere, 11 at music but too seldom."""
    lines, rows = a_text()
    music_R, sport_R = (in_reach(lines, rows, each, 0) for each in (MUSIC, SPORT))
    noise_R = np.random.default_rng(0).random(len(music_R))
    seldom_R = music_R & (np.cumsum(music_R) < STRONGEST)
    codes_RM = codes_where(
        FEATURES,
        {
            3: music_R * (1 + noise_R),
            5: sport_R * (1 + noise_R),
            7: (music_R | sport_R) * (1 + noise_R),
            9: noise_R,
            11: seldom_R * (2 + noise_R),
        },
    )
    return lines, rows, codes_RM


def test_a_label_goes_to_the_feature_that_tells_its_words_best_and_no_feature_gets_two() -> None:
    lines, rows, codes_RM = planted()
    concepts = {each.name: each for each in (MUSIC, SPORT, CONCEPTS["colours"])}
    found = {each.name: each for each in labels_of(codes_RM, lines, rows, concepts, lambda _: None)}
    assert {name: (each.feature, each.reach) for name, each in found.items()} == {
        "music": (3, 0),
        "sport": (5, 0),
    }
    assert found["music"].auroc == 1.0 and found["music"].share == 1.0
    assert set(found["music"].strongest) == {"guitar", "piano"}


def test_a_planted_feature_is_detected_and_features_by_lot_are_not() -> None:
    lines, rows, codes_RM = planted()
    label = Label(3, "music", 0, 1.0, 1.0, ("guitar",))
    found = detected(codes_RM, lines, rows, label, MUSIC, [3, 5, 7, 11], 0)
    assert found is not None
    assert found.auroc.estimate == found.text_auroc == found.found_at_five_percent == 1.0
    assert found.positive == 40 and found.tokens == len(rows.line_R)


def test_text_without_the_words_has_no_figures() -> None:
    lines, rows, codes_RM = planted()
    label = Label(3, "colours", 0, 1.0, 1.0, ())
    assert detected(codes_RM, lines, rows, label, CONCEPTS["colours"], [3], 0) is None


def test_lots_fall_on_live_features_without_a_label_that_are_on_as_often() -> None:
    on = {each: (np.arange(400) < 4 * each).astype(float) for each in range(1, 79)}
    codes_RM = codes_where(FEATURES, on)
    drawn = by_lot(codes_RM, 40, [38, 39, 41], 0)
    assert len(set(drawn)) == LOTS
    assert not set(drawn) & {0, 79, 38, 39, 40, 41}
    assert drawn == by_lot(codes_RM, 40, [38, 39, 41], 0)
    assert max(abs(each - 40) for each in drawn) <= 40


def test_a_feature_that_is_on_at_random_is_at_chance() -> None:
    lines, rows, codes_RM = planted()
    label = Label(9, "music", 0, 1.0, 0.5, ())
    found = detected(codes_RM, lines, rows, label, MUSIC, [3, 5, 7, 11], 0)
    assert found is not None
    assert found.auroc.low < 0.5 < found.auroc.high
    assert found.auroc.estimate == pytest.approx(0.5, abs=0.12)
