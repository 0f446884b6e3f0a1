"""`params.npz`: arrays of plain numbers in a zip archive, read without unpickling anything."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from pilothouse.artifacts.folder import open_plain, refuse
from pilothouse.artifacts.saes.mapped_file import FETCH, Stored
from pilothouse.artifacts.saes.matrix import Matrix

MAX_BYTES = 16 << 30
MAX_MEMBERS = 32
MAX_RATIO = 8
"""Trained weights hardly shrink; what does by more is no SAE."""


def read_archive(place: Path) -> tuple[Stored, str]:
    """The arrays of a file and the SHA-256 of all its bytes.

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
