"""What was chosen is tested on other questions, beside controls at the same place and dose."""

from __future__ import annotations

from typing import cast

import pytest

from pilothouse.demo.judges import JUDGES
from pilothouse.demo.judges.judge import Judge
from pilothouse.demo.places import LAYERS, Scale
from pilothouse.demo.poles import FACT_TOKENS, Pole, Subject
from pilothouse.demo.questions import Fact
from pilothouse.demo.vector_figures import loaded_name, measured
from pilothouse.errors import ConfigError
from pilothouse.term import SteerTerm
from pilothouse.training.pair import Message, Pair
from tests.support.models.rule_model import RuledAnswerer, ruled_bench

CHOOSING = tuple(f"choosing {number}" for number in range(10))
TESTING = tuple(f"testing {number}" for number in range(12))
CHOOSES = tuple(Fact(f"first fact {number}", "right", ()) for number in range(4))
TESTS = tuple(Fact(f"second fact {number}", "right", ()) for number in range(5))
DRAWS = 2
SUBJECT = Subject("high", "number", (Pole("high", 1, "High!"), Pole("low", -1, "Low!")), "low")
PAIRS = (
    Pair(messages=(Message(role="user", content="Which?"),), positive="High.", negative="Low."),
)
CONTROLS = [(kind, draw) for kind in ("random", "shuffled") for draw in range(DRAWS)]
NAMES = ["high", *(loaded_name("high", kind, draw) for kind, draw in CONTROLS)]
SCALES = {name: Scale(dict.fromkeys(LAYERS, 0.1), dict.fromkeys(LAYERS, 0.0)) for name in NAMES}


@pytest.fixture(autouse=True)
def _number(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge("number", "a number", lambda text: float(text.split()[-1]), 1.0)
    monkeypatch.setattr("pilothouse.demo.poles.JUDGES", {**JUDGES, "number": judge})


def said(term: SteerTerm | None) -> str:
    """The vector moves an answer by 5 the way that it points; its controls do nothing."""
    if term is None or term.vector != "high":
        return "it is 0"
    is_up = (term.scale or term.value or 0.0) > 0
    return "it is 5" if is_up else "it is -5"


def kept(term: SteerTerm | None) -> str:
    return "right" if term is None or (term.scale or term.value or 0.0) > 0 else "wrong"


def test_both_poles_have_their_own_figures() -> None:
    bench = ruled_bench(
        said,
        kept,
        choosing=CHOOSING,
        testing=TESTING,
        choosing_facts=CHOOSES,
        testing_facts=TESTS,
        draws=DRAWS,
    )
    high, low = measured(bench, SUBJECT, PAIRS, SCALES).poles
    for pole in (high, low):
        assert (pole.steered.n, pole.steered.changed.estimate) == (len(TESTING), 1.0)
        assert pole.random.n == pole.shuffled.n == pole.worded.n == len(TESTING) // 2
        controls = (pole.random, pole.shuffled, pole.worded)
        assert {each.changed.estimate for each in controls} == {0.0}
        assert pole.steered.effect.estimate == 5.0
        assert pole.facts.n == len(TESTS)
        assert pole.readable is None
    assert high.steering.strengths[0] > 0 > low.steering.strengths[0]
    assert (high.facts.kept.estimate, low.facts.kept.estimate) == (1.0, 0.0)
    assert "facts kept 0%, aimed at 90%" in low.findings


def test_what_tests_is_asked_under_no_steering_but_the_chosen_one() -> None:
    bench = ruled_bench(
        said,
        kept,
        choosing=CHOOSING,
        testing=TESTING,
        choosing_facts=CHOOSES,
        testing_facts=TESTS,
        draws=DRAWS,
    )
    high, low = measured(bench, SUBJECT, PAIRS, SCALES).poles
    asked = cast(RuledAnswerer, bench.answerer).asked
    tested = {*TESTING, *(each.question for each in TESTS)}
    strengths = {
        term.scale if term.op is None else term.value
        for each in asked
        if each.question in tested
        for term in each.terms
    }
    assert strengths == {*high.steering.strengths, *low.steering.strengths}
    assert all(
        (each.max_tokens == FACT_TOKENS) == each.question.split()[1].startswith("fact")
        for each in asked
    )


def test_a_pole_may_be_judged_on_facts() -> None:
    subject = Subject("high", "number", (Pole("high", 1, "High!", asked="facts"),), "low")
    bench = ruled_bench(
        said,
        kept,
        choosing=CHOOSING,
        testing=TESTING,
        choosing_facts=CHOOSES,
        testing_facts=TESTS,
        draws=1,
    )
    [pole] = measured(bench, subject, PAIRS, SCALES).poles
    assert pole.steered.n == len(TESTS)
    assert {each.question for each in pole.examples} <= {each.question for each in TESTS}


def test_a_model_that_knows_no_fact_ends_it() -> None:
    bench = ruled_bench(
        said,
        lambda _: "wrong",
        choosing=CHOOSING,
        testing=TESTING,
        choosing_facts=CHOOSES,
        testing_facts=TESTS,
    )
    with pytest.raises(ConfigError, match="answers none of 4 right"):
        measured(bench, SUBJECT, PAIRS, SCALES)
