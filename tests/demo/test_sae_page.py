"""The SAE's page is made of its card, and says what is not shown."""

from __future__ import annotations

import re

import yaml

from pilothouse.artifacts.manifest import Interval
from pilothouse.config import Profile
from pilothouse.demo.sae.edits import terms_of
from pilothouse.demo.sae.recipe import Recipe
from pilothouse.demo.sae.sae_card import (
    Detection,
    EditCard,
    LabelCard,
    Reconstruction,
    SaeCard,
    Screened,
    SourceUse,
    is_shown,
)
from pilothouse.demo.sae.sae_page import readme
from pilothouse.demo.vector_card import Against, Example
from pilothouse.probes.metrics import wilson


def near(value: float) -> Interval:
    return Interval(estimate=value, low=value - 0.01, high=value + 0.01)


def against(changed: int) -> Against:
    return Against(n=100, changed=wilson(changed, 100), effect=near(1.0), degenerate=0.0)


def edit(name: str, changed: int, by_lot: int = 5) -> EditCard:
    return EditCard(
        feature=7,
        name=name,
        strength=0.3,
        value=12.5,
        tried=(Screened(strength=0.3, changed=0.8),),
        bar=1.0,
        plain=0.1,
        reached=2.0,
        edited=against(changed),
        random=against(by_lot),
        perplexity_ratio=near(1.5),
        perplexity_n=35,
        examples=(Example(question="Why *so*?", plain="Since.", steered="A band."),),
    )


def label(name: str, detection: Detection | None) -> LabelCard:
    return LabelCard(
        feature=7,
        name=name,
        reach=0,
        share=0.9,
        training_auroc=0.95,
        strongest=("gui|tar",),
        detection=detection,
    )


def card(*edits: EditCard) -> SaeCard:
    found = Detection(
        tokens=1000,
        positive=40,
        auroc=near(0.9),
        found_at_five_percent=0.7,
        by_lot=0.52,
        text_auroc=0.8,
    )
    return SaeCard(
        name="tiny",
        model_id="m",
        recipe=Recipe(),
        weights_sha256="0" * 64,
        weights_bytes=1234567,
        average_norm=42.0,
        training_tokens=1000,
        left_out_tokens=3,
        sources=(
            SourceUse(
                name="plots",
                is_asked=False,
                wheel="w 1",
                wheel_sha256="1" * 64,
                licence="MIT",
                upstream="Plots, MIT",
                digest="2" * 64,
                texts=9,
                tokens=900,
                held_out_texts=2,
                held_out_tokens=100,
            ),
        ),
        reconstruction=Reconstruction(
            texts=2,
            tokens=100,
            l0=near(50.0),
            explained_variance=near(0.8765),
            dead=3,
            dead_in_training=1,
            loss_texts=2,
            loss_tokens=90,
            loss=3.0,
            loss_reconstructed=3.2,
            loss_mean=9.0,
            loss_recovered=near(0.96),
        ),
        labels=(label("music", found), label("sport", None)),
        choosing=16,
        testing=100,
        draws=3,
        screened=2,
        edits=edits,
        seed=0,
        versions={"torch": "2"},
    )


def test_an_edit_is_shown_that_changes_half_and_more_than_features_by_lot_do() -> None:
    assert is_shown(edit("music", 60))
    assert not is_shown(edit("music", 40))
    assert not is_shown(edit("music", 60, by_lot=55))


def test_the_page_has_the_figures_beside_the_published_ones() -> None:
    page = readme(card(edit("music", 60)))
    assert "| explained variance | 0.8765 [0.8665, 0.8865] |" in page
    assert "published, not checked by us | 18432 | 50 | 0.94 to 0.97 |" in page
    assert "| plots | w 1, MIT | Plots, MIT | 9, 900 | 2, 100 |" in page
    assert "| never on here | 3 of 3456 |" in page


def test_every_label_has_a_row_of_its_own_and_of_all_columns() -> None:
    page = readme(card())
    rows = [
        each for each in page.splitlines() if each.startswith(("| music", "| sport", "| label"))
    ]
    bars = [len(re.findall(r"(?<!\\)\|", each)) for each in rows if "| 7 |" in each]
    [head] = [each for each in rows if "by lot" in each and "reach" in each]
    assert bars == [head.count("|")] * 2
    assert "no such word" in page


def test_what_is_not_shown_is_said() -> None:
    page = readme(card(edit("music", 30)))
    assert "## Edits: 0 shown" in page and "| not shown |" in page
    assert "others changed more: sport." in page
    assert "```yaml" not in page


def test_a_page_without_edits_says_that_none_was_measured() -> None:
    assert "## Edits: not measured" in readme(card())


def test_the_profile_on_the_page_is_the_edit_that_was_measured() -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", readme(card(edit("music", 60))), re.DOTALL)
    raw = yaml.safe_load(text.replace("on:", "'on':"))
    read = Profile.model_validate(raw["smol:music"])
    assert read.steer == terms_of("tiny", "music", 12.5)
