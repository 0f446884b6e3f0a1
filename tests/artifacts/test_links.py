"""Folders of links: what was mounted or cached loads, what leads elsewhere is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pilothouse.artifacts.catalog import Catalog, load_catalog
from pilothouse.artifacts.folder import open_plain, read_file
from pilothouse.artifacts.links import followed
from pilothouse.artifacts.probe import load_probe, save_probe
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.artifacts.vector import load_vector, save_vector
from pilothouse.config import parse_config
from pilothouse.errors import ArtefactError
from tests.support.artifacts import sae_files as files
from tests.support.artifacts.folders import probe, vector
from tests.support.artifacts.kubernetes_mounts import DATA, mount, mount_folder
from tests.support.artifacts.sae_files import book

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def saved(folder: Path, seed: int = 0) -> Path:
    save_vector(vector("glad", seed), folder)
    return folder


def cached(home: Path, source: Path, inside: str = "") -> Path:
    """A folder as the hub's client lays it: links from a snapshot to blobs."""
    repository = home / "models--owner--name"
    folder = repository / "snapshots" / COMMIT / inside
    (repository / "blobs").mkdir(parents=True)
    for number, file in enumerate(each for each in sorted(source.rglob("*")) if each.is_file()):
        blob = repository / "blobs" / f"{number:040x}"
        shutil.copyfile(file, blob)
        place = folder / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(blob, place.parent))
    return folder


def mounted(home: Path, source: Path) -> Path:
    mount_folder(home / "volume", source)
    return home / "volume"


def mounted_above(home: Path, source: Path) -> Path:
    """One volume whose items have paths: the folder itself is the link."""
    for_it = home / "whole"
    shutil.copytree(source, for_it / "glad")
    mount_folder(home / "volume", for_it)
    return home / "volume" / "glad"


def linked_folder(home: Path, source: Path) -> Path:
    (home / "latest").symlink_to(source)
    return home / "latest"


LAID: dict[str, Callable[[Path, Path], Path]] = {
    "mounted": mounted,
    "mounted above": mounted_above,
    "cached": cached,
    "cached inside": lambda home, source: cached(home, source, "vectors/glad"),
    "a linked folder": linked_folder,
}


@pytest.mark.parametrize("how", LAID)
def test_a_vector_and_a_probe_of_links_load(tmp_path: Path, how: str) -> None:
    want = load_vector("glad", saved(tmp_path / "glad"))
    got = load_vector("glad", LAID[how](tmp_path / "home", _made(tmp_path / "home", want)))
    assert got.digest == want.digest
    save_probe(probe(), tmp_path / "misuse")
    folder = LAID[how](_made(tmp_path / "other", None), tmp_path / "misuse")
    assert load_probe("misuse", folder).digest == load_probe("misuse", tmp_path / "misuse").digest


def _made(folder: Path, made: object) -> Path:
    """An empty folder, or where the vector that was saved lies beside it."""
    folder.mkdir(exist_ok=True)
    return folder if made is None else folder.with_name("glad")


SAES: dict[str, Callable[[Path], Path]] = {
    "saelens": lambda folder: files.saelens(folder, book("jumprelu")),
    "gemma-scope": lambda folder: files.gemma_scope(folder, book("jumprelu")),
    "llama-scope": lambda folder: files.llama_scope(folder, book("jumprelu"), 7.0, 0.5),
}


@pytest.mark.parametrize("layout", SAES)
@pytest.mark.parametrize("how", ["mounted", "cached", "cached inside"])
def test_an_sae_of_links_loads_its_files_in_folders_too(
    tmp_path: Path, layout: str, how: str
) -> None:
    about = SaeHints("demo", 4, "resid_post", 7.0)
    source = SAES[layout](tmp_path / "sae")
    want = load_sae("s", source, layout, about)
    (tmp_path / "home").mkdir()
    got = load_sae("s", LAID[how](tmp_path / "home", source), layout, about)
    assert got.digest == want.digest
    assert np.array_equal(got.decoder_MD.whole(), want.decoder_MD.whole())


def test_after_a_swap_the_new_content_is_read(tmp_path: Path) -> None:
    first, second = saved(tmp_path / "a", 1), saved(tmp_path / "b", 2)
    mount_folder(tmp_path / "volume", first)
    raw = {"version": 1, "vectors": {"glad": {"path": "volume"}}}

    def loaded() -> Catalog:
        return load_catalog(parse_config(raw, folder=tmp_path, origin="pilothouse.yaml"))

    assert loaded().vectors["glad"].digest == load_vector("glad", first).digest
    mount_folder(tmp_path / "volume", second)
    assert loaded().vectors["glad"].digest == load_vector("glad", second).digest


def test_a_file_that_is_swapped_while_it_is_opened_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount(tmp_path / "volume", {"file": b"old"})

    def swapping(link: Path) -> Path | None:
        real = followed(link)
        if real is not None and real.read_bytes() == b"old":
            mount(tmp_path / "volume", {"file": b"new"})
        return real

    monkeypatch.setattr("pilothouse.artifacts.folder.followed", swapping)
    assert read_file(tmp_path / "volume" / "file", 10) == b"new"


def out_of_it(home: Path) -> Path:
    (home / "secret").write_bytes(b"secret")
    (home / "a" / "file").symlink_to("../secret")
    return home / "a" / "file"


def absolute(home: Path) -> Path:
    (home / "a" / "file").symlink_to("/etc/hostname")
    return home / "a" / "file"


def by_a_folder(home: Path) -> Path:
    (home / "secret").write_bytes(b"secret")
    (home / "a" / "up").symlink_to("..")
    (home / "a" / "file").symlink_to("up/secret")
    return home / "a" / "file"


def by_a_name_that_begins_alike(home: Path) -> Path:
    (home / "ab").mkdir()
    (home / "ab" / "secret").write_bytes(b"secret")
    (home / "a" / "file").symlink_to("../ab/secret")
    return home / "a" / "file"


def by_linked_blobs(home: Path) -> Path:
    """A download that looks like the client's cache."""
    (home / "secrets").mkdir()
    (home / "secrets" / "key").write_bytes(b"secret")
    folder = home / "a" / "models--x--y" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (home / "a" / "models--x--y" / "blobs").symlink_to(home / "secrets")
    (folder / "file").symlink_to("../../blobs/key")
    return folder / "file"


def under_blobs(home: Path) -> Path:
    folder = home / "a" / "models--x--y" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (home / "a" / "models--x--y" / "blobs" / "deeper").mkdir(parents=True)
    (home / "a" / "models--x--y" / "blobs" / "deeper" / "key").write_bytes(b"secret")
    (folder / "file").symlink_to("../../blobs/deeper/key")
    return folder / "file"


def of_another_repository(home: Path) -> Path:
    blobs = home / "a" / "models--other--one" / "blobs"
    folder = home / "a" / "models--x--y" / "snapshots" / COMMIT
    for each in (blobs, folder):
        each.mkdir(parents=True)
    (blobs / "key").write_bytes(b"secret")
    (folder / "file").symlink_to("../../../models--other--one/blobs/key")
    return folder / "file"


def a_plain_folder_called_snapshots(home: Path) -> Path:
    (home / "blobs").mkdir()
    (home / "blobs" / "key").write_bytes(b"secret")
    (home / "snapshots" / "a").mkdir(parents=True)
    (home / "snapshots" / "a" / "file").symlink_to("../../blobs/key")
    return home / "snapshots" / "a" / "file"


ESCAPES = (
    out_of_it,
    absolute,
    by_a_folder,
    by_a_name_that_begins_alike,
    by_linked_blobs,
    under_blobs,
    of_another_repository,
    a_plain_folder_called_snapshots,
)


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda each: each.__name__)
def test_a_link_that_leads_out_of_its_folder_is_refused_with_what_to_do_instead(
    tmp_path: Path, escape: Callable[[Path], Path]
) -> None:
    (tmp_path / "a").mkdir()
    place = escape(tmp_path)
    with pytest.raises(ArtefactError) as caught:
        open_plain(place)
    message = str(caught.value)
    assert message.startswith(f"{place}: file: got a symbolic link to ")
    for remedy in ("cp -L", "hf://OWNER/NAME@COMMIT/FOLDER", "--local-dir DIR"):
        assert remedy in message


def dangling(home: Path) -> Path:
    (home / "file").symlink_to("gone")
    return home / "file"


def looping(home: Path) -> Path:
    (home / "file").symlink_to("other")
    (home / "other").symlink_to("file")
    return home / "file"


def cleared_cache(home: Path) -> Path:
    folder = cached(home, saved(home / "glad"))
    shutil.rmtree(home / "models--owner--name" / "blobs")
    return folder / "manifest.json"


@pytest.mark.parametrize("make", [dangling, looping, cleared_cache], ids=lambda e: e.__name__)
def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    place = make(tmp_path)
    with pytest.raises(ArtefactError, match="--local-dir DIR") as caught:
        open_plain(place)
    assert str(caught.value).startswith(f"{place}: file: got ")


@pytest.mark.timeout(20)
def test_a_link_to_what_is_no_file_neither_hangs_nor_passes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        (tmp_path / "file").unlink(missing_ok=True)
        (tmp_path / "file").symlink_to(name)
        with pytest.raises(ArtefactError, match="want a plain file"):
            open_plain(tmp_path / "file")


def test_a_folder_that_is_a_dangling_link_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "glad").symlink_to("gone")
    with pytest.raises(ArtefactError, match="got a symbolic link that leads nowhere"):
        load_vector("glad", tmp_path / "glad")
    with pytest.raises(ArtefactError, match="got a symbolic link that leads nowhere"):
        load_sae("s", tmp_path / "glad", None, SaeHints())


def test_files_of_a_mount_are_opened_under_the_name_that_the_operator_knows(
    tmp_path: Path,
) -> None:
    mount(tmp_path / "volume", {"manifest.json": b"{", "weights.safetensors": b""})
    with pytest.raises(ArtefactError) as caught:
        load_vector("glad", tmp_path / "volume")
    assert str(caught.value).startswith(f"{tmp_path / 'volume' / 'manifest.json'}: ")
    assert DATA not in str(caught.value)
