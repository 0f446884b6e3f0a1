"""The judges of answers, by name: none of them has seen the pairs that a vector is fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pilothouse.demo.judges.formality import FORMALITY
from pilothouse.demo.judges.hedging import HEDGING
from pilothouse.demo.judges.judge import Judge
from pilothouse.demo.judges.language import FRENCH, SPANISH
from pilothouse.demo.judges.length import LENGTH
from pilothouse.demo.judges.mood import MOOD
from pilothouse.demo.judges.refusal import REFUSAL

JUDGES: Final[Mapping[str, Judge]] = MappingProxyType(
    {each.name: each for each in (MOOD, FRENCH, SPANISH, FORMALITY, LENGTH, HEDGING, REFUSAL)}
)
