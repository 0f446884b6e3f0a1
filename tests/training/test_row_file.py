"""Files of pairs as spreadsheets and other sets write them: read, or named for what they are."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pilothouse.cli.sae.measure import read_prompts
from pilothouse.errors import ConfigError
from pilothouse.training.pair import load_pairs, load_questions, load_texts

BOM = b"\xef\xbb\xbf"
ROW = b'{"positive":"a b","negative":"c d"}\n'
TABLE = b"prompt,positive,negative\r\nwhere is it?, over there, no\r\n"


def put(folder: Path, name: str, content: bytes) -> Path:
    place = folder / name
    place.write_bytes(content)
    return place


def refusal(place: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_pairs(place)
    assert str(place) in str(caught.value)
    return str(caught.value)


def test_a_mark_in_front_is_no_part_of_the_text(tmp_path: Path) -> None:
    [pair] = load_pairs(put(tmp_path, "p.jsonl", BOM + ROW))
    assert (pair.positive, pair.negative) == ("a b", "c d")
    [row] = load_pairs(put(tmp_path, "p.csv", BOM + TABLE))
    assert (row.prompt, row.positive, row.negative) == ("where is it?", " over there", " no")
    assert load_texts(put(tmp_path, "t.csv", BOM + b"text\r\nhello\r\n")) == ("hello",)
    [question] = load_questions(put(tmp_path, "q.jsonl", BOM + b'{"prompt": "p", "answer": "a"}'))
    assert question.prompt == "p"
    assert read_prompts(put(tmp_path, "m.txt", BOM + b"one\ntwo\n")) == ["one", "two"]


@pytest.mark.parametrize(
    ("delimiter", "name"), [(b";", "semicolons"), (b"\t", "tabs"), (b"|", "bars")]
)
def test_a_table_without_commas_is_named_with_what_turns_it_into_one(
    tmp_path: Path, delimiter: bytes, name: str
) -> None:
    place = put(tmp_path, "euro.csv", TABLE.replace(b",", delimiter))
    told = refusal(place)
    assert f"is divided by {name}, want commas" in told
    command = told.split("want commas: ")[1]
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    [pair] = load_pairs(tmp_path / "pairs.csv")
    assert (pair.prompt, pair.positive) == ("where is it?", " over there")


@pytest.mark.parametrize("layout", ["line", "lines", "pretty"])
def test_a_json_array_is_named_with_what_turns_it_into_lines(tmp_path: Path, layout: str) -> None:
    rows = [{"positive": "a", "negative": "b"}, {"positive": "c", "negative": "d"}]
    text = {
        "line": json.dumps(rows),
        "pretty": json.dumps(rows, indent=2),
        "lines": "[" + ",\n".join(map(json.dumps, rows)) + "]",
    }[layout]
    told = refusal(put(tmp_path, "all.json", text.encode()))
    assert "got one JSON array, want one object on each line" in told
    subprocess.run(["bash", "-c", told.split("each line: ")[1]], cwd=tmp_path, check=True)
    assert len(load_pairs(tmp_path / "pairs.jsonl")) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.jsonl", json.dumps({"positive": "a"}, indent=1).encode(), "got one JSON object"),
        ("p.jsonl", TABLE, "name the file .csv"),
        ("p.csv", TABLE.decode().encode("utf-16"), "got UTF-16, want UTF-8: save it as CSV UTF-8"),
        ("p.csv", TABLE.decode().encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8"),
        ("p.csv", TABLE.replace(b" it?", b" \xe9?"), "line 2: not UTF-8 text (byte 0xe9)"),
        ("p.csv", b"PK\x03\x04 and more", "got a spreadsheet (.xlsx or .ods)"),
        ("p.jsonl", b"\x1f\x8b\x08", "compressed (gzip)"),
        ("p.csv", b"sep=;\r\n" + TABLE.replace(b",", b";"), "line 1 says 'sep=;'"),
        ("p.csv", b"prompt,prompt,positive\r\na,b,c\r\n", "'prompt' twice"),
        ("p.csv", b'positive,negative\r\n"a,b\r\n', "not CSV"),
    ],
)
def test_other_files_are_named_for_what_they_are(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    assert said in refusal(put(tmp_path, name, content))


def test_what_excel_adds_is_passed_over(tmp_path: Path) -> None:
    content = b'sep=,\r\nPrompt, Positive ,negative,\r\n"a ""b""\r\nc", d, e,\r\n,,,\r\n'
    [pair] = load_pairs(put(tmp_path, "P.CSV", BOM + content))
    assert (pair.prompt, pair.positive, pair.negative) == ('a "b"\r\nc', " d", " e")


def test_a_cell_under_no_name_is_wrong(tmp_path: Path) -> None:
    told = refusal(put(tmp_path, "p.csv", b"sep=,\r\npositive,negative,\r\na,b,c\r\n"))
    assert "line 3: want 2 cells as in the head line" in told


CAA = {"question": "Q", "answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)"}
PREFERENCE = {"prompt": "Q", "chosen": " yes", "rejected": " no"}


@pytest.mark.parametrize("row", [CAA, PREFERENCE])
def test_fields_of_another_set_are_told_once_with_the_renaming(
    tmp_path: Path, row: dict[str, str]
) -> None:
    place = put(tmp_path, "set.jsonl", "\n".join([json.dumps(row)] * 12).encode())
    told = refusal(place)
    assert len(told.splitlines()) == 1
    assert "missing are negative, positive" in told
    subprocess.run(["bash", "-c", told.split("rename: ")[1]], cwd=tmp_path, check=True)
    assert {each.prompt for each in load_pairs(place)} == {"Q"}


def test_a_table_of_another_set_is_renamed_in_its_head(tmp_path: Path) -> None:
    place = put(tmp_path, "set.csv", b"question,chosen,rejected\r\nchosen, yes, no\r\n")
    told = refusal(place)
    subprocess.run(["bash", "-c", told.split("rename: ")[1]], cwd=tmp_path, check=True)
    [pair] = load_pairs(place)
    assert (pair.prompt, pair.positive, pair.negative) == ("chosen", " yes", " no")


def test_unknown_fields_are_told_line_by_line(tmp_path: Path) -> None:
    told = refusal(put(tmp_path, "p.jsonl", b'{"left": "a", "right": "b"}\n'))
    assert "line 1: positive: Field required" in told
