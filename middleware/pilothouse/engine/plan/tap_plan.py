"""One tap of a plan: where it is, what it reads, and what it has tables for."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from pilothouse.edits.layer import LayerEdit
from pilothouse.edits.ops import known_flags
from pilothouse.engine.plan.spec import Frozen
from pilothouse.types import Activation, Site, Tap


class ResidentSae(Frozen):
    """An SAE that is resident at a tap, since its features are chosen by all others."""

    sae: str
    """Its digest."""
    num_features: int = 0
    numbers: int = 0
    """How many its weights are on the device, on all ranks together."""


class CodeColumns(Frozen):
    """Columns of codes: these features of a resident SAE, in this order."""

    latent: ResidentSae
    features: tuple[int, ...]


class HiddenColumns(Frozen):
    """Columns that read the hidden layer of one probe's head."""

    width: int
    """Of the hidden layer."""
    num_columns: int
    activation: Activation
    statistic: int = 0
    """What the layer counts a token in."""


class PolicyRow(Frozen):
    """A gated row that policies have at a tap."""

    target: int
    """Whose it is: the number of the policy target."""
    statistic: int = 0
    """What it counts a token in."""
    latent: ResidentSae | None = None
    """The resident SAE whose code it reads, if it reads no row."""
    feature: int = 0


class EditPlan(Frozen):
    """What a tap can do beside adding: tables exist for this and nothing else.

    `rank` bounds a program's gated rows; `tables` names flags of the kinds in `edit.ops`; `latents`
    are the SAEs whose codes requests may edit. As data each flag is a field of its own, true or
    false.
    """

    rank: int = 0
    tables: frozenset[str] = frozenset()
    latents: tuple[ResidentSae, ...] = ()
    policy_rows: tuple[PolicyRow, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_fields(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        flags = {name: given[name] for name in known_flags() if name in given}
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise ValueError(f"{name}: got {value!r}, want true or false")
        others = {name: value for name, value in given.items() if name not in flags}
        named = {name for name, value in flags.items() if value} | set(others.get("tables", ()))
        unknown = named - known_flags().keys()
        if unknown:
            raise ValueError(f"tables: got {sorted(unknown)}, want some of {sorted(known_flags())}")
        return others | {"tables": frozenset(named)}

    @model_serializer(mode="wrap")
    def _as_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields: dict[str, object] = handler(self)
        del fields["tables"]
        flags = {name: name in self.tables for name in known_flags()}
        return {"rank": fields.pop("rank")} | flags | fields

    @property
    def policy_latents(self) -> tuple[ResidentSae, ...]:
        """The SAEs whose codes policies edit, in the order of their digests."""
        return united((), tuple(each.latent for each in self.policy_rows if each.latent))

    @classmethod
    def needed_by(cls, edit: LayerEdit) -> EditPlan:
        """Return the tables that a program's edit fills."""
        latents = tuple(ResidentSae(sae=each) for each in edit.resident_saes)
        return cls(rank=edit.rank, tables=edit.flags, latents=latents)

    def with_room_for(self, other: EditPlan) -> EditPlan:
        """Return a plan that has what either has; policies' rows are those of neither."""
        return EditPlan(
            rank=max(self.rank, other.rank),
            tables=self.tables | other.tables,
            latents=united(self.latents, other.latents),
        )

    def lacks(self, wanted: EditPlan) -> str | None:
        """None where all that `wanted` has tables for can be done here too, else what is missing.

        Policies' rows are left out: they are written at start.
        """
        if wanted.rank > self.rank:
            return f"{wanted.rank} rows, {self.rank} reserved"
        for name, flag in known_flags().items():
            if name in wanted.tables - self.tables:
                return f"{flag.missing}, none reserved"
        missing = {each.sae for each in wanted.latents} - {each.sae for each in self.latents}
        if missing:
            return "the codes of an SAE that is not resident there"
        return None


def united(one: tuple[ResidentSae, ...], other: tuple[ResidentSae, ...]) -> tuple[ResidentSae, ...]:
    """Return both, each SAE once, in the order of their digests."""
    known = {each.sae: each for each in (*one, *other)}
    return tuple(known[name] for name in sorted(known))


class TapPlan(Frozen):
    """One (layer, site): its columns in the score buffer, and how it can be edited, if at all.

    Its columns [read_start, read_stop) are those of rows, then those of codes, then those of hidden
    layers. `width` counts elements of a token there, on all ranks together.
    """

    layer: int
    site: Site
    width: int
    read_start: int
    read_stop: int
    edits: EditPlan | None = None
    statistics: tuple[int, ...] = ()
    """What each row counts a token in, or empty where all read the stream as it is."""
    codes: tuple[CodeColumns, ...] = ()
    hidden: tuple[HiddenColumns, ...] = ()

    @property
    def hidden_numbers(self) -> int:
        """How many numbers hidden layers are on the device, on all ranks together."""
        return sum(each.width * (self.width + 1 + each.num_columns) for each in self.hidden)

    @property
    def resident_saes(self) -> tuple[ResidentSae, ...]:
        """Every SAE that lies here, whatever for."""
        reading = tuple(each.latent for each in self.codes)
        if self.edits is None:
            return united((), reading)
        return united(self.edits.latents, (*reading, *self.edits.policy_latents))

    @property
    def tap(self) -> Tap:
        """Where it is."""
        return Tap(self.layer, self.site)
