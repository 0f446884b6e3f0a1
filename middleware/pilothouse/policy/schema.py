"""The schema of a policy file: closed, frozen models. Meaning across fields is in `check`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from pilothouse.aggregate import PARAMETERS, NamedAggregate
from pilothouse.config import NAME
from pilothouse.term import NamedOp
from pilothouse.types import (
    Aggregate,
    Mode,
    OnError,
    Phase,
    Scope,
    Sites,
    Unit,
)
from pilothouse.validation_errors import Source

MAX_LOGGED_FEATURES = 256
"""Each feature is a read column: 256 make a step of 256 tokens copy 256 KiB more to the host."""
DEFAULT_REFUSAL = "This request was declined by policy."

Category = Literal[
    "misuse", "adversarial", "hallucination", "privacy", "conduct", "style", "operations"
]
SeverityLevel = Literal["low", "medium", "high", "critical"]
BlockShape = Literal["error", "refusal"]

KebabName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=64)]
SignalName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
ArtefactName = Annotated[str, Field(pattern=NAME)]
Glob = Annotated[str, Field(min_length=1, max_length=128)]
Feature = Annotated[int, Field(ge=0)]
Label = Annotated[str, Field(min_length=1, max_length=512)]
Globs = Annotated[tuple[Glob, ...], Field(min_length=1, max_length=64)]
Message = Annotated[str, Field(min_length=1, max_length=2000)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Metadata(_Closed):
    """Who the policy is. The name is a metric label, so it is short and kebab-case."""

    name: KebabName
    title: str = Field(min_length=1, max_length=120)
    category: Category
    severity: SeverityLevel
    description: str = Field(min_length=1, max_length=2000)


class Match(_Closed):
    """Which requests it is for: shell globs, case-sensitive, all four must hold."""

    tenants: Globs = ("*",)
    models: Globs = ("*",)
    profiles: Globs = ("*",)
    endpoints: Globs = ("*",)


PARAMETER_FIELDS = {name: name for name in PARAMETERS} | {
    "half_life_tokens": "ema_half_life_tokens"
}
"""What a policy calls each parameter of an aggregate."""


class AggregateRef(_Closed):
    """How token scores become one number. A half-life alone means `ema_last`.

    Parameters have the names that they have in a manifest, but for the half-life.
    """

    kind: NamedAggregate | None = None
    ema_half_life_tokens: float | None = None
    k_tokens: int | None = Field(default=None, strict=True)
    window_tokens: int | None = Field(default=None, strict=True)
    temperature: float | None = None
    reference_logit: float | None = None
    drift_logits: float | None = None
    on_logit: float | None = None
    off_logit: float | None = None

    @property
    def spec(self) -> Aggregate:
        """The same, as the other rooms know it."""
        given = {name: getattr(self, PARAMETER_FIELDS[name]) for name in PARAMETERS}
        return Aggregate(self.kind or "ema_last", **given)


class SignalRef(_Closed):
    """A name for a readout of a probe, or for an ad-hoc reading of it (`over` and `aggregate`)."""

    probe: ArtefactName
    readout: ArtefactName | None = None
    over: Scope | None = None
    aggregate: AggregateRef | None = None

    @property
    def ad_hoc(self) -> bool:
        """Whether no calibrated readout stands behind it."""
        return self.over is not None or self.aggregate is not None


class LoggedFeatures(_Closed):
    """Features of an SAE that a request turned on most, recorded beside the rule that fired.

    `of`: numbers or labels; every feature with a label where it is not given.
    """

    sae: ArtefactName
    top: int = Field(default=5, ge=1, le=32)
    of: Annotated[
        tuple[Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)], ...] | None,
        Field(min_length=1, max_length=MAX_LOGGED_FEATURES),
    ] = None


class Log(_Closed):
    """Count and record it, with what the request turned on in an SAE where that is asked for."""

    action: Literal["log"]
    features: LoggedFeatures | None = None


class Tag(_Closed):
    """Mark the decision with a word."""

    action: Literal["tag"]
    tag: KebabName


class Steer(_Closed):
    """Steer the tokens that follow, until the rule has been quiet for `hold_tokens`.

    With a vector or with features of an SAE. `op`, `scale`, `value`, `above` and `sites` mean what
    they mean in a request. A vector is added by default, a feature set.
    """

    action: Literal["steer"]
    vector: ArtefactName | None = None
    sae: ArtefactName | None = None
    feature: Feature | tuple[Feature, ...] | Label | None = None
    op: NamedOp = None
    scale: float | None = None
    value: float | None = None
    above: float | None = None
    unit: Unit = "raw"
    sites: Sites = "own"
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    hold_tokens: int = Field(default=32, ge=1, le=65536)

    @property
    def name(self) -> str:
        """The name of the vector or the SAE."""
        return self.vector or self.sae or ""


class Respond(_Closed):
    """End with a canned answer that looks like an answer."""

    action: Literal["respond"]
    message: Message
    as_: Literal["message"] = Field(default="message", alias="as")


class Block(_Closed):
    """End with a refusal, or before generation with an HTTP error."""

    action: Literal["block"]
    message: Message = DEFAULT_REFUSAL
    as_: BlockShape = Field(default="refusal", alias="as")


Action = Annotated[Log | Tag | Steer | Respond | Block, Field(discriminator="action")]


class Rule(_Closed):
    """When something holds, then do something."""

    id: KebabName
    phase: Phase
    when: str = Field(min_length=1)
    then: Action
    leak_tokens: int | None = Field(default=None, ge=0)
    """Tokens of a `for N tokens` run that may leave before the rule can fire."""


class Spec(_Closed):
    """What the policy does, to whom, and how surely."""

    mode: Mode = "shadow"
    rollout_percent: float = Field(default=100, ge=0, le=100)
    on_error: OnError | None = None
    score_answers: bool = False
    """Rules of the prompt that end requests are judged again over each answer, when it ends."""
    match: Match = Match()
    signals: dict[SignalName, SignalRef] = Field(min_length=1, max_length=32)
    rules: tuple[Rule, ...] = Field(min_length=1, max_length=64)


class Policy(_Closed):
    """A whole policy file."""

    api_version: Literal["pilothouse/v1"] = Field(alias="apiVersion")
    kind: Literal["Policy"]
    metadata: Metadata
    spec: Spec
    _source: Source = PrivateAttr(default_factory=Source)

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return self.metadata.name

    @property
    def source(self) -> Source:
        """The file it was read from; none when it came as JSON."""
        return self._source

    def placed(self, source: Source) -> Policy:
        """Return the same policy with the file it was read from."""
        copy = self.model_copy()
        copy._source = source
        return copy


def policy_json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a policy file, for editors and charts."""
    schema = Policy.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
