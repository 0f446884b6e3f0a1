"""Gemma Scope: `params.npz` in `layer_N/width_W/average_l0_K`; Gemma Scope 2: `params.safetensors`.

JumpReLU throughout; the decoder's bias is not subtracted from the input. The first has no
configuration, and tells its layer by its folder and its site by its repository, which a local
copy does not have: the operator says it. SAEs of the embedding know a stream scaled by sqrt(D).
Arrays in `params.npz` are plain numbers in a zip archive, read without unpickling anything.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from pilothouse.artifacts.folder import open_plain, refuse
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.build import About, build_sae, renamed
from pilothouse.artifacts.saes.fields import read_fields, tap_of
from pilothouse.artifacts.saes.hints import SaeHints, agreed
from pilothouse.artifacts.saes.mapped_file import FETCH, Stored, map_safetensors
from pilothouse.artifacts.saes.matrix import Matrix

MAX_BYTES = 16 << 30
MAX_MEMBERS = 32
MAX_RATIO = 8
"""Trained weights hardly shrink; what does by more is no SAE."""
ARCHIVE_FILE = "params.npz"
WEIGHTS_FILE = "params.safetensors"
CONFIG_FILE = "config.json"
NAMES: Mapping[str, str] = {
    "W_enc": "W_enc",
    "w_enc": "W_enc",
    "W_dec": "W_dec",
    "w_dec": "W_dec",
    "b_enc": "b_enc",
    "b_dec": "b_dec",
    "threshold": "threshold",
}
SAY = "give `model`, `layer` and `site` beside the path in pilothouse.yaml"
OTHER_SAE = "use an SAE of resid_post, attn_out or mlp_out"


def load_gemma_scope(name: str, folder: Path, told: SaeHints) -> Sae:
    """Read the SAE in a folder of Gemma Scope.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    place = folder / ARCHIVE_FILE
    if folder.parent.parent.name == "embedding" or told.site == "embed":
        refuse(
            place,
            "site",
            "'embed'",
            "a site inside the blocks",
            "these SAEs know a scaled embedding; use one of the residual stream",
        )
    found = re.search(r"layer_(\d{1,4})", "/".join(folder.parts[-3:]))
    layer = int(found[1]) if found else None
    model_id, tap = agreed(place, told, None, (layer, None), remedy=SAY)
    tensors, sha256 = read_archive(place)
    about = About(form="jumprelu", model_id=model_id, tap=tap)
    return build_sae(name, place, about, renamed(place, tensors, NAMES), sha256)


def load_gemma_scope_2(name: str, folder: Path, told: SaeHints) -> Sae:
    """Read the SAE in a folder of Gemma Scope 2.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    fields = read_fields(folder / CONFIG_FILE)
    if fields.text("architecture") != "jump_relu":
        refuse(
            fields.place, "architecture", repr(fields.raw["architecture"]), "'jump_relu'", OTHER_SAE
        )
    fields.never("hf_hook_point_out", "transcoders are not read; " + OTHER_SAE)
    where = tap_of(fields.place, "hf_hook_point_in", fields.text("hf_hook_point_in"), told)
    model_id, tap = agreed(
        fields.place, told, None if told.model_id else fields.text("model_name"), where, remedy=SAY
    )
    place = folder / WEIGHTS_FILE
    tensors, sha256 = map_safetensors(place)
    about = About(form="jumprelu", model_id=model_id, tap=tap)
    return build_sae(name, place, about, renamed(place, tensors, NAMES), sha256)


def read_archive(place: Path) -> tuple[Stored, str]:
    """Read the arrays of a file, and the SHA-256 of all its bytes.

    Raises:
        ArtefactError: no plain zip file, something else than arrays of floats in it, or arrays
            that are far larger than the file.
    """
    try:
        with open_plain(place) as file, zipfile.ZipFile(file) as archive:
            _check_members(place, archive.infolist())
            stored = {
                each.filename.removesuffix(".npy"): _array(place, archive, each)
                for each in archive.infolist()
            }
            file.seek(0)
            state = hashlib.sha256()
            while part := file.read(1 << 20):
                state.update(part)
            return stored, state.hexdigest()
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        refuse(place, "file", f"{type(error).__name__}: {error}", "a plain .npz archive", FETCH)


def _check_members(place: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS:
        refuse(place, "members", len(members), f"at most {MAX_MEMBERS}", FETCH)
    names = [each.filename for each in members]
    for name in names:
        if not name.endswith(".npy") or "/" in name or "\\" in name or names.count(name) > 1:
            refuse(place, "member", repr(name), "arrays, NAME.npy, each once", FETCH)
    whole = sum(each.file_size for each in members)
    packed = sum(each.compress_size for each in members)
    if whole > MAX_BYTES or whole > MAX_RATIO * packed + (1 << 20):
        refuse(
            place,
            "size",
            f"{whole} bytes packed into {packed}",
            f"at most {MAX_BYTES}, and at most {MAX_RATIO} to 1",
            FETCH,
        )


def _array(place: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Matrix:
    with archive.open(member) as file:
        shape, dtype = _header(place, member, file)
        begin = file.tell()
        want = begin + int(np.prod(shape, dtype=np.uint64)) * dtype.itemsize
        if member.file_size != want:
            refuse(
                place,
                member.filename,
                f"{member.file_size} bytes",
                f"{want} bytes for {list(shape)} of {dtype}",
                FETCH,
            )
        raw = np.frombuffer(file.read(want - begin), dtype)
    return Matrix(raw.reshape(shape))


def _header(
    place: Path, member: zipfile.ZipInfo, file: IO[bytes]
) -> tuple[tuple[int, ...], np.dtype[np.floating]]:
    try:
        if np.lib.format.read_magic(file) == (1, 0):  # type: ignore[no-untyped-call]
            about = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
        else:
            about = np.lib.format.read_array_header_2_0(file)  # type: ignore[no-untyped-call]
    except (ValueError, EOFError) as error:
        refuse(place, member.filename, f"{type(error).__name__}: {error}", "an array", FETCH)
    shape, is_fortran, dtype = about
    if dtype.kind != "f" or is_fortran or not 0 < len(shape) <= 3 or 0 in shape:
        refuse(
            place,
            member.filename,
            f"{dtype} {list(shape)}",
            "floats in C order",
            "save it again with numpy.savez; arrays of objects are never read",
        )
    return shape, dtype
