"""Pages are made of cards, and say what is not reached."""

from __future__ import annotations

import re

import pytest
import yaml

from pilothouse.artifacts.manifest import Interval
from pilothouse.config import Profile
from pilothouse.demo.places import Steering, terms_of
from pilothouse.demo.poles import SUBJECTS
from pilothouse.demo.vector_card import (
    Against,
    Example,
    FactsKept,
    PoleCard,
    Readable,
    Tried,
    VectorCard,
    is_beyond_controls,
    is_shown,
    unreached,
)
from pilothouse.demo.vector_page import overview, readme
from pilothouse.library import library_path
from pilothouse.probes.metrics import wilson


def near(value: float) -> Interval:
    return Interval(estimate=value, low=value - 0.05, high=value + 0.05)


def against(changed: int, degenerate: float = 0.0) -> Against:
    return Against(n=200, changed=wilson(changed, 200), effect=near(0.3), degenerate=degenerate)


HOW = Steering(layers=(3, 4), how="add", when="answer", strengths=(0.1,))


def pole(changed: int, control: int = 10, kept: int = 95, degenerate: float = 0.0) -> PoleCard:
    first = Tried(steering=HOW, dose=1.0, n=8, progress=0.7, changed=0.5, degenerate=0.4)
    last = Tried(
        steering=HOW,
        dose=1.4,
        n=40,
        progress=0.95,
        changed=0.9,
        degenerate=0.0,
        facts_kept=0.85,
        perplexity_ratio=1.5,
    )
    return PoleCard(
        name="glad",
        asked="open",
        steering=HOW,
        dose=1.4,
        bar=0.4,
        plain=0.3,
        plain_degenerate=0.01,
        tried=(first, last),
        steered=against(changed, degenerate),
        random=against(control),
        shuffled=against(control),
        words="Be glad.",
        worded=against(30),
        facts=FactsKept(n=100, kept=wilson(kept, 100)),
        perplexity_ratio=near(1.5),
        perplexity_n=200,
        reached=0.6,
        findings=(),
        examples=(Example(question="How\nare *you*?", plain="Fine.", steered="Great <b>!"),),
    )


def card(*poles: PoleCard, notes: tuple[str, ...] = ()) -> VectorCard:
    return VectorCard(
        name="glad",
        negative="sad",
        model_id="some-model",
        method="difference-of-means",
        layers=(3, 4),
        judge="mood",
        measure="a number",
        margin=0.2,
        max_tokens=40,
        fact_tokens=12,
        pairs=48,
        pairs_sha256="0" * 64,
        seed=0,
        choosing=60,
        testing=200,
        near_dropped=2,
        draws=3,
        poles=poles,
        versions={},
        notes=notes,
    )


def test_a_vector_that_reaches_every_aim_has_no_findings() -> None:
    assert unreached(pole(160)) == ()
    assert is_shown(pole(160))


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (pole(120), "changed 60%"),
        (pole(160, control=40), "random controls change 20%"),
        (pole(160, kept=80), "facts kept 80%"),
        (pole(160, degenerate=0.3), "30% of its answers repeat themselves"),
    ],
)
def test_what_is_not_reached_is_said(found: PoleCard, word: str) -> None:
    assert word in " ".join(unreached(found))


def test_a_vector_that_does_no_more_than_its_controls_is_not_shown() -> None:
    assert not is_shown(pole(110, control=100))
    assert is_beyond_controls(pole(96, control=60)) and not is_shown(pole(96, control=60))
    assert not is_beyond_controls(pole(110, control=100))
    assert not is_shown(pole(80, control=2))


def test_the_pages_have_every_pole_and_its_figures() -> None:
    page = readme(card(pole(160), notes=("a note",)))
    assert "| `smol:glad` | 80% [74, 85] of 200 | 5% [3, 9] of 200 |" in page
    assert "| add 0.1 at layers 3 to 4 | 1 | 8 | 70% | 50% | 40% |  |  |" in page
    assert "| add 0.1 at layers 3 to 4 | 1.4 | 40 | 95% | 90% | 0% | 85% | x1.50 |" in page
    assert "“Be glad.”" in page
    assert "- a note" in page
    assert "80% [74, 85] of 200" in overview([card(pole(160)), card(pole(120))])


def test_the_page_of_a_language_says_how_readable_it_is() -> None:
    found = Readable(
        n=40, steered=near(2.0), own=near(1.5), own_degenerate=0.25, written=near(3.0), written_n=38
    )
    page = readme(card(pole(160).model_copy(update={"readable": found})))
    assert "2.00 [1.95, 2.05] the steered answers (n = 40)" in page
    assert "of which 25% repeat themselves" in page
    assert "nats" not in readme(card(pole(160)))


def test_answers_are_shown_as_they_are() -> None:
    page = readme(card(pole(160)))
    assert "> **How are \\*you\\*?**" in page
    assert "> glad: Great \\<b\\>!" in page


def test_the_pages_in_the_library_are_those_of_their_cards() -> None:
    folder = library_path("probes/smol") / "vectors"
    cards = []
    for subject in SUBJECTS:
        path = folder / subject.name / "card.json"
        if path.is_file():
            found = VectorCard.model_validate_json(path.read_text(encoding="utf-8"))
            assert (folder / subject.name / "README.md").read_text(encoding="utf-8") == readme(
                found
            )
            cards.append(found)
    page = folder / "README.md"
    assert page.is_file() == bool(cards)
    assert not cards or page.read_text(encoding="utf-8") == overview(cards)


def test_the_profile_on_a_page_is_the_steering_that_was_measured() -> None:
    found = card(pole(160))
    [text] = re.findall(r"```yaml\n(.*?)```", readme(found), re.DOTALL)
    raw = yaml.safe_load(text.replace("on:", "'on':"))
    read = Profile.model_validate(raw["smol:glad"])
    assert read.steer == terms_of("glad", HOW)
