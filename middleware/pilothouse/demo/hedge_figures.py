"""Counts what declining doubtful answers does: wrong ones that go, right ones that are lost.

Shapes: N answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pilothouse.artifacts.manifest import Closed, Interval
from pilothouse.demo.judges.hedging import hedging
from pilothouse.demo.judges.judge import words_of
from pilothouse.demo.own_answers import OwnAnswer
from pilothouse.demo.questions import Fact
from pilothouse.probes.metrics import auroc, bootstrap, bootstrap_draws, wilson

PROBE: Final = "probe"
LOG_PROBABILITY: Final = "mean log-probability"
LENGTH: Final = "words"
RIGHT_LOST: Final = 0.2
"""Of the right answers to the questions that choose the threshold, at most so many are declined."""
DIGITS: Final = 4
RESAMPLES: Final = 1000

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Judged(NamedTuple):
    """An answer, which is right where an accepted answer stands in it."""

    answer: OwnAnswer
    right: bool

    @property
    def wrong_and_confident(self) -> bool:
        """Whether it is wrong and does not hedge."""
        return not self.right and hedging(self.answer.text) <= 0


class Share(Closed):
    """A count out of a total, with its share and the Wilson interval."""

    count: int = Field(ge=0)
    n: int = Field(ge=1)
    share: Interval


class Declined(Closed):
    """The answers that one scorer declines at one threshold."""

    scorer: str
    threshold: float
    wrong: Share
    """The share of the wrong confident answers that is declined."""
    right: Share
    apart: Interval
    """The share of wrong answers declined less that of right ones; chance has 0."""


class Loop(Closed):
    """The answers that clients got, without the policy and with it enforced."""

    wrong_before: Share
    wrong_after: Share
    right_before: Share
    right_after: Share


class HedgeCard(Closed):
    """Every figure of the closed loop."""

    model_id: str
    probe: str
    probe_digest: str
    policy: str
    seed: int
    max_tokens: int
    choosing: int
    testing: int
    right_choosing: int
    unscored: int
    """Answers of both without a value of the probe; they pass."""
    threshold: float
    chosen: Declined
    """The threshold on the questions that chose it."""
    ranks: dict[str, Interval]
    """AUROC of wrong against right answers of the test, by scorer."""
    leads: dict[str, Interval]
    """The probe's AUROC less each other scorer's."""
    declined: tuple[Declined, ...]
    """On the test: the probe at its threshold, then the others, declining as many answers."""
    loop: Loop

    @property
    def carries(self) -> bool:
        """Whether the probe takes more of the wrong answers than of the right ones."""
        return self.declined[0].apart.low > 0


def judged(answers: Sequence[OwnAnswer], accepted: Mapping[str, Fact]) -> list[Judged]:
    """Judge each answer by the strings that its question accepts."""
    return [Judged(each, accepted[each.question].is_in(each.text)) for each in answers]


def doubts(answers: Sequence[Judged]) -> dict[str, Floats]:
    """Return doubt_N by scorer, higher where an answer is more doubtful.

    An answer that the probe has no value of is not doubted.
    """
    return {
        PROBE: np.array([_or(each.answer.value, 0.0) for each in answers]),
        LOG_PROBABILITY: np.array(
            [-_or(each.answer.mean_log_probability, 0.0) for each in answers]
        ),
        LENGTH: np.array([float(len(words_of(each.answer.text))) for each in answers]),
    }


def chosen_threshold(doubt_N: Floats, right_N: Bools) -> float:
    """Return the smallest threshold that declines at most `RIGHT_LOST` of the right answers."""
    of_right = np.sort(doubt_N[right_N])[::-1]
    allowed = math.floor(RIGHT_LOST * of_right.size)
    scale = 10**DIGITS
    # Just above the first right answer that must stay.
    return min(1.0, (math.floor(float(of_right[allowed]) * scale) + 1) / scale)


def declined(
    scorer: str, doubt_N: Floats, threshold: float, answers: Sequence[Judged], seed: int
) -> Declined:
    """Return what is taken away where doubt is at or above the threshold."""
    gone_N = doubt_N >= threshold
    right_N = np.array([each.right for each in answers])
    wrong_N = np.array([each.wrong_and_confident for each in answers])
    counted_N = right_N | wrong_N
    apart = bootstrap(
        _apart,
        gone_N[counted_N].astype(np.float64),
        wrong_N[counted_N],
        np.flatnonzero(counted_N),
        seed=seed,
        resamples=RESAMPLES,
    )
    return Declined(
        scorer=scorer,
        threshold=threshold,
        wrong=share(gone_N[wrong_N]),
        right=share(gone_N[right_N]),
        apart=apart,
    )


def as_many(doubt_N: Floats, count: int) -> float:
    """Return the threshold at which another scorer declines so many answers, ties aside."""
    if count == 0:
        return float(np.nextafter(doubt_N.max(), np.inf))
    return float(np.sort(doubt_N)[::-1][count - 1])


def ranks(answers: Sequence[Judged], seed: int) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Return each scorer's AUROC of wrong against right, and the probe's lead over the others."""
    wrong_N = np.array([not each.right for each in answers])
    groups_N = np.arange(len(answers))
    found = doubts(answers)
    draws = {
        name: bootstrap_draws(auroc, each, wrong_N, groups_N, seed=seed, resamples=RESAMPLES)
        for name, each in found.items()
    }
    exact = {name: auroc(each, wrong_N) for name, each in found.items()}
    return (
        {name: _interval(exact[name], each) for name, each in draws.items()},
        {
            name: _interval(exact[PROBE] - exact[name], draws[PROBE] - each)
            for name, each in draws.items()
            if name != PROBE
        },
    )


def loop(before: Sequence[Judged], after: Sequence[Judged]) -> Loop:
    """Return what clients got, of the same questions."""
    return Loop(
        wrong_before=share(np.array([each.wrong_and_confident for each in before])),
        wrong_after=share(np.array([each.wrong_and_confident for each in after])),
        right_before=share(np.array([each.right for each in before])),
        right_after=share(np.array([each.right for each in after])),
    )


def share(held_N: Bools) -> Share:
    """Return how many hold."""
    count = int(held_N.sum())
    return Share(count=count, n=held_N.size, share=wilson(count, held_N.size))


def _apart(gone_N: Floats, wrong_N: Bools) -> float:
    return float(gone_N[wrong_N].mean() - gone_N[~wrong_N].mean())


def _interval(estimate: float, draws: Floats) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(
        estimate=estimate, low=float(min(low, estimate)), high=float(max(high, estimate))
    )


def _or(value: float | None, other: float) -> float:
    return other if value is None or math.isnan(value) else value
