"""The search finds the place and the dose that change answers and keep facts."""

from __future__ import annotations

import pytest

from pilothouse.demo.choice import (
    ENOUGH,
    FINAL,
    FINAL_QUESTIONS,
    SCREEN_QUESTIONS,
    Candidate,
    Chosen,
    Search,
    chosen,
    merit,
)
from pilothouse.demo.evaluation import towards
from pilothouse.demo.judges import JUDGES
from pilothouse.demo.judges.judge import Judge
from pilothouse.demo.places import LAYERS, PLACES, Place, Scale, Steering
from pilothouse.demo.poles import Pole, Subject
from pilothouse.demo.questions import Fact
from pilothouse.demo.vector_card import AIM_FACTS, Tried
from pilothouse.term import SteerTerm
from tests.support.models.rule_model import Said, ruled_bench

QUESTIONS = tuple(f"question {number}" for number in range(60))
FACTS = tuple(Fact(f"fact {number}", "right", ()) for number in range(10))
SCALE = Scale(dict.fromkeys(LAYERS, 0.1), dict.fromkeys(LAYERS, 0.0))
LAYER = 20


@pytest.fixture(autouse=True)
def number(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """A judge of the number that an answer ends with."""
    judge = Judge("number", "a number", lambda text: float(text.split()[-1]), 1.0)
    monkeypatch.setattr("pilothouse.demo.poles.JUDGES", {**JUDGES, "number": judge})
    return judge


def searched(said: Said, told: Said, judge: Judge) -> Chosen:
    pole = Pole("high", 1, "High, please.")
    subject = Subject("high", "number", (pole,), "low")
    bench = ruled_bench(said, told, choosing=QUESTIONS, choosing_facts=FACTS)
    [plain] = bench.hear(judge, [(QUESTIONS, ())], "plain")
    goal = towards(judge, 1, plain)
    return Search(bench, subject, pole, SCALE, goal, plain, FACTS).run()


def test_it_finds_the_place_that_works_and_tries_it_to_the_end(number: Judge) -> None:
    def said(term: SteerTerm | None) -> str:
        works = term is not None and term.layers == (LAYER,) and term.op is None
        return "it is 5" if works else "it is 0"

    found = searched(said, lambda _: "right", number)
    assert found.candidate.place == Place((LAYER,))
    assert found.note == ""
    most = [each for each in found.tried if each.n == FINAL_QUESTIONS]
    assert len(most) == FINAL
    assert all(each.facts_kept == 1.0 and each.perplexity_ratio == 1.0 for each in most)
    assert {each.n for each in found.tried} >= {SCREEN_QUESTIONS, FINAL_QUESTIONS}
    places = {(each.steering.layers, each.steering.when) for each in found.tried}
    assert places == {(each.layers, each.when) for each in PLACES}


def test_of_places_that_change_alike_it_takes_the_one_that_keeps_facts(number: Judge) -> None:
    def told(term: SteerTerm | None) -> str:
        return "right" if term is None or term.layers == (16,) else "wrong"

    found = searched(lambda term: "it is 5" if term else "it is 0", told, number)
    assert found.candidate.place == Place((16,))


def tried(changed: float, kept: float, *, ratio: float = 1.0, repeats: float = 0.0) -> Tried:
    return Tried(
        steering=Steering(layers=(LAYER,), how="add", when="answer", strengths=(0.1,)),
        dose=1.0,
        n=40,
        progress=changed,
        changed=changed,
        degenerate=repeats,
        facts_kept=kept,
        perplexity_ratio=ratio,
    )


def test_where_enough_answers_change_facts_decide() -> None:
    assert merit(tried(ENOUGH, 0.5)) == merit(tried(1.0, 0.5))
    assert merit(tried(ENOUGH, 0.6)) > merit(tried(1.0, 0.5))
    assert merit(tried(ENOUGH, AIM_FACTS)) == merit(tried(ENOUGH, 1.0))
    assert merit(tried(ENOUGH, 0.3)) > merit(tried(0.7, 0.9))


def test_where_not_enough_change_doing_nothing_is_not_best() -> None:
    assert merit(tried(0.7, 0.05)) > merit(tried(0.1, 0.9))
    assert merit(tried(0.5, 0.8)) > merit(tried(0.55, 0.2))


def test_an_answer_that_repeats_itself_is_worse_than_one_that_did_not_change() -> None:
    assert merit(tried(0.45, 0.4, repeats=0.05)) > merit(tried(0.55, 0.4, repeats=0.2))
    assert merit(tried(ENOUGH, 0.5)) > merit(tried(0.9, 0.9, repeats=0.2))


def test_of_equal_merit_the_weaker_dose_is_taken() -> None:
    weak, strong = Candidate(Place((LAYER,)), 1.0), Candidate(Place((LAYER,)), 2.0)
    both = {strong: tried(0.8, 0.9), weak: tried(0.9, 0.9)}
    assert chosen(both, 4.0) == (weak, "")


def test_what_is_not_fluent_is_taken_only_where_nothing_is_and_that_is_said() -> None:
    good, bad = Candidate(Place((LAYER,)), 1.0), Candidate(Place((LAYER,)), 2.0)
    babbles = tried(0.9, 0.9, ratio=4.1)
    assert chosen({good: tried(0.1, 0.1), bad: babbles}, 4.0) == (good, "")
    only, note = chosen({bad: babbles}, 4.0)
    assert only == bad
    assert "fluent" in note
