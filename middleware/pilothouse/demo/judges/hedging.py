"""Certainty: words that leave a claim open, less words that close it (after Hyland, 1998)."""

from __future__ import annotations

import re
from typing import Final

from pilothouse.demo.judges.judge import Judge, per_hundred

MARGIN: Final = 5.0
HEDGES: Final = re.compile(
    r"\b(?:may|might|maybe|perhaps|possib(?:ly|le)|probab(?:ly|le)|potentially|presumably"
    r"|seem(?:s|ed|ingly)?|appear(?:s|ed)? to|suggest(?:s|ed)? that|suggests|likely|unlikely"
    r"|could|would|uncertain|unclear|unsure|not (?:entirely |completely |quite )?(?:sure|certain)"
    r"|somewhat|roughly|approximately|generally|usually|often|sometimes|typically|tends? to"
    r"|i (?:think|believe|guess|suppose|assume)|in my (?:opinion|view)|it depends"
    r"|depend(?:s|ing) on"
    r"|as far as i know|i don't know|hard to say|difficult to (?:say|predict|know)|arguably"
    r"|apparently|supposedly|to some extent|more or less)\b",
    re.IGNORECASE,
)
BOOSTERS: Final = re.compile(
    r"\b(?:definitely|certainly|surely|clearly|obviously|undoubtedly|absolutely|always|never|must"
    r"|exactly|completely|totally|entirely|indeed|of course|no doubt|without (?:a |any )?doubt"
    r"|in fact|the fact is|it is (?:a fact|clear|certain|obvious)|prove[sdn]?|guarantee[sd]?"
    r"|every (?:time|one)|impossible|the only|undeniabl[ey]|will certainly)\b",
    re.IGNORECASE,
)


def hedging(text: str) -> float:
    """Return hedges less boosters in a hundred words."""
    straight = text.replace("\u2019", "'")
    return per_hundred(len(HEDGES.findall(straight)) - len(BOOSTERS.findall(straight)), straight)


HEDGING: Final = Judge("hedging", "hedges less boosters in 100 words", hedging, MARGIN)
