"""Whether a text holds numbers of a plan, in any form in which they would come to be printed."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np

RUN = 40
"""Characters of base64 that are no accident."""
MOST_NUMBERS = 200
"""Of each tensor; a dump that has any has its beginning or its end."""


def numbers_in(text: str, tensors: Mapping[str, np.ndarray]) -> list[str]:
    """The names of the tensors whose numbers stand in a text, as base64 or as decimals."""
    return [name for name, each in tensors.items() if _held(text, np.asarray(each))]


def _held(text: str, tensor: np.ndarray) -> bool:
    numbers = tensor.ravel()
    numbers = numbers[np.isfinite(numbers) & (np.abs(numbers) > 1e-12)]
    some = np.concatenate([numbers[:MOST_NUMBERS], numbers[-MOST_NUMBERS:]])
    if len(np.unique(some)) < 2:  # zeros and ones are nobody's
        return False
    raw = np.ascontiguousarray(tensor, np.float32).tobytes()
    # Wherever the numbers begin in what is encoded, one of three alignments is theirs. Runs lie
    # end to end, so that any printed text of twice a run's length holds one whole.
    for shift in range(3):
        shown = base64.b64encode(raw[shift:]).decode()
        runs = (shown[start : start + RUN] for start in range(0, len(shown) - RUN, RUN))
        if any(run in text for run in runs if len(set(run)) > 8):
            return True
    fixed = {f"{abs(each):.9f}"[:9] for each in some if 0.01 < abs(each) < 10}
    decimals = fixed | {f"{abs(each):.8e}"[:8] for each in some}
    # One that ends in zeros is round, and nobody's.
    return any(each in text for each in decimals if not each.endswith("00"))
