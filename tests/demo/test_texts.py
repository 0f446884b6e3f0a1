"""Labelled texts: how forms, shares, overlap and digests treat them. No real set is read here."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pilothouse.demo.part_reader import without_overlap
from pilothouse.demo.texts import text_set
from pilothouse.demo.texts.sets import SETS
from pilothouse.demo.texts.text_set import Text, TextSet, alike, digest_of, json_lines
from pilothouse.demo.wheels import WHEELS
from pilothouse.errors import ConfigError


def test_texts_that_differ_in_case_and_final_marks_become_alike() -> None:
    forms = [
        "How do I bake  bread?",
        "how do i bake bread",
        "How do I bake bread...",
        "HOW DO I\nbake bread!",
    ]
    assert {alike(each) for each in forms} == {"how do i bake bread"}


def test_a_text_of_marks_alone_is_not_made_empty() -> None:
    assert alike("???") == "???"


def test_a_group_is_dealt_out_whole_and_groups_evenly() -> None:
    assert Text("a", True, "g").share == Text("b", False, "g").share
    shares = [Text("", True, str(number)).share for number in range(2000)]
    assert 0.45 < sum(each < 0.5 for each in shares) / 2000 < 0.55


def test_a_test_text_that_says_what_a_fitted_one_says_is_left_out() -> None:
    fitted = [Text("Write a poem about the rain in spring", True, "1")]
    same = Text("write a poem about the rain in spring.", True, "2")
    other = Text("Write a letter to the town about its bins", True, "3")
    assert without_overlap([same, other], fitted) == [other]


def test_answers_are_told_apart_by_their_questions() -> None:
    fitted = [Text("London", True, "1", question="where does the queen of england live")]
    other = Text("London", True, "2", question="which city lies on the river thames")
    assert without_overlap([other], fitted) == [other]


def read(file: str) -> list[Text]:
    return [Text(str(each["said"]), True, str(each["said"])) for each in json_lines(file)]


def a_set(count: int, digest: str, path: str = "a/data.jsonl") -> TextSet:
    return TextSet("tiny", "tiny-wheel", (path,), "MIT", count, digest, read)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "tiny.whl"
    with zipfile.ZipFile(place, "w") as made:
        made.writestr("a/data.jsonl", '{"said": "one"}\n{"said": "two"}\n')
    monkeypatch.setattr(text_set, "wheel_path", lambda *_: place)


@pytest.mark.usefixtures("wheel")
def test_a_set_is_read_out_of_its_wheel() -> None:
    wanted = [Text("one", True, "one"), Text("two", True, "two")]
    assert a_set(2, digest_of(wanted)).texts(lambda _: None) == wanted


@pytest.mark.usefixtures("wheel")
def test_a_set_that_reads_otherwise_than_it_did_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tiny: got 2 texts with digest \w+, want 2 with 00"):
        a_set(2, "00").texts(lambda _: None)
    with pytest.raises(ConfigError, match="tiny is not where it was"):
        a_set(2, "00", path="b.jsonl").texts(lambda _: None)


def test_a_digest_hangs_on_label_and_group() -> None:
    plain = Text("one", True, "one")
    others = [Text("one", False, "one"), Text("one", True, "two"), Text("one", True, "one", "k")]
    assert len({digest_of([each]) for each in (plain, *others)}) == 4


def test_every_set_is_in_a_pinned_wheel_and_names_its_licence() -> None:
    for name, each in SETS.items():
        assert name == each.name
        assert each.wheel in WHEELS
        assert each.licence and each.paths
