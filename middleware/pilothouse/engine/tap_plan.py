"""One tap of a plan: where it is, what it reads, and what it has tables for."""

from __future__ import annotations

from pilothouse.edit.layer import LayerEdit
from pilothouse.engine.facts import Frozen
from pilothouse.types import Site, Tap

UNRESERVED = {
    "statistics": "features of an SAE that normalises each token",
    "planes": "a turned plane",
    "diagonal": "a map of single dimensions",
    "slerp": "a slerp",
    "relative": "an addition in token units",
    "restores_norm": "a restored norm",
}
"""Field of an `EditPlan` -> what is missing where it is not set."""


class LatentPlan(Frozen):
    """An SAE that is resident at a tap, since its features are chosen by all others."""

    sae: str
    """Its digest."""
    num_features: int = 0
    numbers: int = 0
    """How many its weights are on the device, on all ranks together."""


class CodeColumns(Frozen):
    """Columns of codes: these features of a resident SAE, in this order."""

    latent: LatentPlan
    features: tuple[int, ...]


class PolicyRow(Frozen):
    """A gated row that policies have at a tap."""

    target: int
    """Whose it is: the number of the policy target."""
    statistic: int = 0
    """What it counts a token in."""
    latent: LatentPlan | None = None
    """The resident SAE whose code it reads, if it reads no row."""
    feature: int = 0


class EditPlan(Frozen):
    """What a tap can do beside adding: tables exist for this and nothing else.

    `rank` bounds a program's gated rows; `latents` are the SAEs whose codes requests may edit.
    """

    rank: int = 0
    planes: bool = False
    diagonal: bool = False
    slerp: bool = False
    relative: bool = False
    restores_norm: bool = False
    statistics: bool = False
    latents: tuple[LatentPlan, ...] = ()
    policy_rows: tuple[PolicyRow, ...] = ()

    @property
    def policy_latents(self) -> tuple[LatentPlan, ...]:
        """The SAEs whose codes policies edit, in the order of their digests."""
        return united((), tuple(each.latent for each in self.policy_rows if each.latent))

    @classmethod
    def needed_by(cls, edit: LayerEdit) -> EditPlan:
        """The tables that a program's edit fills."""
        return cls(
            rank=edit.rank,
            planes=edit.has_planes,
            diagonal=edit.diagonal_4D is not None,
            slerp=edit.slerp_D is not None,
            relative=edit.relative_D is not None,
            restores_norm=bool(edit.norm),
            statistics=bool(edit.statistics_R),
            latents=tuple(LatentPlan(sae=each) for each in edit.residents),
        )

    def lacks(self, wanted: EditPlan) -> str | None:
        """None where all that `wanted` has tables for can be done here too, else what is missing.

        Policies' rows are left out: they are written at start.
        """
        if wanted.rank > self.rank:
            return f"{wanted.rank} rows, {self.rank} reserved"
        for table, told in UNRESERVED.items():
            if getattr(wanted, table) and not getattr(self, table):
                return f"{told}, none reserved"
        missing = {each.sae for each in wanted.latents} - {each.sae for each in self.latents}
        if missing:
            return "the codes of an SAE that is not resident there"
        return None


def united(one: tuple[LatentPlan, ...], other: tuple[LatentPlan, ...]) -> tuple[LatentPlan, ...]:
    """Both, each SAE once, in the order of their digests."""
    known = {each.sae: each for each in (*one, *other)}
    return tuple(known[name] for name in sorted(known))


class TapPlan(Frozen):
    """One (layer, site): its columns in the score buffer, and how it can be edited, if at all.

    Its columns [read_start, read_stop) are those of rows, then those of codes. `width` counts
    elements of a token there, on all ranks together.
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

    @property
    def residents(self) -> tuple[LatentPlan, ...]:
        """Every SAE that lies here, whatever for."""
        reading = tuple(each.latent for each in self.codes)
        if self.edits is None:
            return united((), reading)
        return united(self.edits.latents, (*reading, *self.edits.policy_latents))

    @property
    def tap(self) -> Tap:
        """Where it is."""
        return Tap(self.layer, self.site)
