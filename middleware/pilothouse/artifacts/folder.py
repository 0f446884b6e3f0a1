"""Reading and writing an artefact folder: `manifest.json` and `weights.safetensors`.

Nothing else in the folder is ever opened, file names are fixed, links that lead out of the folder
are not followed (`links`), and pickles are not read. Shapes: each tensor's is stated by its caller.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as pack_safetensors

from pilothouse.artifacts.links import INSTEAD, followed, what_lies_at
from pilothouse.artifacts.manifest import FORMAT, Closed, Manifest
from pilothouse.errors import ArtefactError
from pilothouse.types import PROJECTION_SITES, Site
from pilothouse.validation_errors import FileError, Source, validation_errors
from pilothouse.yaml_document import MAX_BYTES, parse_document

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
MAX_MANIFEST_BYTES = 4 << 20
PICKLE_HEADS = (b"\x80", b"PK\x03\x04")
REMADE = "make the artefact again or fetch it anew from its source; hand edits break its digest"

C = TypeVar("C", bound=Closed)
M = TypeVar("M", bound=Manifest)
Tensors = dict[str, NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]


def refuse(place: object, field: str, got: object, want: str, remedy: str = REMADE) -> NoReturn:
    """Raise the one error of this room: where, which field, got, want, what to do.

    Raises:
        ArtefactError: always.
    """
    raise ArtefactError(complaint(place, field, got, want, remedy))


def complaint(place: object, field: str, got: object, want: str, remedy: str = REMADE) -> str:
    """Return the line that `refuse` raises."""
    text = str(got)
    shown = text if len(text) <= 120 else text[:117] + "..."
    return f"{place}: {field}: got {shown}, want {want}; {remedy}"


def read_manifest(folder: Path, manifest_type: type[C], kind: str) -> tuple[C, dict[str, Any]]:
    """Read the manifest of a folder, and the JSON object it came from.

    Raises:
        ArtefactError: missing, a link out of the folder, too long, not JSON, another kind, or a
            bad field.
    """
    if not folder.is_dir():
        refuse(
            folder,
            "folder",
            what_lies_at(folder),
            f"a folder with {MANIFEST_FILE} and {WEIGHTS_FILE}",
            "correct the path in pilothouse.yaml",
        )
    place = folder / MANIFEST_FILE
    text = read_file(place, MAX_MANIFEST_BYTES)
    raw = parse_json(place, text)
    if raw.get("format") != FORMAT:
        refuse(
            place,
            "format",
            repr(raw.get("format")),
            repr(FORMAT),
            "convert the artefact, or install the Pilothouse that reads its format",
        )
    if raw.get("kind") != kind:
        refuse(
            place,
            "kind",
            repr(raw.get("kind")),
            repr(kind),
            "list the artefact in pilothouse.yaml under its own kind",
        )
    try:
        return manifest_type.model_validate(raw), raw
    except ValidationError as error:
        problems = validation_errors(error.errors(), manifest_type, _located(place, text))
        raise ArtefactError("\n".join(f"{each}; {REMADE}" for each in problems)) from error


def read_artefact(folder: Path, manifest_type: type[M], kind: str) -> tuple[M, Tensors]:
    """Read manifest and tensors, both checked against their digests, shapes unchecked.

    Raises:
        ArtefactError: as `read_manifest`, or the weights are not the declared ones.
    """
    manifest, raw = read_manifest(folder, manifest_type, kind)
    place = folder / WEIGHTS_FILE
    if not os.path.lexists(place):
        found = sorted(each.name for each in folder.iterdir())
        refuse(
            place,
            "file",
            f"only {found}",
            "safetensors weights",
            "convert the weights to safetensors; pickles are never read",
        )
    weights = read_file(place, manifest.weights_bytes)
    if len(weights) != manifest.weights_bytes:
        refuse(place, "weights_bytes", len(weights), f"{manifest.weights_bytes} as declared")
    sha256 = hashlib.sha256(weights).hexdigest()
    if sha256 != manifest.weights_sha256:
        refuse(place, "weights_sha256", sha256, manifest.weights_sha256)
    digest = artefact_digest(raw, weights)
    if digest != manifest.digest:
        refuse(folder / MANIFEST_FILE, "digest", manifest.digest, digest)
    try:
        return manifest, parse_safetensors(weights)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        if weights.startswith(PICKLE_HEADS):
            refuse(
                place,
                "content",
                "a pickle or a PyTorch archive",
                "safetensors",
                "convert the weights to safetensors; pickles are never read",
            )
        refuse(place, "content", f"{type(error).__name__}: {error}", "float32 safetensors")


def kind_of(folder: Path) -> object:
    """Return what a folder's manifest calls itself, unchecked; None where there is no telling."""
    try:
        return parse_json(folder, read_file(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES))["kind"]
    except (ArtefactError, OSError, KeyError):
        return None


def check_tensors(
    place: object, tensors: Tensors, shapes: Shapes, *, may_be_zero: Collection[str] = ()
) -> None:
    """Refuse tensors that are not exactly these, float32, finite, with no row of zeros.

    Args:
        place: what errors name.
        tensors: the arrays, by name.
        shapes: the shape that each of them must have, by name.
        may_be_zero: tensors in which rows of zeros mean something.

    Raises:
        ArtefactError: names the tensor.
    """
    if set(tensors) != set(shapes):
        refuse(place, "tensors", sorted(tensors), f"exactly {sorted(shapes)}")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.dtype != np.float32:
            refuse(place, name, f"dtype {tensor.dtype}", "dtype float32")
        if tensor.shape != shape:
            refuse(place, name, f"shape {list(tensor.shape)}", f"shape {list(shape)}")
        if not np.isfinite(tensor).all():
            bad = int((~np.isfinite(tensor)).sum())
            refuse(place, name, f"{bad} values that are NaN or infinite", "finite values")
        rows = tensor.reshape(shape[0], -1)
        if name not in may_be_zero and not rows.any(axis=1).all():
            row = int(np.flatnonzero(~rows.any(axis=1))[0])
            refuse(place, name, f"zeros in row {row}", "no row of zeros: it would have no effect")


def width_fields(site: Site, width: int, d_model: int | None) -> dict[str, int]:
    """Return the manifest fields that say how wide an artefact is.

    Args:
        site: where it reads or writes.
        width: the width of its arrays.
        d_model: the model's width; None where the site is as wide as the stream.

    Raises:
        ArtefactError: it is missing at a site that is not.
    """
    if site not in PROJECTION_SITES:
        return {"d_model": width}
    if d_model is None:
        refuse(
            f"site {site}",
            "d_model",
            None,
            "the width of the stream beside the site's own",
            "pass d_model",
        )
    return {"d_model": d_model, "width": width}


def describe_weights(fields: dict[str, Any], tensors: Tensors) -> tuple[dict[str, Any], bytes]:
    """Return the weights and the manifest fields with weights_bytes, weights_sha256 and digest."""
    weights = pack_safetensors(tensors)
    described = fields | {
        "weights_bytes": len(weights),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return described | {"digest": artefact_digest(described, weights)}, weights


def write_artefact(folder: Path, manifest: Manifest, tensors: Tensors) -> None:
    """Write manifest and weights; the manifest last, so that half a write is never valid."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_FILE).write_bytes(pack_safetensors(tensors))
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def artefact_digest(raw_manifest: Mapping[str, Any], weights: bytes) -> str:
    """Return the SHA-256 of the manifest less its digest, in canonical JSON, and of the weights."""
    content = {key: value for key, value in raw_manifest.items() if key != "digest"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode() + b"\n" + weights).hexdigest()


def frozen(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a contiguous copy that cannot be written."""
    copy = np.array(array, dtype=np.float32, order="C")
    copy.setflags(write=False)
    return copy


def open_plain(place: Path) -> BinaryIO:
    """Open a plain file to read; a link is followed where `links.followed` says so.

    Raises:
        ArtefactError: missing, a link that leads elsewhere, or no plain file.
    """
    try:
        file = _opened(place)
    except FileNotFoundError as error:
        if not place.is_symlink():
            _refuse_place(place, error.strerror or "an error")
        # What a mounted link leads to is exchanged as a whole: then it leads to another file now.
        try:
            file = _opened(place)
        except OSError:
            _refuse_place(place, "a symbolic link that leads nowhere")
    except OSError as error:
        _refuse_place(place, error.strerror or "an error")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        refuse(place, "file", "no plain file", "a plain file", "put the file itself there")
    return file


def _opened(place: Path) -> BinaryIO:
    """Open a file that the caller closes."""
    real = followed(place) if place.is_symlink() else place
    if real is None:
        _refuse_place(place, f"a symbolic link to {os.readlink(place)}")
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return open(real, "rb", opener=lambda path, mode: os.open(path, mode | flags))


def _refuse_place(place: Path, got: str) -> NoReturn:
    want, remedy = "a plain file that can be read", "put the file itself there"
    if place.is_symlink():
        want, remedy = f"{want}, or a link that stays in its folder", INSTEAD
    refuse(place, "file", got, want, remedy)


def read_file(place: Path, limit_bytes: int, remedy: str = REMADE) -> bytes:
    """Read all bytes of a plain file, opened by `open_plain`.

    Raises:
        ArtefactError: as `open_plain`, or longer than the limit.
    """
    with open_plain(place) as file:
        status = os.fstat(file.fileno())
        if status.st_size > limit_bytes:
            refuse(place, "size", f"{status.st_size} bytes", f"at most {limit_bytes} bytes", remedy)
        return file.read(limit_bytes)


def parse_json(place: Path, text: bytes, remedy: str = REMADE) -> dict[str, Any]:
    """Parse the object in a JSON text, each field once, numbers finite.

    Raises:
        ArtefactError: it is not that.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            names = sorted(name for name, _ in pairs)
            refuse(place, "fields", names, "each field once", remedy)
        return fields

    def number(word: str) -> NoReturn:
        refuse(place, "number", word, "finite numbers", remedy)

    try:
        raw = json.loads(text, object_pairs_hook=once, parse_constant=number)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ArtefactError):
            raise
        refuse(place, "content", f"{type(error).__name__}: {error}", "JSON", remedy)
    if not isinstance(raw, dict):
        refuse(place, "content", type(raw).__name__, "a JSON object", remedy)
    return raw


def _located(place: Path, text: bytes) -> Source:
    """Return the line of each field of a manifest; of none in one too large to look again."""
    try:
        if len(text) <= MAX_BYTES:
            return parse_document(text.decode(), str(place))[1]
    except (FileError, UnicodeDecodeError):
        pass  # JSON that YAML reads otherwise: a tab, a key twice
    return Source(str(place))
