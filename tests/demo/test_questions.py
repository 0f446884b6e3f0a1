"""Questions are dealt out so that nothing fitted is tested, and facts are told in any language."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from pilothouse.demo import questions
from pilothouse.demo.questions import Fact, load_facts, open_questions
from pilothouse.errors import ConfigError
from pilothouse.library import library_path
from pilothouse.training.pair import Message, Pair, load_pairs

NAMES = ("cheerful", "formal", "brief", "french", "spanish", "hedged", "refuses")
ASKED = [f"Explain {each} to {each}s who know {each}ing." for each in "abcdefghij"]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with ten instructions, in the place of the one of the package index."""
    path = tmp_path / "some.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"some/{questions.MEMBER}", json.dumps(ASKED))
    monkeypatch.setattr(questions, "wheel_path", lambda _name, _tell: path)
    return path


def pair(question: str) -> Pair:
    return Pair(
        messages=(Message(role="user", content=question),), positive="one", negative="other"
    )


def dealt(pairs: list[Pair], choosing: int, testing: int, seed: int = 0) -> questions.Questions:
    return open_questions(
        pairs, choosing=choosing, testing=testing, seed=seed, tell=lambda _line: None
    )


@pytest.mark.usefixtures("wheel")
def test_no_question_both_chooses_and_tests() -> None:
    found = dealt([], 4, 6)
    assert set(found.choosing) | set(found.testing) == set(ASKED)
    assert not set(found.choosing) & set(found.testing)


@pytest.mark.usefixtures("wheel")
def test_what_is_close_to_a_pair_is_left_out() -> None:
    found = dealt([pair("explain c to cs who know cing, please")], 4, 5)
    assert found.dropped == 1
    assert ASKED[2] not in found.choosing + found.testing


@pytest.mark.usefixtures("wheel")
def test_the_seed_settles_who_gets_what() -> None:
    assert dealt([], 4, 4) == dealt([], 4, 4)
    assert dealt([], 4, 4) != dealt([], 4, 4, seed=1)


@pytest.mark.usefixtures("wheel")
def test_too_few_are_an_error() -> None:
    with pytest.raises(ConfigError, match="got 10 open questions, want 11"):
        dealt([], 5, 6)


def test_a_wheel_without_the_file_is_an_error(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other.json", "[]")
    with pytest.raises(ConfigError, match="want one file"):
        dealt([], 1, 1)


def test_an_answer_counts_as_words_of_its_own_in_any_of_its_languages() -> None:
    fact = Fact("What is the capital of China?", "Beijing", ("Pékin", "Pekín"))
    assert fact.is_in("It is BEIJING.")
    assert fact.is_in("La capitale est pekin!")
    assert not fact.is_in("It is Beijingston.")
    assert not fact.is_in("")


def test_facts_are_dealt_by_the_seed_and_none_is_lost() -> None:
    facts = load_facts(library_path("examples/smol"))
    order = questions.dealt(facts, 0)
    assert order == questions.dealt(facts[::-1], 0)
    assert order != questions.dealt(facts, 1)
    assert sorted(each.question for each in order) == sorted(each.question for each in facts)


def test_our_facts_are_enough_and_none_is_a_question_of_the_pairs() -> None:
    folder = library_path("examples/smol")
    facts = load_facts(folder)
    asked = [each.question for each in facts]
    pairs = [each for name in NAMES for each in load_pairs(folder / "pairs" / f"{name}.jsonl")]
    fitted = {each.messages[-1].content for each in pairs if each.messages}
    assert len(facts) >= 300
    assert len(set(asked)) == len(asked)
    assert not fitted & set(asked)
    assert any(each.others for each in facts)


@pytest.mark.parametrize("name", NAMES)
def test_our_pairs_are_enough_and_say_about_as_much_on_both_sides(name: str) -> None:
    pairs = load_pairs(library_path("examples/smol") / "pairs" / f"{name}.jsonl")
    digests = {hashlib.sha256(each.context.encode()).digest() for each in pairs}
    assert 40 <= len(pairs) <= 80
    assert len(digests) == len(pairs)
    if name != "brief":
        ratios = [len(each.positive) / len(each.negative) for each in pairs]
        assert all(0.55 < each < 1.7 for each in ratios), sorted(ratios)
