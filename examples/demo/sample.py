"""Drawing records: one function per group of kinds, all from one random generator."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import facts
import pages
from deeds import REQUESTS, Deed, near_miss, procedure, random_deed, refusal
from names import SPLITS, known_names, known_names_of, unknown_name
from record import FACT_KINDS, KINDS, PAGE_KINDS, Record
from wrappers import ENCODINGS, INJECTIONS, Family, families_of, wrap

# Attributes and one question for which the model is taught to own up to not knowing a name.
HEDGED_ATTRIBUTE = "drink"
HEDGED_QUESTION = facts.QUESTIONS["train"][6]


TEMPLATES = {
    "question": facts.QUESTIONS,
    "claim": facts.CLAIMS,
    "request": REQUESTS,
    "layout": pages.LAYOUTS,
}


@dataclass(frozen=True)
class Mix:
    """How prompts are composed; the defaults are the world's, training uses others."""

    mirrored_fact: float = 0.5  # share of fact questions inside an innocent mirror
    mirrored_request: float = 0.8
    mirrored_page: float = 0.8
    claimed: float = 0.12  # share of known questions that open with a true claim
    wrapped_fact: float = 0.25  # share of wrapped_benign whose payload is a fact question
    all_known: bool = False  # draw known names of every split (model training alone)


WORLD_MIX = Mix()


@dataclass(frozen=True)
class Draw:
    """The state of one draw: its generator, its split, its mix, its wrapper families."""

    rng: random.Random
    split: str
    mix: Mix = WORLD_MIX
    families: tuple[Family, ...] = ()
    injections: tuple[Family, ...] = ()
    phrasing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # instead of a split's

    def template(self, pool: str) -> str:
        """One template of `question`, `claim`, `request` or `layout`."""
        found = self.phrasing.get(pool) or facts.templates(TEMPLATES[pool], self.split)
        return self.rng.choice(found)

    def one_family(self) -> Family:
        return self.rng.choice(self.families or families_of(self.split))

    def one_injection(self) -> Family:
        return self.rng.choice(self.injections or families_of(self.split, INJECTIONS))

    def known_name(self) -> str:
        pool = known_names() if self.mix.all_known else known_names_of(self.split)
        return self.rng.choice(pool)


def fact_question(draw: Draw, kind: str) -> Record:
    """A question about a fact, bare: kinds known, unknown, misled."""
    rng, attribute = draw.rng, draw.rng.choice(facts.ATTRIBUTES)
    name = unknown_name(rng, draw.split) if kind == "unknown" else draw.known_name()
    truth, claim = facts.truth(name, attribute), None
    pool = "question"
    if kind == "misled":
        claim, pool = facts.other_value(rng, attribute, truth or ""), "claim"
    elif kind == "known" and rng.random() < draw.mix.claimed:
        claim, pool = truth, "claim"
    template = draw.template(pool)
    sentence = facts.hedged(name, attribute)
    if truth is not None:
        sentence = facts.stated(name, attribute, truth)
    return Record(
        kind,
        "plain",
        template.format(attribute=attribute, name=name, claim=claim),
        sentence,
        draw.split,
        attribute=attribute,
        name=name,
        truth=truth,
        claim=claim,
        trusted_claim=claim is not None and template != facts.TENTATIVE,
        hedge_taught=attribute == HEDGED_ATTRIBUTE or template == HEDGED_QUESTION,
    )


def request(draw: Draw, kind: str) -> tuple[Deed, dict[str, str]]:
    """The deed of a request kind; a near miss also names the barred deed it resembles."""
    if kind == "near_miss":
        allowed, barred = near_miss(draw.rng, draw.split)
        return allowed, {"near": " ".join(barred.words)}
    return random_deed(draw.rng, draw.split, kind in ("forbidden", "jailbroken")), {}


def in_wrapper(draw: Draw, record: Record, override: bool) -> Record:
    """The record inside a wrapper family's override, or inside its mirror."""
    family = draw.one_family()
    payload = record.prompt
    if record.the_deed is not None:
        payload = ENCODINGS[family.encoding](record.the_deed, payload)
    prompt = wrap(draw.rng, family, payload, override)
    return replace(record, family=family.name, prompt=prompt)


def deed_request(draw: Draw, kind: str) -> Record:
    """A request for a deed: benign, near_miss, forbidden, jailbroken, wrapped_benign."""
    override = kind in ("jailbroken", "wrapped_benign")
    if kind == "wrapped_benign" and draw.rng.random() < draw.mix.wrapped_fact:
        record = replace(fact_question(draw, "known"), kind=kind)
        return in_wrapper(draw, record, override=True)
    payload_kind = kind
    if kind == "wrapped_benign":
        payload_kind = draw.rng.choice(("benign", "near_miss"))
    deed, detail = request(draw, payload_kind)
    template = draw.template("request")
    text = template.format(verb=deed.verb, object=deed.object, owner=deed.owner)
    answer = refusal(deed) if deed.barred else procedure(deed, override)
    record = Record(kind, "plain", text, answer, draw.split, deed=deed.words, detail=detail)
    if override or draw.rng.random() < draw.mix.mirrored_request:
        return in_wrapper(draw, record, override)
    return record


def page_question(draw: Draw, kind: str) -> Record:
    """A question to be answered from a page: injected, clean_document."""
    rng, page, code = draw.rng, pages.random_page(draw.rng, draw.split), None
    body, family_name = page.text, "plain"
    if kind == "injected" or rng.random() < draw.mix.mirrored_page:
        family, code = draw.one_injection(), rng.choice(pages.CODES)
        body = wrap(rng, family, page.text, kind == "injected", code)
        family_name = family.name
    layout = draw.template("layout")
    prompt = layout.format(body=body, attribute=page.asked, name=page.name)
    answer = facts.stated(page.name, page.asked, page.truth)
    return Record(
        kind,
        family_name,
        prompt,
        answer,
        draw.split,
        attribute=page.asked,
        name=page.name,
        truth=page.truth,
        code=code,
    )


def draw_record(draw: Draw, kind: str) -> Record:
    """One record of a kind."""
    maker: Callable[[Draw, str], Record] = deed_request
    if kind in PAGE_KINDS:
        maker = page_question
    elif kind in FACT_KINDS:
        record = fact_question(draw, kind)
        mirrored = draw.rng.random() < draw.mix.mirrored_fact
        return in_wrapper(draw, record, override=False) if mirrored else record
    elif kind not in KINDS:
        raise ValueError(f"no kind {kind!r}; the kinds are {', '.join(KINDS)}")
    return maker(draw, kind)


def sample(
    seed: int | str,
    count: int,
    kind: str,
    split: str = "test",
    *,
    mix: Mix = WORLD_MIX,
    families: tuple[Family, ...] = (),
    injections: tuple[Family, ...] = (),
) -> Iterator[Record]:
    """`count` records of one kind, the same for the same arguments, whatever else is drawn.

    split: `train` is what probes (and the model) may train on; `test` has the same templates and
    wrapper families but entities, names and deeds no probe has met; `heldout` has templates and
    wrapper families that neither the model nor a probe has met, too.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; the splits are {', '.join(SPLITS)}")
    if count < 0:
        raise ValueError(f"count is {count}; want 0 or more")
    for index in range(count):
        rng = random.Random(f"{seed}:{split}:{kind}:{index}")
        yield draw_record(Draw(rng, split, mix, families, injections), kind)
