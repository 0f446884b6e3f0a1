"""What manifests and plans know of a probe's head, without loading its code.

The code of each kind is a file of `probes.heads`.

Axes of tensors: L layers, D width of the site, H heads, V values of a head, W width of the hidden
layer, R factors of a quadratic form, X what rows read: W where there is a hidden layer, else D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from pilothouse.types import FloatArray, HeadKind, Normaliser, WindowOrder

MAX_HEADS = 64
MAX_WINDOW = 256
MAX_VALUES = 1024
MAX_HIDDEN = 4096
MAX_RANK = 1024
SIZES: Mapping[str, str] = MappingProxyType(
    {"H": "heads", "V": "values_per_head", "W": "hidden_width", "R": "rank"}
)
"""Which field of a head an axis is as long as; L and D are of the artefact."""
HIDDEN: Mapping[str, str] = MappingProxyType({"hidden_weights": "LWD", "hidden_bias": "LW"})
"""Tensors of a hidden layer, of whatever kind."""


@dataclass(frozen=True, slots=True)
class HeadTraits:
    """Properties of a kind that other rooms decide by."""

    tensors: Mapping[str, str]
    """Name -> its axes, a letter each; the first is L."""
    fields: frozenset[str] = frozenset()
    """Fields of the manifest that this kind has to have."""
    options: frozenset[str] = frozenset({"normaliser"})
    """Fields that it may have."""
    may_be_zero: frozenset[str] = frozenset()
    """Tensors in which a layer of zeros means something."""
    pools: bool = False
    """It makes one number of a run itself: a token's logit is that number so far."""
    falls_with_length: bool = False
    """Harmless text around a text lowers that number."""


BEFORE_ROWS = frozenset({"normaliser", "hidden_width"})

TRAITS: dict[str, HeadTraits] = {
    "linear": HeadTraits({"weights": "LD"}),
    "mlp": HeadTraits({"weights": "LX"}, fields=frozenset({"hidden_width"})),
    "mahalanobis": HeadTraits(
        {"mean": "LD", "factors": "LRD", "weights": "LR"},
        fields=frozenset({"rank"}),
        may_be_zero=frozenset({"mean"}),
    ),
    "attention": HeadTraits(
        {"queries": "LHX", "values": "LHX"},
        fields=frozenset({"heads"}),
        options=BEFORE_ROWS,
        # A query of zeros is the mean of the values.
        may_be_zero=frozenset({"queries"}),
        pools=True,
        falls_with_length=True,
    ),
    "efficient_probing": HeadTraits(
        {"queries": "LHD", "value_maps": "LHVD", "classifier": "HV"},
        fields=frozenset({"heads", "values_per_head"}),
        may_be_zero=frozenset({"queries", "classifier"}),
        pools=True,
        falls_with_length=True,
    ),
    "multimax": HeadTraits(
        {"values": "LHX"}, fields=frozenset({"heads"}), options=BEFORE_ROWS, pools=True
    ),
    "rolling_attention": HeadTraits(
        {"queries": "LHX", "values": "LHX"},
        fields=frozenset({"heads", "window", "order"}),
        options=BEFORE_ROWS,
        may_be_zero=frozenset({"queries"}),
        pools=True,
    ),
}
"""Every kind that can be named: those of this package, and those that were registered beside."""


def allow_head(kind: str, traits: HeadTraits) -> None:
    """Let manifests name a kind from now on."""
    TRAITS[kind] = traits


def _registered_or(given: object, known: ValidatorFunctionWrapHandler) -> object:
    return given if isinstance(given, str) and given in TRAITS else known(given)


NamedHead = Annotated[HeadKind, WrapValidator(_registered_or), SerializeAsAny()]
"""A kind, as a manifest names it."""


def _is_unset(value: object) -> bool:
    return value is None


class Head(BaseModel):
    """How a probe makes logits of activations: its kind, and the fields that the kind has.

    A token is normalised first, then goes through the hidden layer, of each layer by itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: NamedHead = "linear"
    heads: int | None = Field(default=None, ge=1, le=MAX_HEADS, exclude_if=_is_unset)
    values_per_head: int | None = Field(default=None, ge=1, le=MAX_VALUES, exclude_if=_is_unset)
    window: int | None = Field(default=None, ge=1, le=MAX_WINDOW, exclude_if=_is_unset)
    order: WindowOrder | None = Field(default=None, exclude_if=_is_unset)
    rank: int | None = Field(default=None, ge=1, le=MAX_RANK, exclude_if=_is_unset)
    normaliser: Normaliser | None = Field(default=None, exclude_if=_is_unset)
    hidden_width: int | None = Field(default=None, ge=1, le=MAX_HIDDEN, exclude_if=_is_unset)

    @model_validator(mode="after")
    def _fields_go_with_kind(self) -> Head:
        traits = TRAITS[self.kind]
        fields = set(type(self).model_fields) - {"kind"}
        given = {name for name in fields if getattr(self, name) is not None}
        if not traits.fields <= given <= traits.fields | traits.options:
            raise ValueError(
                f"head: got {sorted(given)} with kind {self.kind!r}, want "
                f"{sorted(traits.fields) or 'none'}, and {sorted(traits.options)} if wanted"
            )
        return self

    @property
    def traits(self) -> HeadTraits:
        """Properties of its kind."""
        return TRAITS[self.kind]

    @property
    def tensors(self) -> Mapping[str, str]:
        """Axes of every tensor that a probe with this head has, by their names."""
        return {**self.traits.tensors, **(HIDDEN if self.hidden_width is not None else {})}

    @property
    def may_be_zero(self) -> frozenset[str]:
        """Tensors in which a layer of zeros means something."""
        return self.traits.may_be_zero | {"hidden_bias"}

    def shapes(self, *, layers: int, width: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor, for so many layers and elements of a token."""
        sizes = {"L": layers, "D": width}
        sizes |= {axis: getattr(self, field) for axis, field in SIZES.items()}
        sizes["X"] = width if self.hidden_width is None else self.hidden_width
        return {name: tuple(sizes[a] for a in axes) for name, axes in self.tensors.items()}

    def width_of(self, tensors: Mapping[str, FloatArray]) -> int:
        """Return elements of a token as tensors have them, for a manifest; 0 where none tells."""
        read = "D" if self.hidden_width is not None else "DX"
        for name, axes in self.tensors.items():
            for axis, letter in enumerate(axes):
                if letter in read and name in tensors and tensors[name].ndim == len(axes):
                    return int(tensors[name].shape[axis])
        return 0


LINEAR = Head()
"""The head of a probe whose manifest names none."""
