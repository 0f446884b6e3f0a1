"""The configuration beside foreign weights, and where it says that an SAE sits.

It is JSON of which only what we know is believed. Hook names of other libraries become taps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilothouse.artifacts.folder import MAX_MANIFEST_BYTES, parse_json, read_file, refuse
from pilothouse.artifacts.module_path import module_tap
from pilothouse.artifacts.saes.hints import NOWHERE, SaeHints, Where
from pilothouse.errors import argument
from pilothouse.types import Site, Tap

CORRECT = "correct the field, or fetch the file anew from its source"
BLOCK_HOOKS: Mapping[str, Site] = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "attn.hook_z": "attn_heads",
    "hook_attn_out": "attn_out",
    "mlp.hook_post": "mlp_neurons",
    "hook_mlp_out": "mlp_out",
}
"""TransformerLens' names. What a block reads after a norm is no tap: nothing is edited there."""
BLOCK = re.compile(r"blocks\.(\d{1,4})\.(.+)")
PATHS = ("layers.N", "h.N", "PATH.layers.N[.MODULE]")
OTHER_PLACE = "use an SAE of the residual stream or of what attention or MLP add to it"
SAY = (
    f"say {argument('layer', 'N')} and {argument('site', 'SITE')} (`layer` and `site` in "
    "pilothouse.yaml) where it sits"
)


class Fields:
    """Fields by name, each asked for by its type; null counts as not there."""

    def __init__(self, place: Path, raw: Mapping[str, Any]) -> None:
        self.place = place
        self.raw = raw

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string; without a default it must be there."""
        found = self._found(name, default)
        if not isinstance(found, str) or not 0 < len(found) <= 512:
            refuse(self.place, name, repr(found), "a string of 1 to 512 characters", CORRECT)
        return found

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a positive whole number."""
        found = self._found(name, default)
        if isinstance(found, bool) or not isinstance(found, int) or not 0 < found <= 1 << 24:
            refuse(self.place, name, repr(found), "a whole number, 1 to 2^24", CORRECT)
        return found

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number."""
        found = self._found(name, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or abs(found) > 1e30:
            refuse(self.place, name, repr(found), "a number", CORRECT)
        return float(found)

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false."""
        found = self._found(name, default)
        if not isinstance(found, bool):
            refuse(self.place, name, repr(found), "true or false", CORRECT)
        return found

    def group(self, name: str) -> Fields:
        """Return the fields inside a field; none where it is not there."""
        found = self._found(name, {})
        if not isinstance(found, dict):
            refuse(self.place, name, repr(found), "an object", CORRECT)
        return Fields(self.place, found)

    def has(self, name: str) -> bool:
        """Return whether a field is there and not null."""
        return self.raw.get(name) is not None

    def never(self, name: str, why: str) -> None:
        """Refuse a field that changes the meaning in a way that is not read.

        Raises:
            ArtefactError: it is there and neither null, false nor empty.
        """
        if self.raw.get(name):
            refuse(self.place, name, repr(self.raw[name]), "none", why)

    def _found(self, name: str, default: Any) -> Any:
        found = self.raw.get(name)
        return default if found is None else found


def read_fields(place: Path) -> Fields:
    """Read the fields of a JSON file.

    Raises:
        ArtefactError: missing, linked, too long or not an object.
    """
    return Fields(place, parse_json(place, read_file(place, MAX_MANIFEST_BYTES)))


def tap_of(place: Path, field: str, hook: str, told: SaeHints) -> Where:
    """Return the tap of a hook's name, TransformerLens' or the path of a module.

    NOWHERE for a name that is not known where the operator says layer and site.

    Raises:
        ArtefactError: it names no place that is served, or none that is known and nobody says it.
    """
    if hook in ("hook_embed", "embed_tokens", "model.embed_tokens"):
        return Tap(0, "embed")
    block = BLOCK.fullmatch(hook)
    if block is not None and block[2] in BLOCK_HOOKS:
        return Tap(int(block[1]), BLOCK_HOOKS[block[2]])
    tap = module_tap(hook)
    if tap is not None:
        return tap
    is_lens = block is not None and "hook_" in block[2]
    if is_lens or told.layer is None or told.site is None:
        known = [*(f"blocks.N.{each}" for each in BLOCK_HOOKS), "hook_embed", *PATHS]
        refuse(place, field, repr(hook), f"one of {known}", OTHER_PLACE if is_lens else SAY)
    return NOWHERE
