"""Policies compiled over what is loaded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.errors import PolicyError
from pilothouse.policy.decide import advance_streaks, running_streaks
from pilothouse.policy.loader import policy_from_json, policy_to_json
from pilothouse.policy.rulebook import Rulebook
from pilothouse.policy.schema import Policy
from pilothouse.types import Aggregate, Phase, SignalSpec
from tests.support.policies import DOUBT, MISUSE, SPECS, rule_text, sample_policy, spec_of

BOTH = (MISUSE, DOUBT)
STEER = "{action: steer, vector: hedge, scale: 3.0}"
NAN = math.nan


def three_phases() -> Policy:
    return sample_policy(
        rule_text(rule="p", when="misuse at fpr 0.001", then="{action: block}"),
        rule_text(rule="o", phase="output", when="doubt >= 0.6 for 2 tokens", then=STEER),
        rule_text(rule="f", phase="final", when="misuse >= 0.5 and doubt >= 0.3"),
        signals=BOTH,
        spec=("mode: enforce", "on_error: closed"),
    )


def test_each_phase_evaluates_its_own_rules_on_shared_columns() -> None:
    book = Rulebook([three_phases()], SPECS)
    assert [spec.key for spec in book.signals] == ["misuse/prompt", "hallucination/answer"]
    values_BK = np.array([[0.95, NAN], [0.6, 0.7], [0.1, 0.1], [NAN, 0.2]])
    expected: dict[Phase, tuple[list[bool], list[bool]]] = {
        "prompt": ([True, False, False, False], [False, False, False, True]),
        "output": ([False, True, False, False], [True, False, False, False]),
        "final": ([False, True, False, False], [True, False, False, False]),
    }
    for phase, (fired, missing) in expected.items():
        fired_BR, missing_BR = book.outcomes(phase, values_BK)
        assert fired_BR[:, 0].tolist() == fired
        assert missing_BR[:, 0].tolist() == missing


def test_a_missing_signal_counts_only_where_it_could_change_the_answer() -> None:
    book = Rulebook([three_phases()], SPECS)
    values_BK = np.array([[0.1, NAN], [0.6, NAN]])
    assert book.outcomes("final", values_BK)[1][:, 0].tolist() == [False, True]


@pytest.mark.parametrize(("fpr", "bound"), [(0.01, 0.7), (0.001, 0.9)])
def test_at_fpr_fires_from_the_threshold_of_that_rate_on(fpr: float, bound: float) -> None:
    book = Rulebook([sample_policy(rule_text(when=f"misuse at fpr {fpr}"))], SPECS)
    below = math.nextafter(bound, 0)
    assert book.outcomes("prompt", np.array([[below], [bound]]))[0][:, 0].tolist() == [False, True]


def test_a_compiled_rule_carries_what_is_needed_to_carry_it_out() -> None:
    policy = sample_policy(
        rule_text(
            rule="b",
            phase="output",
            when="doubt >= 0.5 for 4 tokens",
            then="{action: respond, message: Sorry.}",
            more=", leak_tokens: 1",
        ),
        rule_text(rule="s", phase="output", when="doubt >= 0.2", then=STEER),
        signals=(DOUBT,),
        spec=("mode: enforce", "on_error: closed"),
    )
    block, steer = Rulebook([policy], SPECS).rules
    assert (block.policy, block.rule, block.phase, block.mode) == (
        "sample",
        "b",
        "output",
        "enforce",
    )
    assert (block.kind, block.message, block.as_, block.ends) == (
        "respond",
        "Sorry.",
        "message",
        True,
    )
    assert (block.streak_tokens, block.leak_tokens) == (4, 1)
    assert (block.on_error, steer.on_error) == ("closed", "open")
    assert (steer.ends, steer.message, steer.as_) == (False, None, None)
    assert steer.signals == ("hallucination/answer",)


@pytest.mark.parametrize(
    ("then", "said", "means"),
    [
        ("{action: block}", (), "closed"),
        ("{action: block}", ("on_error: open",), "open"),
        ("{action: respond, message: a}", (), "open"),
        ("{action: respond, message: a}", ("on_error: closed",), "closed"),
        ("{action: log}", (), "open"),
    ],
)
def test_block_is_closed_and_the_rest_open_unless_said(
    then: str, said: tuple[str, ...], means: str
) -> None:
    (rule,) = Rulebook([sample_policy(rule_text(then=then), spec=said)], SPECS).rules
    assert rule.on_error == means


def test_an_ad_hoc_signal_becomes_an_uncalibrated_column() -> None:
    policy = sample_policy(
        rule_text(phase="output", when="now >= 0.5"),
        signals=(
            "now: {probe: hallucination, over: output, aggregate: {ema_half_life_tokens: 4}}",
        ),
    )
    (signal,) = Rulebook([policy], SPECS).signals
    assert signal == SignalSpec(
        "hallucination/~output.ema_last.4",
        "hallucination",
        "output",
        Aggregate("ema_last", 4),
        1.0,
        0.0,
        calibrated=False,
    )


def test_ad_hoc_signals_of_other_parameters_have_columns_of_their_own() -> None:
    levels = ("on_logit: 0.5, off_logit: 0.25", "on_logit: 0.5000000001, off_logit: 0.25")
    keys = []
    for level in levels:
        policy = sample_policy(
            rule_text(phase="output", when="now >= 0.5"),
            signals=(
                "now: {probe: hallucination, over: output, aggregate: "
                f"{{kind: k_of_n, k_tokens: 3, window_tokens: 8, {level}}}}}",
            ),
        )
        (signal,) = Rulebook([policy], SPECS).signals
        keys.append(signal.key)
    assert keys[0] == "hallucination/~output.k_of_n.3,8,0.5,0.25"
    assert keys[1] == "hallucination/~output.k_of_n.3,8,0.5000000001,0.25"


def test_policies_that_read_alike_share_a_column() -> None:
    first, second = sample_policy(name="one"), sample_policy(name="two")
    book = Rulebook([first, second], SPECS)
    assert len(book.signals) == 1
    assert [rule.index for rule in book.rules] == [0, 1]
    assert book.key_of("two", "misuse") == "misuse/prompt"


def test_the_default_readout_stands_for_a_probe_named_alone() -> None:
    policy = sample_policy(
        rule_text(phase="output", when="doubt >= 0.5"), signals=("doubt: {probe: hallucination}",)
    )
    with pytest.raises(PolicyError, match=r"several readouts: add `readout:` .*answer, last"):
        Rulebook([policy], SPECS)
    book = Rulebook([policy], SPECS, default_readouts={"hallucination": "last"})
    assert book.signals == (SPECS["hallucination/last"],)


@pytest.mark.parametrize(
    ("rule", "signal", "line", "said"),
    [
        (rule_text(), "misuse: {probe: misus}", 11, "`misus`, which is not loaded; did you mean"),
        (rule_text(), "misuse: {probe: misuse, readout: max}", 11, "no readout `max`"),
        (rule_text(when="misuse at fpr 0.05"), MISUSE, 13, "use one of 0.001, 0.01"),
        (
            rule_text(when="misuse at fpr 0.01"),
            "misuse: {probe: misuse, over: prompt, aggregate: {kind: max}}",
            13,
            "compare with a number",
        ),
        (rule_text(), "misuse: {probe: hallucination, readout: answer}", 13, "covers the answer"),
        (rule_text(), "misuse: {probe: hallucination, readout: last}", 13, "covers the output"),
        (rule_text(then=STEER.replace("hedge", "hedg")), MISUSE, 13, "did you mean `hedge`?"),
        (
            rule_text(then=STEER.replace("}", ", layers: [2, 9]}")),
            MISUSE,
            13,
            "no layer [9]: choose from [2, 3]",
        ),
    ],
)
def test_what_is_not_loaded_is_refused_with_file_and_line(
    rule: str, signal: str, line: int, said: str
) -> None:
    policy = sample_policy(rule, signals=(signal,))
    with pytest.raises(PolicyError) as caught:
        Rulebook([policy], SPECS, vectors={"hedge": (2, 3)})
    assert str(caught.value).startswith(f"policy.yaml:{line}: spec.")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("topics", "topic"), "got the SAE `topic`, which is not loaded; did you mean `topics`?"),
        (("sae: topics", "sae: hedge"), "got the SAE `hedge`, which is not loaded"),
        (("}", ", layers: [3]}"), "SAE `topics` has no layer [3]: choose from [4]"),
    ],
)
def test_an_sae_that_is_not_loaded_is_refused_with_file_and_line(
    change: tuple[str, str], said: str
) -> None:
    steer = "{action: steer, sae: topics, feature: 3, value: 2.0}"
    loaded: Any = {"vectors": {"hedge": (2, 3)}, "saes": {"topics": (4,)}}
    Rulebook([sample_policy(rule_text(then=steer))], SPECS, **loaded)
    with pytest.raises(PolicyError) as caught:
        Rulebook([sample_policy(rule_text(then=steer.replace(*change)))], SPECS, **loaded)
    assert said in str(caught.value)


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"metadata\.name: `sample` is loaded"):
        Rulebook([sample_policy(), sample_policy()], SPECS)


def test_a_phase_costs_at_most_so_many_comparisons() -> None:
    when = " or ".join(["misuse >= 0.5"] * 32)
    rules = [rule_text(rule=f"r-{i}", when=when) for i in range(43)]
    two, three = ([sample_policy(*rules, name=f"p-{i}") for i in range(n)] for n in (2, 3))
    Rulebook(two, SPECS)
    with pytest.raises(PolicyError, match=r"got 4128 comparisons .* want at most 4096"):
        Rulebook(three, SPECS)


def test_policies_from_json_compile_to_the_same_rules() -> None:
    policy = three_phases()
    again = policy_from_json(policy_to_json(policy))
    assert Rulebook([again], SPECS).rules == Rulebook([policy], SPECS).rules


def test_an_empty_rulebook_evaluates_to_no_columns() -> None:
    book = Rulebook([], SPECS)
    assert book.outcomes("output", np.zeros((4, 0)))[0].shape == (4, 0)


def test_an_unscored_request_fires_no_rule_in_any_phase() -> None:
    book = Rulebook([three_phases()], {**SPECS, "x/y": spec_of("x/y", "prompt")})
    phases: tuple[Phase, ...] = ("prompt", "output", "final")
    for phase in phases:
        assert not book.outcomes(phase, np.full((3, 2), NAN))[0].any()
        assert book.outcomes(phase, np.full((3, 2), NAN))[1].all()


@settings(max_examples=200, deadline=None)
@given(
    raw=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=20),
    needed=st.lists(st.integers(1, 6), min_size=3, max_size=3),
)
def test_a_streak_fires_while_the_last_n_tokens_all_hold(
    raw: list[list[bool]], needed: list[int]
) -> None:
    streaks_BR = np.zeros((1, 3), dtype=np.int64)
    for token, row in enumerate(raw):
        fired_BR = advance_streaks(streaks_BR, np.array([row]), np.array(needed))
        for r, n in enumerate(needed):
            run = [raw[t][r] for t in range(max(0, token - n + 1), token + 1)]
            assert fired_BR[0, r] == (len(run) == n and all(run))


@settings(max_examples=200, deadline=None)
@given(
    before=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    raw=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=20),
)
def test_streaks_of_many_tokens_at_once_are_those_of_one_by_one(
    before: list[int], raw: list[list[bool]]
) -> None:
    got_SR = running_streaks(np.array(before), np.array(raw))
    streaks_BR = np.array([before])
    for row, got_R in zip(raw, got_SR, strict=True):
        advance_streaks(streaks_BR, np.array([row]), np.ones(3, np.int64))
        assert streaks_BR[0].tolist() == got_R.tolist()
