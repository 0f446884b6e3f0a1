"""The manifests of artefacts: closed, frozen, the same in memory as in `manifest.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pilothouse.aggregate import PARAMETERS, NamedAggregate, parameter_faults
from pilothouse.config import Name
from pilothouse.head import Head
from pilothouse.types import PROJECTION_SITES, Aggregate, Scope, Site

FORMAT = "pilothouse/v1"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Layer = Annotated[int, Field(ge=0, lt=4096)]
Probability = Annotated[float, Field(ge=0, le=1)]
OpenProbability = Annotated[float, Field(gt=0, lt=1)]


class Closed(BaseModel):
    """Unknown fields, NaN and infinities are errors; nothing changes after it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)


class Manifest(Closed):
    """What every artefact says of itself.

    `weights_bytes` and `weights_sha256` are of `weights.safetensors`. `digest` is of the weights
    and of this manifest without the digest, so that neither changes unseen. `width` is given at
    sites that are not as wide as the stream.
    """

    format: Literal["pilothouse/v1"] = "pilothouse/v1"
    kind: str
    name: Name
    model_id: str = Field(min_length=1, max_length=256)
    d_model: int = Field(ge=1, le=1 << 20)
    site: Site
    width: int | None = Field(
        default=None, ge=1, le=1 << 20, exclude_if=lambda width: width is None
    )
    layers: tuple[Layer, ...] = Field(min_length=1)
    weights_bytes: int = Field(ge=8)
    weights_sha256: Sha256
    created_by: str = Field(min_length=1, max_length=512)
    digest: Sha256

    @model_validator(mode="after")
    def _layers_ascend(self) -> Manifest:
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers: got {list(self.layers)}, want them ascending, each once")
        return self

    @model_validator(mode="after")
    def _width_goes_with_site(self) -> Manifest:
        if (self.site in PROJECTION_SITES) != (self.width is not None):
            raise ValueError(
                f"width: got {self.width} at site {self.site!r}, want a number at "
                f"{sorted(PROJECTION_SITES)} and nothing elsewhere, where it is d_model"
            )
        return self

    @property
    def site_width(self) -> int:
        """How many elements a token has at the site."""
        return self.d_model if self.width is None else self.width


class VectorManifest(Manifest):
    """A steering vector: one direction per layer, and the model's mean norm at each tap."""

    kind: Literal["vector"] = "vector"

    @model_validator(mode="after")
    def _site_can_be_written(self) -> VectorManifest:
        if self.site == "logits":
            raise ValueError("site: got 'logits', want a site that can be written; logits cannot")
        return self


TransformForm = Literal["subspace", "plane", "lowrank", "diagonal"]


class TransformManifest(Manifest):
    """An edit that is more than a direction: its form, and how many rows it has at each layer.

    `rank` counts basis directions or low-rank rows; it is 2 for a plane and 1 for a diagonal map.
    """

    kind: Literal["transform"] = "transform"
    form: TransformForm
    rank: int = Field(ge=1, le=1024)

    @model_validator(mode="after")
    def _rank_goes_with_form(self) -> TransformManifest:
        wanted = {"plane": 2, "diagonal": 1}.get(self.form, self.rank)
        if self.rank != wanted:
            raise ValueError(f"rank: got {self.rank} with form {self.form!r}, want {wanted}")
        if self.site == "logits":
            raise ValueError("site: got 'logits', want a site that can be written; logits cannot")
        return self


def _left_out_if_none(value: object) -> bool:
    return value is None


Count = Annotated[int | None, Field(default=None, strict=True, exclude_if=_left_out_if_none)]
Number = Annotated[float | None, Field(default=None, exclude_if=_left_out_if_none)]


class ReadoutAggregate(Closed):
    """`types.Aggregate` as it stands in a manifest; there only what is given is written.

    `half_life_tokens` is older than that, and is written as null where it is not given.
    """

    kind: NamedAggregate
    half_life_tokens: float | None = None
    k_tokens: Count = None
    window_tokens: Count = None
    temperature: Number = None
    reference_logit: Number = None
    drift_logits: Number = None
    on_logit: Number = None
    off_logit: Number = None

    @model_validator(mode="after")
    def _parameters_go_with_the_kind(self) -> ReadoutAggregate:
        faults = [
            f"{each.parameter}: got {each.got}, want {each.want}; {each.fix}"
            for each in parameter_faults(self.spec)
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def spec(self) -> Aggregate:
        """The same, as the other rooms know it."""
        return Aggregate(self.kind, **{name: getattr(self, name) for name in PARAMETERS})


class Interval(Closed):
    """A figure with its two-sided 95% interval."""

    estimate: float
    low: float
    high: float

    @model_validator(mode="after")
    def _low_is_not_above_high(self) -> Interval:
        if self.low > self.high:
            raise ValueError(f"got low {self.low} above high {self.high}, want low <= high")
        return self


class Threshold(Closed):
    """The smallest calibrated value whose false positive rate is bounded by the target.

    It fires where `value >= threshold`. `fpr_upper` is the one-sided 95% Clopper-Pearson bound on
    `n` negatives, of which `exceedances` reached the value. `length_bucket` is the largest number
    of scored tokens it is meant for; none means any length.
    """

    target_fpr: OpenProbability
    value: Probability
    n: int = Field(ge=1)
    exceedances: int = Field(ge=0)
    fpr_upper: Probability
    length_bucket: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _bound_meets_the_target(self) -> Threshold:
        if self.fpr_upper > self.target_fpr:
            raise ValueError(
                f"fpr_upper: got {self.fpr_upper}, want at most target_fpr {self.target_fpr}"
            )
        return self


class ReadoutEvaluation(Closed):
    """Held-out quality of one readout, in short; the whole is in `evaluation.json`."""

    auroc: Interval
    tpr_at_fpr_1_percent: Interval
    n_positive: int = Field(ge=1)
    n_negative: int = Field(ge=1)


class Readout(Closed):
    """Where a probe looks, how its token logits sum up, and what the sum means.

    `value = sigmoid(slope * logit + offset)` is the chance of a positive where a share `prior`
    of all requests is positive.
    """

    scope: Scope
    aggregate: ReadoutAggregate
    slope: float = Field(gt=0)
    offset: float
    prior: OpenProbability
    thresholds: tuple[Threshold, ...] = ()
    evaluation: ReadoutEvaluation | None = None

    @model_validator(mode="after")
    def _each_threshold_once(self) -> Readout:
        keys = [(each.target_fpr, each.length_bucket) for each in self.thresholds]
        if len(keys) != len(set(keys)):
            raise ValueError(f"thresholds: got {keys}, want each (target_fpr, length_bucket) once")
        return self


class ProbeManifest(Manifest):
    """A probe: its head, a bias, and its readouts.

    `sigmoid(token_slope * logit + token_offset)` is the score of a single token. Without a head it
    is linear: one read row per layer.
    """

    kind: Literal["probe"] = "probe"
    head: Head | None = Field(default=None, exclude_if=lambda head: head is None)
    bias: float
    token_slope: float = Field(gt=0)
    token_offset: float
    readouts: dict[Name, Readout] = Field(min_length=1)
    default_readout: Name

    @model_validator(mode="after")
    def _default_readout_exists(self) -> ProbeManifest:
        if self.default_readout not in self.readouts:
            raise ValueError(
                f"default_readout: got {self.default_readout!r}, want one of "
                f"{sorted(self.readouts)}"
            )
        return self
