"""The vectorised conditions against the slow oracle, and what a missing signal does."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.policy.expression import And, Comparison, Node, Not, Or, parse_condition
from pilothouse.policy.rulebook import VectorizedRules
from tests.reference.condition import truth

NAMES = ("a", "b", "c")
COLUMNS = {name: column for column, name in enumerate(NAMES)}
GRID = (0.0, 0.25, math.nextafter(0.5, 0), 0.5, math.nextafter(0.5, 1), 0.75, 1.0)

values = st.sampled_from((*GRID, math.nan))
comparisons = st.builds(
    Comparison,
    st.sampled_from(NAMES),
    st.sampled_from((">=", ">", "<=", "<")),
    st.sampled_from(GRID),
)
nodes: st.SearchStrategy[Node] = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=1, max_size=4).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=1, max_size=4).map(tuple)),
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(
    roots=st.lists(nodes, min_size=1, max_size=6),
    rows=st.lists(st.tuples(values, values, values), min_size=1, max_size=8),
)
def test_every_row_agrees_with_the_oracle(
    roots: list[Node], rows: list[tuple[float, float, float]]
) -> None:
    circuit = VectorizedRules(roots, [COLUMNS] * len(roots), len(NAMES))
    true_BR, false_BR = circuit(np.array(rows))
    for b, row in enumerate(rows):
        for r, root in enumerate(roots):
            expected = truth(root, dict(zip(NAMES, row, strict=True)))
            assert (true_BR[b, r], false_BR[b, r]) == (expected is True, expected is False)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 65, 200, 256])
def test_any_number_of_requests_agrees_with_the_oracle(count: int) -> None:
    roots = [
        parse_condition(text).root
        for text in ("a >= 0.5", "a < 0.5 and not (b > 0.25 or c <= 0.75)", "b < 0.5 or c < 0.5")
    ]
    rows = np.random.default_rng(count).choice([*GRID, math.nan], (count, len(NAMES)))
    true_BR, false_BR = VectorizedRules(roots, [COLUMNS] * len(roots), len(NAMES))(rows)
    expected = [
        [truth(root, dict(zip(NAMES, row, strict=True))) for root in roots] for row in rows.tolist()
    ]
    assert true_BR.tolist() == [[each is True for each in row] for row in expected]
    assert false_BR.tolist() == [[each is False for each in row] for row in expected]


@settings(max_examples=200, deadline=None)
@given(root=nodes, row=st.tuples(values, values, values))
def test_not_swaps_true_and_false_and_leaves_open_what_is_open(
    root: Node, row: tuple[float, float, float]
) -> None:
    circuit = VectorizedRules([root, Not(root)], [COLUMNS] * 2, len(NAMES))
    true_BR, false_BR = circuit(np.array([row]))
    assert true_BR[0, 0] == false_BR[0, 1]
    assert false_BR[0, 0] == true_BR[0, 1]


@pytest.mark.parametrize(
    "text", ["a >= 0.5", "a < 0.5", "not a >= 0.5", "not a < 0.5", "not not a <= 0.5"]
)
def test_a_missing_signal_fires_nothing(text: str) -> None:
    circuit = VectorizedRules([parse_condition(text).root], [COLUMNS], len(NAMES))
    true_BR, false_BR = circuit(np.full((1, 3), math.nan))
    assert not true_BR.any() and not false_BR.any()


def test_strict_and_loose_orders_differ_at_the_bound_alone() -> None:
    texts = ("a >= 0.5", "a > 0.5", "a <= 0.5", "a < 0.5")
    roots = [parse_condition(text).root for text in texts]
    circuit = VectorizedRules(roots, [COLUMNS] * 4, len(NAMES))
    column = [math.nextafter(0.5, 0), 0.5, math.nextafter(0.5, 1)]
    true_BR, _ = circuit(np.array([[value, 0.0, 0.0] for value in column]))
    assert true_BR.tolist() == [
        [False, False, True, True],
        [True, False, True, False],
        [True, True, False, False],
    ]


def test_each_condition_reads_its_own_columns() -> None:
    root = parse_condition("a >= 0.5").root
    circuit = VectorizedRules([root, root], [{"a": 0}, {"a": 1}], 2)
    true_BR, _ = circuit(np.array([[0.9, 0.1]]))
    assert true_BR.tolist() == [[True, False]]


def test_no_conditions_give_no_columns() -> None:
    true_BR, false_BR = VectorizedRules([], [], 3)(np.zeros((5, 3)))
    assert true_BR.shape == false_BR.shape == (5, 0)


def test_no_requests_give_no_rows() -> None:
    root = parse_condition("a >= 0.5 and (b < 0.2 or c > 0.1)").root
    true_BR, false_BR = VectorizedRules([root], [COLUMNS], 3)(np.zeros((0, 3)))
    assert true_BR.shape == false_BR.shape == (0, 1)


def test_values_of_another_width_are_refused() -> None:
    circuit = VectorizedRules([parse_condition("a >= 0.5").root], [COLUMNS], 3)
    with pytest.raises(ValueError, match=r"want \[B, 3\]"):
        circuit(np.zeros((2, 4)))


def test_a_step_of_256_requests_and_250_rules_takes_under_a_millisecond() -> None:
    text = "a >= 0.5 and not (b >= 0.3 or 0.2 < c <= 0.7)"
    circuit = VectorizedRules([parse_condition(text).root] * 250, [COLUMNS] * 250, 3)
    values_BK = np.random.default_rng(0).random((256, 3))
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        circuit(values_BK)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1e-3
