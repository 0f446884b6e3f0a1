"""The grammar of conditions, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.policy.expression import (
    KEYWORDS,
    MAX_COMPARISONS,
    MAX_DEPTH,
    MAX_LENGTH,
    And,
    AtFpr,
    Comparison,
    ExpressionError,
    Not,
    Or,
    parse_condition,
)

A = Comparison("a", ">=", 0.5)
B = Comparison("b", "<", 0.25)


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("a >= 0.5", A),
        ("0.5 <= a", A),
        ("a>=.5", A),
        ("a >= 5e-1", A),
        ("( a >= 0.5 )", A),
        ("a >= 0.5 and b < 0.25", And((A, B))),
        ("a >= 0.5 or b < 0.25", Or((A, B))),
        ("not a >= 0.5", Not(A)),
        ("not not a >= 0.5", Not(Not(A))),
        ("a >= 0.5 or b < 0.25 and a >= 0.5", Or((A, And((B, A))))),
        ("(a >= 0.5 or b < 0.25) and a >= 0.5", And((Or((A, B)), A))),
        ("not a >= 0.5 and b < 0.25", And((Not(A), B))),
        ("0.3 <= a < 0.6", And((Comparison("a", ">=", 0.3), Comparison("a", "<", 0.6)))),
        ("0.6 > a >= 0.3", And((Comparison("a", "<", 0.6), Comparison("a", ">=", 0.3)))),
        ("a at fpr 0.001", AtFpr("a", 0.001)),
        ("a\n  >= 0.5", A),
    ],
)
def test_a_condition_reads_as_written(text: str, root: object) -> None:
    condition = parse_condition(text)
    assert condition.root == root
    assert condition.streak_tokens is None


@pytest.mark.parametrize(
    ("text", "tokens"), [("a >= 0.5 for 1 token", 1), ("a at fpr 0.01 for 32 tokens", 32)]
)
def test_a_streak_belongs_to_the_whole_condition(text: str, tokens: int) -> None:
    assert parse_condition(text).streak_tokens == tokens


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "column 1: got the end, want a comparison"),
        ("a", "column 2: got the end, want an order"),
        ("a >=", "column 5: got the end, want a number"),
        ("a >= b", "column 6: got 'b', want a number"),
        ("0.5", "column 4: got the end, want an order"),
        ("0.5 >= 0.4", "column 8: got '0.4', want a signal"),
        ("a = 0.5", "use >=, >, <= or <"),
        ("a == 0.5", "a score has no exact value"),
        ("a != 0.5", "a score has no exact value"),
        ("a >= 0.5 && b >= 0.5", "column 10: got '&&': write `and`"),
        ("a >= 0.5 || b >= 0.5", "write `or`"),
        ("!a >= 0.5", "write `not`"),
        ("a >= -0.5", "signals are between 0 and 1"),
        ("a >= 50%", "write a fraction"),
        ("a >= 0.5 b", "column 10: got 'b', want the end"),
        ("(a >= 0.5", "want `)`"),
        ("a >= 0.5)", "want the end"),
        ("a >= 1.5", "never holds"),
        ("a > 1", "never holds"),
        ("a < 0", "never holds"),
        ("a >= 0", "always holds"),
        ("a <= 1", "always holds"),
        ("a < 1.01", "always holds"),
        ("0.6 <= a < 0.3", "want a range that can hold"),
        ("0.3 <= a > 0.6", "want a range that can hold"),
        ("0.3 <= a < 0.3", "want a range that can hold"),
        ("a at fpr 0", "between 0 and 1"),
        ("a at fpr 1", "between 0 and 1"),
        ("a at 0.001", "want `fpr`"),
        ("a at fpr", "want a false positive rate"),
        ("a >= 0.5 for", "want a whole number"),
        ("a >= 0.5 for 2", "want `tokens`"),
        ("a >= 0.5 for 0 tokens", "from 1 to 256"),
        ("a >= 0.5 for 1.5 tokens", "from 1 to 256"),
        ("a >= 0.5 for 257 tokens", "from 1 to 256"),
        ("(a >= 0.5 for 2 tokens) and b >= 0.5", "want `)`"),
        ("a >= 0.5 for 2 tokens and b >= 0.5", "want the end"),
        ("and >= 0.5", "column 1: got 'and'"),
        ("a >= 0.5.1", "column 6: got '0.5.1'"),
        ("a >= 2x", "got '2x'"),
        ("__import__('os')", "not text"),
        ("{{ a }} >= 0.5", "no templates"),
        ("a[0] >= 0.5", "no lists"),
        ("a >= nan", "got 'nan', want a number"),
        ("a >= 0.5; b", "got ';'"),
    ],
)
def test_what_cannot_be_read_says_where_and_what_to_write(text: str, said: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_condition(text)
    assert said in str(caught.value)


def test_a_condition_costs_at_most_so_many_comparisons() -> None:
    parse_condition(" or ".join(["a >= 0.5"] * MAX_COMPARISONS))
    with pytest.raises(ExpressionError, match="comparisons: split"):
        parse_condition(" or ".join(["a >= 0.5"] * (MAX_COMPARISONS + 1)))


def test_a_range_costs_two_comparisons() -> None:
    with pytest.raises(ExpressionError, match="comparisons: split"):
        parse_condition(" or ".join(["0.2 < a < 0.5"] * (MAX_COMPARISONS // 2 + 1)))


@pytest.mark.parametrize(("opening", "closing"), [("(", ")"), ("not ", "")])
def test_a_condition_nests_at_most_so_deep(opening: str, closing: str) -> None:
    parse_condition(opening * MAX_DEPTH + "a >= 0.5" + closing * MAX_DEPTH)
    deeper = MAX_DEPTH + 1
    with pytest.raises(ExpressionError, match="nested deeper"):
        parse_condition(opening * deeper + "a >= 0.5" + closing * deeper)


def test_a_condition_is_at_most_so_long() -> None:
    with pytest.raises(ExpressionError, match="split it into rules"):
        parse_condition("a >= 0.5" + " " * MAX_LENGTH)


@settings(max_examples=500, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=80),
        st.lists(
            st.sampled_from(
                [
                    *sorted(KEYWORDS),
                    "a",
                    "b",
                    "0.5",
                    "1",
                    "2",
                    ">=",
                    ">",
                    "<=",
                    "<",
                    "(",
                    ")",
                    ".",
                    "e",
                ]
            ),
            max_size=30,
        ).map(" ".join),
    )
)
def test_any_text_is_read_or_refused_and_never_breaks_the_parser(text: str) -> None:
    try:
        condition = parse_condition(text)
    except ExpressionError as error:
        assert str(error)
    else:
        assert parse_condition(condition.text) == condition
