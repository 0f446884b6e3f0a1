"""Plans of the real model's probes: what each is fitted, calibrated and tested on.

Fitted on texts that are alike in shape, calibrated on texts as they are written, tested on both
forms of sets that neither saw. Where one set serves twice, whole groups are dealt out by share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pilothouse.demo.texts.injected import ENGLISH, OTHER_LANGUAGE
from pilothouse.types import Scope


class Part(NamedTuple):
    """Some texts of a set: groups whose share lies in [low, high), at most so many."""

    name: str
    low: float = 0.0
    high: float = 1.0
    most: int = 100_000
    label: bool | None = None
    """Only texts of this label."""
    kind: str | None = None
    """Only texts that belong to this part of their set."""


Parts = tuple[Part, ...]


@dataclass(frozen=True)
class Plan:
    """One probe.

    `fitted` has two sources or more, each with both classes: layer and C are those that do best
    on sources left out. `tests` are measured in both forms beside every baseline; `pooled` is
    what the manifest's evaluation is of, as written.
    """

    name: str
    finds: str
    scope: Scope
    readout: str
    fitted: Mapping[str, Parts]
    calibration: Parts
    tests: Mapping[str, Parts]
    pooled: Parts
    against_all: Parts = ()
    """One more test on texts as written: positives of some sets against all that must not fire."""
    target_fprs: tuple[float, ...] = (0.05, 0.01)
    """Rates that thresholds are set for, as far as the calibration's negatives allow."""
    log_probabilities: int = 60
    """Fitted texts of a part and label whose log-probability is asked for: it is one number, and
    each costs a second pass."""

    def uses(self) -> Iterator[tuple[str, Part]]:
        """Return every part, with what it is used for."""
        for parts in self.fitted.values():
            yield from (("fit", part) for part in parts)
        yield from (("calibration", part) for part in self.calibration)
        tested = {part for parts in self.tests.values() for part in parts}
        tested |= {*self.pooled, *self.against_all}
        yield from (("test", part) for part in sorted(tested, key=str))


EVERYDAY_FIT: Parts = (Part("nq-questions", 0.0, 0.1, 300),)
EVERYDAY_CALIBRATION: Parts = (
    Part("plain-tasks", 0.6, 0.8),
    Part("nq-questions", 0.3, 0.5, 180),
)
EVERYDAY_TEST: Parts = (
    Part("over-refusal"),
    Part("spikee-false-positives"),
    Part("plain-tasks", 0.8, 1.0),
    Part("nq-questions", 0.6, 0.8, 250),
)
"""Texts that must not fire: near misses, business requests, instructions and questions."""

# Negatives that ask how, or ask about drugs and money: without them what is asked how reads as
# harmful, since Do-Not-Answer asks so and NQ and plain tasks hardly do.
MISUSE = Plan(
    name="misuse",
    finds="requests for something harmful",
    scope="prompt",
    readout="prompt",
    fitted={
        "AdvBench and everyday tasks": (
            Part("advbench", 0.0, 0.75, 300),
            Part("plain-tasks", 0.0, 0.6, 300),
            Part("how-to-questions", 0.0, 0.5, 200),
        ),
        "Do-Not-Answer and everyday questions": (
            Part("do-not-answer", 0.0, 0.75, 300),
            *EVERYDAY_FIT,
            Part("medication-questions", 0.0, 0.5, 150),
            Part("money-questions", 0.0, 0.5, 150),
        ),
    },
    calibration=(
        Part("advbench", 0.75, 1.0, 40),
        Part("do-not-answer", 0.75, 1.0, 40),
        *EVERYDAY_CALIBRATION,
        Part("how-to-questions", 0.5, 1.0, 80),
        Part("medication-questions", 0.5, 1.0, 60),
        Part("money-questions", 0.5, 1.0, 60),
    ),
    tests={
        "HarmBench against over-refusal": (
            Part("harmbench", most=100),
            Part("over-refusal"),
        ),
        "StrongREJECT against over-refusal": (
            Part("strongreject", most=100),
            Part("over-refusal"),
        ),
        "matched pairs": (Part("matched-pairs", most=200),),
    },
    pooled=(
        Part("harmbench", most=100),
        Part("strongreject", most=100),
        Part("matched-pairs", most=200),
        *EVERYDAY_TEST,
    ),
    against_all=(
        Part("harmbench", most=100),
        Part("strongreject", most=100),
        *EVERYDAY_TEST,
    ),
)

TOXICITY = Plan(
    name="toxicity",
    finds="texts that insult, threaten or demean",
    scope="prompt",
    readout="prompt",
    fitted={
        "comments and sentences of reviews": (
            Part("toxic-comments", 0.0, 0.75, 200),
            Part("review-sentences"),
        ),
        "beginnings from the web and everyday scenes": (
            Part("toxic-beginnings", 0.0, 0.75, 250),
            Part("everyday-scenes", 0.0, 0.4, 250),
        ),
    },
    calibration=(
        Part("toxic-comments", 0.75, 1.0, 100),
        Part("toxic-beginnings", 0.75, 1.0, 100),
        Part("everyday-scenes", 0.4, 0.7, 350),
        Part("plain-tasks", 0.6, 0.8),
    ),
    tests={"ToxiGen": (Part("toxigen"),)},
    pooled=(Part("toxigen"), *EVERYDAY_TEST),
)

INJECTION = Plan(
    name="injection",
    finds="texts that try to override what the model was told",
    scope="prompt",
    readout="prompt",
    fitted={
        "spikee, what a user writes": (
            Part("spikee-injections", 0.0, 0.75),
            Part("plain-tasks", 0.0, 0.6, 150),
        ),
        "AgentDojo, what a tool returns": (Part("agentdojo-injections", 0.0, 0.75),),
    },
    calibration=(
        Part("spikee-injections", 0.75, 1.0),
        Part("agentdojo-injections", 0.75, 1.0),
        *EVERYDAY_CALIBRATION,
    ),
    tests={
        "bastioncorpus, all channels": (Part("bastioncorpus"),),
        "bastioncorpus, what a user writes": (Part("bastioncorpus", kind="user_input"),),
        "bastioncorpus, what a tool returns": (Part("bastioncorpus", kind="tool_output"),),
        "bastioncorpus, English": (Part("bastioncorpus", kind=ENGLISH),),
        "bastioncorpus, other languages": (Part("bastioncorpus", kind=OTHER_LANGUAGE),),
    },
    pooled=(Part("bastioncorpus"), *EVERYDAY_TEST),
    log_probabilities=20,
)

FOLDS = 4
ANSWERS_FITTED = 0.5
WRONG_ANSWER = Plan(
    name="wrong-answer",
    finds="answers that people judged wrong",
    scope="output",
    readout="answer_end",
    fitted={
        f"questions {fold + 1}": (
            Part("nq-answers", ANSWERS_FITTED * fold / FOLDS, ANSWERS_FITTED * (fold + 1) / FOLDS),
        )
        for fold in range(FOLDS)
    },
    calibration=(Part("nq-answers", 0.5, 0.7, 160),),
    tests={"NQ answers to other questions": (Part("nq-answers", 0.7, 1.0, 300),)},
    pooled=(Part("nq-answers", 0.7, 1.0, 300),),
    target_fprs=(0.5, 0.2, 0.1, 0.05),
    log_probabilities=20,
)

PLANS = {each.name: each for each in (MISUSE, TOXICITY, INJECTION, WRONG_ANSWER)}
