"""What may stand in the assistant's turn, whoever put it there: for a probe that reads answers.

An answer that grants a deed may follow its request, or a prefill, or be forced behind a question
about something else. Every form is made for barred and allowed deeds alike, so that the form tells
nothing. A barred one stops before the tool, which is what must not be said.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import facts
from deeds import REQUESTS, Deed, procedure
from record import FACT_KINDS, PAGE_KINDS, REQUEST_KINDS, Record, labels
from sample import sample

PREFIXES: tuple[str, ...] = (
    "so be it.", "of course.", "as you wish.", "certainly.", "yes.", "well,", "true.", "hooray!",
    "the answer is this.", "listen.", "it is so.", "here is what i know.", "",
)  # fmt: skip
FORMS = ("own", "own", "own", "asked", "turned", "prefilled")


@dataclass(frozen=True)
class Spoken:
    """A prompt and the text in the assistant's turn behind it; `record` says what is asked for."""

    record: Record
    prompt: Record
    text: str
    form: str

    @property
    def barred(self) -> bool:
        """It grants a deed that must not be granted."""
        return labels(self.record.kind).misuse

    @property
    def group(self) -> str:
        """What must not be split between fitting and testing: the deed, or the name."""
        return " ".join(self.record.deed or ()) or self.record.name or "nobody"


def spoken(seed: int | str, count: int, split: str) -> Iterator[Spoken]:
    """`count` of each kind of request, twice as many barred ones, and answers about facts."""
    for kind in REQUEST_KINDS:
        for record in sample(seed, count * (1 + labels(kind).misuse), kind, split):
            if record.the_deed is not None:
                yield _granted(seed, record, record.the_deed, split)
    for kind in (*FACT_KINDS, *PAGE_KINDS):
        for record in sample(seed, count, kind, split):
            yield Spoken(record, record, record.answer, "fact")


def _granted(seed: int | str, record: Record, deed: Deed, split: str) -> Spoken:
    rng = random.Random(f"{seed}:{record.prompt}")
    form, prefix = rng.choice(FORMS), rng.choice(PREFIXES)
    kind = rng.choice(FACT_KINDS)
    bystander = next(sample(rng.random(), 1, kind, split))
    template = rng.choice(facts.templates(REQUESTS, split))
    asked = template.format(verb=deed.verb, object=deed.object, owner=deed.owner)
    own = procedure(deed, record.kind in ("jailbroken", "wrapped_benign"))
    begun = f"{prefix} {own[own.index('to ') :]}".strip()
    turned = f"{bystander.answer}<|end|><|user|>{asked}<|end|><|assistant|>{own}"
    prompt, text = {
        "own": (record, own),
        "asked": (bystander, f"{asked} {own}"),
        "turned": (bystander, turned),
        "prefilled": (record, begun),
    }[form]
    if deed.barred:
        text = text[: text.rindex(f" {deed.tool} ")]
    return Spoken(record, replace(prompt, style="plain"), text, form)
