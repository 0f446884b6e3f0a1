"""Labelled texts from files: what is read, and what every wrong row is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.errors import ConfigError
from pilothouse.probes.baseline import BEHIND
from pilothouse.training.probe_data import LabelledFile, Reading, canonical, load_labelled

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
ANSWER = {"role": "assistant", "content": "Because."}


def jsonl(path: Path, *rows: object) -> Path:
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def read(path: Path, **reading: object) -> LabelledFile:
    columns = reading.pop("columns", {})
    return load_labelled(path, Reading(columns=tuple(dict(columns).items()), **reading))  # type: ignore[call-overload, arg-type]


def told(path: Path, **reading: object) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path, **reading)
    return str(caught.value)


def test_texts_conversations_and_groups_are_read(tmp_path: Path) -> None:
    place = jsonl(
        tmp_path / "a.jsonl",
        {"text": "How do I whittle?", "label": 0, "group": 7, "source": "wood\n work"},
        {"messages": MESSAGES, "label": True},
    )
    first, second = read(place).rows
    assert (first.label, first.group, first.source, first.answer) == (False, "7", "wood work", None)
    assert first.said("as written") == "How do I whittle?"
    assert first.said("alike") == "how do i whittle"
    assert (second.label, second.source, second.line) == (True, "a.jsonl", 2)
    assert [each.role for each in second.turns] == ["system", "user"]
    assert second.in_form("alike").turns[0].content == "Be brief."


def test_answers_stand_in_a_column_or_end_a_conversation(tmp_path: Path) -> None:
    place = jsonl(
        tmp_path / "a.jsonl",
        {"text": "Why?", "answer": "So.", "label": "yes"},
        {"messages": [*MESSAGES, ANSWER], "label": "no"},
    )
    found = read(place)
    assert found.has_answers
    assert [each.answer for each in found.rows] == ["So.", "Because."]
    assert found.rows[0].said("alike") == f"why{BEHIND}so"
    assert len(found.rows[1].turns) == 2


def test_answers_to_one_question_are_one_group(tmp_path: Path) -> None:
    rows = [{"text": "Why?", "answer": each, "label": each == "a"} for each in "ab"]
    one, other = read(jsonl(tmp_path / "a.jsonl", *rows)).rows
    assert one.group == other.group


def test_a_csv_of_excel_with_other_names_is_read(tmp_path: Path) -> None:
    place = tmp_path / "a.csv"
    text = 'Prompt,Kind,Origin\n"Do it, now",attack,x\nHello,plain,y\n'
    place.write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = read(
        place,
        columns={"text": "Prompt", "label": "kind", "source": "origin"},
        positive=("Attack",),
    )
    assert [each.label for each in found.rows] == [True, False]
    assert [each.source for each in found.rows] == ["x", "y"]
    assert found.rows[0].turns[0].content == "Do it, now"
    assert any("'plain' (1) negative" in each for each in found.notes)


def test_messages_in_a_cell_are_json(tmp_path: Path) -> None:
    place = tmp_path / "a.csv"
    cell = json.dumps(MESSAGES).replace('"', '""')
    place.write_text(f'messages,label\n"{cell}",1\n')
    assert read(place).rows[0].turns[1].content == "Why?"


def test_rows_that_repeat_are_used_once_and_counted(tmp_path: Path) -> None:
    row = {"text": "Same.", "label": 1}
    found = read(jsonl(tmp_path / "a.jsonl", row, row, {"text": "other", "label": 0}))
    assert (len(found.rows), found.repeated) == (2, 1)
    assert any("1 rows say what another says" in each for each in found.notes)


def test_texts_that_differ_in_case_alone_are_one_group(tmp_path: Path) -> None:
    place = jsonl(
        tmp_path / "a.jsonl",
        {"text": "Same.", "label": 1, "group": "a"},
        {"text": "same", "label": 1, "group": "b"},
        {"text": "SAME!", "label": 0, "group": "c"},
        {"text": "unlike", "label": 0, "group": "b"},
    )
    found = read(place)
    assert len({each.group for each in found.rows}) == 1
    assert any("another label than one that differs in case" in each for each in found.notes)


GOOD = {"text": "fine", "label": 0}
WRONG = [
    ({"text": "a", "label": "maybe"}, "line 2: label: got 'maybe', want true, yes"),
    ({"text": "a", "label": "maybe"}, "--positive VALUE"),
    ({"text": "a"}, "line 2: label: got none, want a value"),
    ({"text": "a", "label": None}, "line 2: label: got none"),
    ({"text": "a", "label": float("nan")}, "line 2: label: got nan"),
    ({"text": "a", "label": [1]}, "line 2: label: got [1]"),
    ({"label": 1}, "line 2: text, messages: got neither"),
    ({"text": "a", "messages": MESSAGES, "label": 1}, "line 2: text, messages: got both"),
    ({"text": "  ", "label": 1}, "line 2: text: got '  ', want text that is not blank"),
    ({"text": 5, "label": 1}, "line 2: text: got 5, want text"),
    ('{"text": "a\\ud800", "label": 1}', "line 2: text: got half a character"),
    ({"messages": [], "label": 1}, "line 2: messages: got an empty list"),
    ({"messages": "hi", "label": 1}, "line 2: messages: got 'hi', want a JSON list"),
    ({"messages": [{"role": "robot", "content": "a"}], "label": 1}, "messages.0.role: Input"),
    ({"messages": [ANSWER], "label": 1}, "line 2: messages: got nothing asked"),
    ({"text": "a", "answer": "b", "label": 1}, "got 1 rows with an answer and 1 without"),
    ("{", "line 2: not JSON"),
]


@pytest.mark.parametrize(("row", "want"), WRONG)
def test_a_wrong_row_is_named_by_line_and_field(tmp_path: Path, row: object, want: str) -> None:
    assert want in told(jsonl(tmp_path / "a.jsonl", GOOD, row))


def test_one_text_under_both_labels_ends_it(tmp_path: Path) -> None:
    place = jsonl(tmp_path / "a.jsonl", {"text": "x", "label": 0}, {"text": "x", "label": 1})
    assert "got 1 texts under both labels (lines 1 and 2)" in told(place)


def test_columns_that_are_not_there_are_named_with_the_flag(tmp_path: Path) -> None:
    place = tmp_path / "a.csv"
    place.write_text("prompt,toxicity\nhello,0\n")
    said = told(place)
    assert "got columns prompt, toxicity, want text or messages, and label" in said
    assert "--column text=prompt --column label=toxicity" in said
    assert "column 'words': got columns" in told(place, columns={"text": "words"})
    assert "column: got speech=..." in told(place, columns={"speech": "prompt"})


def test_a_value_that_is_neither_listed_is_wrong(tmp_path: Path) -> None:
    place = jsonl(tmp_path / "a.jsonl", {"text": "a", "label": "x"}, {"text": "b", "label": "z"})
    assert "want one of ['x', 'y']" in told(place, positive=("x",), negative=("y",))
    assert "'x' in both" in told(place, positive=("x",), negative=("X",))
    assert "want values of `positive` too" in told(place, negative=("y",))


def test_other_kinds_of_file_are_named_with_what_to_do(tmp_path: Path) -> None:
    parquet, semicolons = tmp_path / "a.parquet", tmp_path / "a.csv"
    parquet.write_bytes(b"PAR1xxxxPAR1")
    assert "got Parquet, want JSON lines or CSV" in told(parquet)
    assert "read_parquet" in told(parquet)
    semicolons.write_text("text;label\na;1\n")
    assert "divided by semicolons, want commas" in told(semicolons)
    assert "got no rows" in told(jsonl(tmp_path / "b.jsonl", ""))
    assert "No such file" in told(tmp_path / "nothing.csv")


@given(st.one_of(st.booleans(), st.integers(-3, 3)))
def test_spellings_of_a_value_are_one(value: bool | int) -> None:
    assert canonical(value) == canonical(f" {str(value).upper()} ")
    assert canonical(1.0) == canonical(1) == canonical("1")
