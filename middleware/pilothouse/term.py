"""One line of steering: what is done, with which artefact, how strongly, where.

The same line stands in profiles, in requests and in the signed request.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from pilothouse.types import Clause, FeatureOp, Operator, Reserved, Sites, Unit

MAX_INDICES = 32
MAX_FEATURES = 64
MAX_LABEL = 512
Token = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(strict=True)]
Layer = Annotated[int, Field(ge=0, lt=4096, strict=True)]
Count = Annotated[int, Field(ge=1)]


_REGISTERED: set[str] = set()
"""Operators that are not among the `Operator`s of this package."""


def allow_operator(name: str) -> None:
    """Let terms, configurations and policies name an operator from now on."""
    if name not in get_args(Operator):
        _REGISTERED.add(name)


def _registered_or(given: object, known: ValidatorFunctionWrapHandler) -> object:
    return given if isinstance(given, str) and given in _REGISTERED else known(given)


NamedOp = Annotated[Operator | FeatureOp | None, WrapValidator(_registered_or), SerializeAsAny()]
"""An operator of vectors or of features, as a term or a rule names it."""
NamedReserved = Annotated[Reserved, WrapValidator(_registered_or), SerializeAsAny()]
"""What a tap can have tables for, as `taps.operators` names it."""


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Positions(_Closed):
    """Some of a clause's positions. Exactly one way of naming them, or the word `last_prompt`.

    `first` and `last` count tokens of the clause (`last` needs the prompt's end, so `on: prompt`),
    `window` is [from, to) in output tokens, `indices` are absolute, negative ones from the prompt's
    end. `after` lists token ids: what follows each of them is meant, for `span` tokens or to the
    end. The token itself is not: when it is sampled it is already on its way into the model.
    """

    first: Count | None = None
    last: Count | None = None
    window: tuple[Token, Token] | None = None
    indices: tuple[int, ...] | None = Field(default=None, min_length=1, max_length=MAX_INDICES)
    after: tuple[Token, ...] | None = Field(default=None, min_length=1, max_length=MAX_INDICES)
    span: Count | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Positions:
        ways = ("first", "last", "window", "indices", "after")
        named = [name for name in ways if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(f"positions: got {named or 'nothing'}, want exactly one of {ways}")
        if self.span is not None and self.after is None:
            raise ValueError("positions.span: goes with `after` only")
        if self.window is not None and self.window[0] >= self.window[1]:
            raise ValueError(f"positions.window: got {list(self.window)}, want from below to")
        return self


def _spelled_out(named: object) -> object:
    return {"indices": [-1]} if named == "last_prompt" else named


class TokenGate(_Closed):
    """Steer a token by how much it looks like something: sigmoid(sharpness (<e, h> + b - above)).

    `probe` names a loaded probe with a read row at the steered layer; `above` is in its logits.
    """

    probe: str
    above: float = 0.0
    sharpness: float = Field(default=1.0, gt=0)


def _named(feature: object) -> object:
    """Refuse what is no feature; each member of a union would complain on its own."""
    if isinstance(feature, str) and 0 < len(feature) <= MAX_LABEL:
        return feature
    numbers = feature if isinstance(feature, list | tuple) else [feature]
    are_numbers = all(type(each) is int and each >= 0 for each in numbers)
    if are_numbers and 0 < len(numbers) <= MAX_FEATURES:
        return feature
    raise ValueError(
        f"want the number of a feature, a list of 1 to {MAX_FEATURES} numbers, or a label of 1 to "
        f"{MAX_LABEL} characters"
    )


Features = Annotated[int | tuple[int, ...] | str, BeforeValidator(_named)]
"""An SAE's feature by its number or its label, or several by number."""


class SteerTerm(_Closed):
    """One intervention. What an operator takes is said in its file in `edits.ops`.

    With a vector (or transform), or with features of an SAE: then `op` is one of `FeatureOp`, and
    the edit is made where the feature's code is over `above`.
    """

    vector: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    sae: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    feature: Features | None = None
    op: NamedOp = None
    """Where None, what the artefact is made for; `add` for a vector, `set` for a feature."""
    scale: Number | None = None
    value: Number | None = None
    above: Number | None = None
    unit: Unit = "raw"
    on: Clause = "output"
    sites: Sites = "own"
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=256)] | None = None
    positions: Annotated[Positions, BeforeValidator(_spelled_out)] | None = None
    restore_norm: Literal[False, True, "if_longer"] = False
    """`if_longer` only shortens: what the edit left as long or shorter stays as it is."""
    gate: TokenGate | None = None

    @property
    def name(self) -> str:
        """The name of the vector or the SAE."""
        named = self.vector if self.sae is None else self.sae
        assert named is not None
        return named

    @model_validator(mode="after")
    def _of_one_thing(self) -> SteerTerm:
        if self.vector is None and self.sae is None:
            raise ValueError("vector: missing; want one of `vector` and `sae`")
        if self.vector is not None and self.sae is not None:
            raise ValueError("sae: got it beside `vector`, want one of them: make two terms of it")
        if self.sae is None:
            for field_name in ("feature", "above"):
                if getattr(self, field_name) is not None:
                    raise ValueError(f"{field_name}: is of SAE features; want it with `sae`")
        elif self.feature is None:
            raise ValueError("feature: missing; want a number, a list of numbers, or a label")
        return self

    @model_validator(mode="after")
    def _positions_lie_in_the_clause(self) -> SteerTerm:
        where = self.positions
        if where is not None:
            if self.on == "output" and where.indices and max(where.indices) < 0:
                raise ValueError(
                    "positions: the prompt's are no output positions: use `on: prompt`"
                )
            if where.last is not None and self.on != "prompt":
                raise ValueError("positions.last: an answer's end is not known: use `on: prompt`")
            if where.window is not None and self.on != "output":
                raise ValueError("positions.window: counts output tokens: use `on: output`")
        return self
