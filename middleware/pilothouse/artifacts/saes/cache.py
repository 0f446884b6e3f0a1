"""SAEs of this process: each is read once, however many plans and requests name it."""

from __future__ import annotations

import logging
from dataclasses import replace
from weakref import WeakValueDictionary

from pilothouse.artifacts.hub import folder_of
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.detect import files_of
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.config import SaeRef
from pilothouse.errors import EngineError
from pilothouse.log_text import log_lines

logger = logging.getLogger(__name__)
_OPEN: WeakValueDictionary[str, Sae] = WeakValueDictionary()
"""The SAEs that are open, by the digest of their content."""


def open_sae(name: str, ref: SaeRef) -> Sae:
    """Read the SAE of a configuration's entry from its files, or from the hub's once fetched.

    What its files leave open is logged when this process reads it first.

    Raises:
        ArtefactError: as `load_sae`.
    """
    told = SaeHints(ref.model, ref.layer, ref.site, ref.average_norm, ref.is_centred)
    names = files_of(ref.format, ref.layer, pickles=False)
    sae = load_sae(name, folder_of(ref.path, names), ref.format, told)
    if sae.digest not in _OPEN:
        for note in sae.notes:
            logger.warning("%s", log_lines(f"saes.{name}: {note}"))
    return _kept(sae)


def opened_sae(name: str, ref: SaeRef, digest: str) -> Sae:
    """Return the SAE of that content: what this process has open, else what the files still hold.

    Raises:
        ArtefactError: as `load_sae`.
        EngineError: the files hold another one by now.
    """
    known = _OPEN.get(digest)
    sae = open_sae(name, ref) if known is None else known
    if sae.digest != digest:
        raise EngineError(
            f"saes.{name}: {ref.path} was changed since it was read: put the files back, or "
            "restart; to replace an SAE that is served, load another folder"
        )
    norm = sae.average_norm if ref.average_norm is None else ref.average_norm
    if (sae.name, sae.average_norm) == (name, norm):
        return sae
    return _kept(replace(sae, name=name, average_norm=norm))


def _kept(sae: Sae) -> Sae:
    _OPEN[sae.digest] = sae
    return sae
