"""Files of pairs, questions and texts; and the split: by group, steady, nothing in two parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pilothouse.errors import ConfigError
from pilothouse.training.pair import Pair, divide, load_pairs, load_questions, load_texts


def lines(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in rows))
    return path


def test_three_forms_are_read(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    texts, continued, answered = load_pairs(
        lines(
            tmp_path / "pairs.jsonl",
            {"positive": "good", "negative": "bad"},
            {"prompt": "it is", "positive": " good", "negative": " bad", "group": "g"},
            "",
            {"messages": chat, "positive": "good", "negative": "bad"},
        )
    )
    assert (texts.context, continued.context) == ("", "it is")
    assert json.loads(answered.context) == chat
    assert continued.group_name == "g"
    assert texts.group_name == json.dumps(["good", "bad"])


def test_a_csv_is_read_with_its_head_and_quotes(tmp_path: Path) -> None:
    place = tmp_path / "pairs.csv"
    place.write_text('prompt,positive,negative\n"a, b", c, d\n,e,f\n')
    first, second = load_pairs(place)
    assert (first.prompt, first.positive, first.negative) == ("a, b", " c", " d")
    assert second.prompt is None


def test_pairs_of_the_same_prompt_are_one_group(tmp_path: Path) -> None:
    row = {"prompt": "p", "positive": "a", "negative": "b"}
    one, other = load_pairs(lines(tmp_path / "p.jsonl", row, row | {"positive": "c"}))
    assert one.group_name == other.group_name


USER = {"role": "user", "content": "d"}
WRONG = [
    ("{", "line 2: not JSON"),
    ("[1]", "line 2: got '[1]', want an object"),
    ({"positive": "a"}, "line 2: negative: Field required"),
    ({"positive": "a", "negative": ""}, "line 2: negative: String should have at least 1"),
    ({"positive": "a", "negative": "b", "other": 1}, "line 2: other: Extra inputs"),
    ({"positive": "a", "negative": "a"}, "same text"),
    ({"positive": 1, "negative": "a"}, "line 2: positive: Input should be a valid string"),
    (
        {"positive": "a", "negative": "b", "prompt": "c", "messages": [USER]},
        "both prompt and messages",
    ),
    ({"positive": "a", "negative": "b", "messages": []}, "line 2: messages: Tuple should have"),
    (
        {"positive": "a", "negative": "b", "messages": [USER | {"role": "boss"}]},
        "line 2: messages: 0: role",
    ),
]


@pytest.mark.parametrize(("row", "told"), WRONG)
def test_a_wrong_line_is_told_with_its_number(tmp_path: Path, row: object, told: str) -> None:
    place = lines(tmp_path / "p.jsonl", {"positive": "a", "negative": "b"}, row)
    with pytest.raises(ConfigError) as raised:
        load_pairs(place)
    assert told in str(raised.value) and str(place) in str(raised.value)


def test_every_wrong_line_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_pairs(lines(tmp_path / "p.jsonl", *["{"] * 30))
    assert "line 1:" in str(raised.value) and "line 20:" in str(raised.value)
    assert "and 10 more" in str(raised.value)


def test_a_csv_row_with_other_cells_than_the_head_is_wrong(tmp_path: Path) -> None:
    place = tmp_path / "p.csv"
    place.write_text("positive,negative\na,b\nc,d,e\n")
    with pytest.raises(ConfigError, match="line 3: want 2 cells"):
        load_pairs(place)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n"])
def test_an_empty_or_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "p.jsonl"
    place.write_bytes(content)
    with pytest.raises(ConfigError, match=r"p\.jsonl"):
        load_pairs(place)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_pairs(tmp_path / "nothing.jsonl")


def test_questions_and_texts_are_read_the_same_way(tmp_path: Path) -> None:
    [question] = load_questions(lines(tmp_path / "q.jsonl", {"prompt": "2+2?", "answer": "4"}))
    assert question.answer == "4"
    with pytest.raises(ConfigError, match="neither prompt nor messages"):
        load_questions(lines(tmp_path / "q.jsonl", {"answer": "4"}))
    assert load_texts(lines(tmp_path / "t.jsonl", {"text": "hello"})) == ("hello",)


def pairs(count: int, groups: int) -> list[Pair]:
    return [Pair(positive=f"p{n}", negative=f"n{n}", group=f"g{n % groups}") for n in range(count)]


def test_no_group_is_in_two_parts_and_every_pair_in_one() -> None:
    given = pairs(60, 20)
    parts = divide(given, seed=3)
    groups = [{given[n].group_name for n in part} for part in parts]
    assert sorted(n for part in parts for n in part) == list(range(60))
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert [len(each) for each in groups] == [10, 5, 5]


def test_a_groups_side_hangs_on_name_and_seed_alone() -> None:
    given = pairs(40, 40)
    turned = given[::-1]
    names = [{given[n].group_name for n in part} for part in divide(given, 1)]
    assert names == [{turned[n].group_name for n in part} for part in divide(turned, 1)]
    assert names != [{given[n].group_name for n in part} for part in divide(given, 2)]


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 40 in 7 groups, want at least 8"):
        divide(pairs(40, 7), 0)
