"""`fit.json`: everything that was measured, and what it was measured on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pilothouse.artifacts.manifest import Closed, Interval, Layer, Sha256
from pilothouse.types import Clause, Site

Control = Literal["random", "shuffled"]
Kind = Literal["fitted", "random", "shuffled"]
CONTROLS: tuple[Control, ...] = ("random", "shuffled")


class Figures(Closed):
    """The figures of one steering beside none.

    `effect`: mean change of the margin (log-probability of a token, positive less negative), nats.
    `moved`: share of pairs that moved towards the positive. `perplexity_ratio`: perplexity of
    neutral texts, steered over not. `choices_kept`: of neutral tokens that were the likeliest, the
    share that still are. `kl`: lower bound on KL(unsteered || steered) a token, nats. `facts_kept`:
    of questions answered right, the share that still is.
    """

    effect: float
    moved: float
    perplexity_ratio: float
    choices_kept: float | None
    kl: float
    facts_kept: float | None = None


class Cell(Closed):
    """One vector at one layer and strength; `draw` tells several controls of a kind apart."""

    kind: Kind
    draw: int = Field(ge=0)
    layer: Layer
    scale: float
    figures: Figures


class LayerFit(Closed):
    """A layer's direction: its length beside the stream's, its steadiness, what the method says."""

    layer: Layer
    length: float
    residual_norm: float
    bootstrap_cosine: Interval
    """Mean over refits on resampled groups; low and high hold 95% of the refits."""
    facts: dict[str, Any] = Field(default_factory=dict)


class Trial(Closed):
    """The chosen cell and its controls on pairs that were neither fitted nor chosen on."""

    cells: tuple[Cell, ...]
    effect: Interval
    effect_over: dict[Control, Interval]
    """Effect less the mean effect of the controls of a kind, pair by pair."""


class Stage(Closed):
    """What a part of the work took. Its seconds differ from one fit to the same again."""

    name: str
    texts: int
    tokens: int
    """Tokens that were computed: prompts that texts share are counted once."""
    seconds: float
    cpu_seconds: float
    """The seconds of all cores together, in this process: a busy machine makes `seconds` longer."""


class LayerSearch(Closed):
    """What was known of a layer when the search chose where to look.

    `separation`: d' of the sides of the pairs that choose, along the direction. `screened`: its
    figures at the screen's strength. `reach`: about its effect at the fluency limit, by those.
    """

    layer: Layer
    separation: float | None
    screened: Figures | None
    reach: float | None
    searched: bool
    why: str


class ControlChoice(Closed):
    """The layer that a control took, and the effects by which it did, layer by layer."""

    kind: Control
    draw: int = Field(ge=0)
    layer: Layer
    effects: dict[int, float]


class Search(Closed):
    """How layer and strength were found.

    `full`: every layer at every strength, controls too. `staged`: all layers at `screen_scale` on
    some of the pairs that choose, then the best few at finer strengths on as many as
    `search_pairs`.
    """

    kind: Literal["full", "staged"]
    screen_scale: float | None = None
    screen_pairs: int = 0
    screen_neutral: int = 0
    search_pairs: int = 0
    search_neutral: int = 0
    layers: tuple[LayerSearch, ...] = ()
    controls: tuple[ControlChoice, ...] = ()


class Parts(Closed):
    """Pairs in each part, and their groups."""

    fit: int
    choose: int
    test: int
    fit_groups: int
    choose_groups: int
    test_groups: int


class FitReport(Closed):
    """The whole file. The same input on the same machine gives the same file, but for seconds."""

    format: Literal["pilothouse-fit/1"] = "pilothouse-fit/1"
    name: str
    model_id: str
    method: str
    site: Site
    on: Clause
    unit: Literal["residual"] = "residual"
    token: str
    seed: int
    data_sha256: dict[str, Sha256]
    """The digest of each file that was read, by what it is."""
    versions: dict[str, str]
    parts: Parts
    neutral: str
    max_perplexity_ratio: float
    layers: tuple[LayerFit, ...]
    sweep: tuple[Cell, ...]
    search: Search = Search(kind="full")
    """How the cells of `sweep` came to be looked at."""
    chosen_layer: Layer
    chosen_scale: float
    test: Trial
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables of the chat template, where conversations were put into it with some."""
    dtype: str = ""
    """The type in which the model ran; empty where that was not taken down."""
    stages: tuple[Stage, ...] = ()
