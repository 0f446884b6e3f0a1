"""`import_sae`: an SAE of any layout that is read becomes a folder of our own.

Pickled weights become safetensors beside what their folder has, in a room of this import alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.folder import MAX_MANIFEST_BYTES, open_plain, read_file, refuse
from pilothouse.artifacts.importing.source import Located, locate_sae
from pilothouse.artifacts.links import followed
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.detect import LAYER_FILE, detect_format
from pilothouse.artifacts.saes.hints import SaeHints, UnknownNorm
from pilothouse.artifacts.saes.mapped_file import write_safetensors
from pilothouse.artifacts.saes.matrix import Matrix
from pilothouse.artifacts.saes.native import NAME, SaeManifest, SaeSource, save_own
from pilothouse.artifacts.saes.registry import (
    FEATURES_FILE,
    LABELS_FILE,
    MAX_LABELS_BYTES,
    load_sae,
)
from pilothouse.errors import argument
from pilothouse.output_dir import MADE, atomic_output_dir, check_out
from pilothouse.progress import Wait, silent_wait
from pilothouse.types import Tap

MAX_TENSORS = 32
BESIDE = {
    "config.json": MAX_MANIFEST_BYTES,
    "metadata.yaml": MAX_MANIFEST_BYTES,
    FEATURES_FILE: 1 << 30,
    LABELS_FILE: MAX_LABELS_BYTES,
}
"""What is taken along, and the most bytes of each."""
CONVERT = (
    f"add {argument('allow_pickle_weights', 'True')} to read its tensors by a weights-only load; "
    "nothing in the file is executed"
)
MAX_FILES = 64
NOTHING_TOLD = SaeHints(None, None, None, None, None)


class Rows(Protocol):
    """What the model gives the SAE to read over some prompts."""

    def average_norm(self) -> float:
        """Return the mean length of a token."""
        ...

    def largest_codes(self, sae: Sae) -> NDArray[np.float64]:
        """Return of each feature the largest code [M]."""
        ...


Measure = Callable[[Tap, int], AbstractContextManager[Rows]]
"""Runs the model that the SAE is of, for a tap of a width."""


@dataclass(frozen=True, slots=True)
class ImportedSae:
    """The SAE that was written, as it is read from its new folder."""

    sae: Sae
    manifest: SaeManifest
    notes: tuple[str, ...]


def import_sae(
    source: str | Path,
    out: str | Path,
    *,
    format_name: str | None = None,
    told: SaeHints = NOTHING_TOLD,
    allow_pickle_weights: bool = False,
    measure: Measure | None = None,
    waiting: Wait | None = None,
) -> ImportedSae:
    """Read an SAE and write it in one layout with its provenance; nothing in it is executed.

    Args:
        source: its folder or a file in it, or `hf://...`.
        out: the folder to write, new or empty: all of it or nothing. It names the SAE.
        format_name: the layout, if its files do not tell.
        told: what its files may leave open: model, layer, site, mean length, centring.
        allow_pickle_weights: read pickled tensors by a weights-only load.
        measure: runs its model, for the features' largest codes and the mean length.
        waiting: says what takes a while.

    Raises:
        ConfigError: arguments that do not go with each other or with the files.
        ArtefactError: files that cannot be read.
    """
    waits = waiting or silent_wait
    out = Path(out)
    check_out(out)
    with atomic_output_dir(out) as room:
        with waits(f"reading {source}"):
            found = locate_sae(str(source), format_name, told.layer, pickles=allow_pickle_weights)
        layout = format_name or detect_format(found.place)
        with waits(f"reading {source}"):
            folder = _readable(found.place, layout, told, room, allow_pickle_weights)
        name = out.resolve().name
        loaded = _loaded(name, folder, layout, told, measure, waits)
        with waits(f"writing {out}"):
            about = _about(found, str(source), layout, told)
            manifest = _write(loaded, room / MADE, about)
            written = load_sae(name, room / MADE, NAME)
    return ImportedSae(written, manifest, tuple(loaded.notes))


def pickle_of(folder: Path, format_name: str, layer: int | None) -> Path | None:
    """Return the pickle of a folder's SAE where no safetensors are beside it."""
    stem = {
        "dictionary_learning": "ae",
        "qwen-scope": f"layer{layer}.sae",
        "itda": "atoms",
        "top-afa": "sae",
    }.get(format_name)
    if stem is None or (format_name == "qwen-scope" and layer is None):
        return None
    place = folder / f"{stem}.pt"
    beside = (folder / f"{stem}.safetensors").is_file()
    return place if place.is_file() and not beside else None


def converted(place: Path, room: Path) -> Path:
    """Return a folder in `room`, named as the pickle's own, with safetensors in the pickle's place.

    Raises:
        ArtefactError: a pickle that a weights-only load refuses, or that holds more than tensors.
    """
    from pilothouse.artifacts.importing.pickled import (  # torch takes seconds to import
        SAE_BOUNDS,
        read_torch,
    )

    folder = room / place.parent.resolve().name
    folder.mkdir()
    for name, limit in BESIDE.items():
        if (place.parent / name).is_file():
            (folder / name).write_bytes(read_file(place.parent / name, limit))
    state = read_torch(place, SAE_BOUNDS)
    write_safetensors(folder / f"{place.stem}.safetensors", _tensors(place, state))
    return folder


def _tensors(place: Path, state: object) -> dict[str, Matrix]:
    from pilothouse.artifacts.importing.pickled import SAVE_PLAIN

    if isinstance(state, np.ndarray):
        # ITDA saves its one tensor without a name.
        state = {place.stem: state}
    if not isinstance(state, dict) or not 0 < len(state) <= MAX_TENSORS:
        got = f"{len(state)} entries" if isinstance(state, dict) else type(state).__name__
        refuse(place, "content", got, f"a dict of 1 to {MAX_TENSORS} tensors", SAVE_PLAIN)
    if "norm_factor" in state:
        refuse(
            place,
            "norm_factor",
            "one beside the SAE",
            "the weights alone",
            "this is a checkpoint from within training: take the ae.pt of its end",
        )
    return {str(name)[:64]: _matrix(place, str(name)[:64], each) for name, each in state.items()}


def _matrix(place: Path, name: str, value: Any) -> Matrix:
    from pilothouse.artifacts.importing.pickled import SAVE_PLAIN

    if isinstance(value, bool) or not isinstance(value, np.ndarray | int | float):
        refuse(place, name, type(value).__name__, "a tensor", SAVE_PLAIN)
    array = np.asarray(value)
    if array.dtype.kind not in "fi" or array.ndim > 3 or array.size == 0:
        refuse(
            place,
            name,
            f"{array.dtype} of shape {list(array.shape)}",
            "1 to 3 sizes of floats",
            SAVE_PLAIN,
        )
    if array.dtype.kind == "i" and array.dtype.itemsize < 4:
        array = array.astype(np.int32)
    return Matrix(array)


def _readable(folder: Path, layout: str, told: SaeHints, room: Path, may_unpickle: bool) -> Path:
    """Return the folder itself, or another one with safetensors in place of its pickle."""
    pickle = pickle_of(folder, layout, told.layer)
    if pickle is None:
        return folder
    if not may_unpickle:
        refuse(pickle, "file", "a pickle", "leave to read one", CONVERT)
    return converted(pickle, room)


def _loaded(
    name: str, folder: Path, layout: str, told: SaeHints, measure: Measure | None, waits: Wait
) -> Sae:
    if measure is None:
        with waits(f"reading {folder}"):
            return load_sae(name, folder, layout, told)
    needs_norm = False
    with waits(f"reading {folder}"):
        try:
            loaded = load_sae(name, folder, layout, told)
        except UnknownNorm:
            # Any norm will do to learn where the SAE sits.
            loaded = load_sae(name, folder, layout, told._replace(average_norm=1.0))
            needs_norm = True
    with measure(loaded.tap, loaded.width) as rows:
        with waits("measuring lengths"):
            measured = rows.average_norm()
        norm = measured if told.average_norm is None else told.average_norm
        if needs_norm:
            loaded = load_sae(name, folder, layout, told._replace(average_norm=norm))
        with waits("measuring the features' largest codes"):
            maxima_M = rows.largest_codes(loaded)
    return replace(loaded, max_act_M=maxima_M, average_norm=norm)


def _about(found: Located, source: str, layout: str, told: SaeHints) -> SaeSource:
    return SaeSource(
        place=found.label or source,
        format=layout,
        revision=found.revision,
        files=_digests(found.place, told),
    )


def _digests(folder: Path, told: SaeHints) -> dict[str, str]:
    """Return the SHA-256 of the folder's files, of files by layer that of the layer alone."""
    found: dict[str, str] = {}
    for place in sorted(folder.rglob("*"))[:MAX_FILES]:
        layered = LAYER_FILE.fullmatch(place.name)
        is_other = layered is not None and int(layered[1]) != told.layer
        is_ours = any(part.startswith(".") for part in place.relative_to(folder).parts)
        leads_away = place.is_symlink() and followed(place) is None
        if leads_away or not place.is_file() or is_other or is_ours:
            continue
        state = hashlib.sha256()
        with open_plain(place) as file:
            while part := file.read(1 << 20):
                state.update(part)
        found[str(place.relative_to(folder))[:256]] = state.hexdigest()
    return found


def _write(sae: Sae, folder: Path, source: SaeSource) -> SaeManifest:
    created_by = f"pilothouse sae import of {source.place} ({source.format})"[:512]
    manifest = save_own(sae, folder, source, created_by)
    if sae.max_act_M is not None:
        maxima_M = Matrix(sae.max_act_M.astype(np.float32))
        write_safetensors(folder / FEATURES_FILE, {"max_act": maxima_M})
    if sae.labels:
        labels = {str(key): label for key, label in sorted(sae.labels.items())}
        text = json.dumps(labels, indent=2, ensure_ascii=False)
        (folder / LABELS_FILE).write_text(text + "\n", encoding="utf-8")
    return manifest
