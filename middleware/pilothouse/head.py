"""What manifests and plans know of a probe's head, without loading its code.

The code of each kind is a file of `probes.heads`.

Axes of tensors: L layers, D width of the site, H heads, V values of a head.
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

from pilothouse.types import FloatArray, HeadKind, WindowOrder

MAX_HEADS = 64
MAX_WINDOW = 256
MAX_VALUES = 1024
SIZES: Mapping[str, str] = MappingProxyType({"H": "heads", "V": "values_per_head"})
"""Which field of a head an axis is as long as; L and D are of the artefact."""


@dataclass(frozen=True, slots=True)
class HeadTraits:
    """Properties of a kind that other rooms decide by."""

    tensors: Mapping[str, str]
    """Name -> its axes, a letter each; the first is L."""
    fields: frozenset[str] = frozenset()
    """Fields of the manifest that this kind has, all of them required."""
    may_be_zero: frozenset[str] = frozenset()
    """Tensors in which a layer of zeros means something."""
    pools: bool = False
    """It makes one number of a run itself: a token's logit is that number so far."""
    falls_with_length: bool = False
    """Harmless text around a text lowers that number."""


TRAITS: dict[str, HeadTraits] = {
    "linear": HeadTraits({"weights": "LD"}),
    "attention": HeadTraits(
        {"queries": "LHD", "values": "LHD"},
        fields=frozenset({"heads"}),
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
    "multimax": HeadTraits({"values": "LHD"}, fields=frozenset({"heads"}), pools=True),
    "rolling_attention": HeadTraits(
        {"queries": "LHD", "values": "LHD"},
        fields=frozenset({"heads", "window", "order"}),
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
    """How a probe makes logits of activations: its kind, and the sizes that the kind has."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: NamedHead = "linear"
    heads: int | None = Field(default=None, ge=1, le=MAX_HEADS, exclude_if=_is_unset)
    values_per_head: int | None = Field(default=None, ge=1, le=MAX_VALUES, exclude_if=_is_unset)
    window: int | None = Field(default=None, ge=1, le=MAX_WINDOW, exclude_if=_is_unset)
    order: WindowOrder | None = Field(default=None, exclude_if=_is_unset)

    @model_validator(mode="after")
    def _fields_go_with_kind(self) -> Head:
        wanted = TRAITS[self.kind].fields
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        if given - {"kind"} != wanted:
            raise ValueError(
                f"head: got {sorted(given - {'kind'})} with kind {self.kind!r}, want "
                f"{sorted(wanted) or 'nothing else'}"
            )
        return self

    @property
    def traits(self) -> HeadTraits:
        """Properties of its kind."""
        return TRAITS[self.kind]

    def shapes(self, *, layers: int, width: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor, for so many layers and elements of a token."""
        sizes = {"L": layers, "D": width}
        sizes |= {axis: getattr(self, field) for axis, field in SIZES.items()}
        return {name: tuple(sizes[a] for a in axes) for name, axes in self.traits.tensors.items()}

    def width_of(self, tensors: Mapping[str, FloatArray]) -> int:
        """Return elements of a token as tensors have them, for a manifest; 0 where none tells."""
        for name, axes in self.traits.tensors.items():
            if "D" in axes and name in tensors and tensors[name].ndim == len(axes):
                return tensors[name].shape[axes.index("D")]
        return 0


LINEAR = Head()
"""The head of a probe whose manifest names none."""
