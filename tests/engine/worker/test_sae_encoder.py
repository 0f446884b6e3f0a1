"""What an SAE chooses: counted or sorted it is the same, and what a plain loop finds.

Shapes: T tokens, M features.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pilothouse.engine.worker.sae_encoder import FEW, among_largest, largest, norm_matched

COUNT = 3 * FEW
TIED = st.lists(st.integers(-3, 6), min_size=COUNT, max_size=COUNT)
"""Few values: most of them several times."""


def in_order(values: list[int]) -> list[int]:
    """Features from the largest down, of equals the first."""
    return sorted(range(COUNT), key=lambda feature: (-values[feature], feature))


def in_parts(ask, whole_TM: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """All features, asked for a few at a time."""
    numbers = torch.arange(COUNT).expand(len(whole_TM), -1)
    return torch.cat([ask(part) for part in numbers.split(FEW, dim=1)], dim=1)


@given(TIED, st.integers(1, COUNT))
def test_the_largest_are_those_of_a_loop(values: list[int], k: int) -> None:
    order_TM = torch.tensor([values, values[::-1]], dtype=torch.float32)
    wanted = [sorted(in_order(each)[:k]) for each in (values, values[::-1])]
    every = torch.arange(COUNT).expand(2, -1)
    for found_TM in (
        largest(order_TM, k),
        among_largest(order_TM, every, k),
        in_parts(lambda part: among_largest(order_TM, part, k), order_TM),
    ):
        assert [row.nonzero().flatten().tolist() for row in found_TM] == wanted


@given(TIED, st.floats(0.0, 30.0))
def test_the_sum_that_comes_nearest_is_that_of_a_loop(values: list[int], length: float) -> None:
    energies = [float(max(each, 0)) ** 2 for each in values]
    order, total, chosen = in_order([int(each) for each in energies]), 0.0, []
    for feature in order:
        nearer = abs(np.sqrt(total + energies[feature]) - length) - abs(np.sqrt(total) - length)
        if chosen and nearer >= -1e-5:
            # Equally near up to rounding: either may be said to be.
            if abs(nearer) < 1e-5 and energies[feature] > 0:
                return
            break
        chosen.append(feature)
        total += energies[feature]
    energy_TM, length_T1 = torch.tensor([energies]), torch.tensor([[length]])
    every = torch.arange(COUNT).expand(1, -1)
    for found_TM in (
        norm_matched(energy_TM, every, length_T1),
        in_parts(lambda part: norm_matched(energy_TM, part, length_T1), energy_TM),
    ):
        assert found_TM[0].nonzero().flatten().tolist() == sorted(chosen)


@pytest.mark.parametrize("features", [FEW, FEW + 1])
def test_a_token_hangs_on_itself_alone(features: int) -> None:
    draw = torch.Generator().manual_seed(3)
    order_TM = torch.randn(5, COUNT, generator=draw)
    asked = torch.randint(0, COUNT, (5, features), generator=draw)
    length_T1 = torch.full((5, 1), 2.0)
    for ask in (
        lambda part: among_largest(order_TM[part], asked[part], 7),
        lambda part: norm_matched(order_TM[part].clamp_min(0) ** 2, asked[part], length_T1[part]),
    ):
        assert torch.equal(ask(slice(None))[2:3], ask(slice(2, 3)))
