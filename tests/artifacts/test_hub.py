"""Artefacts from a hub: fetched once by commit and digest, over real HTTP to this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from pilothouse.artifacts.catalog import Catalog, load_catalog
from pilothouse.artifacts.hub import folder_of
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.artifacts.vector import Vector, build_vector, load_vector, save_vector
from pilothouse.cli.sae import app as sae_app
from pilothouse.cli.vector import app as vector_app
from pilothouse.config import HubPlace, PilothouseConfig, load_config, parse_config, parse_place
from pilothouse.errors import ArtefactError, ConfigError
from pilothouse.server.reload.reload import with_loaded
from tests.support.artifacts import sae_files as files
from tests.support.artifacts import vector_files as writers
from tests.support.artifacts.hub import COMMIT, REPO, Hub, local_hub
from tests.support.artifacts.sae_files import book

PLACE = f"hf://{REPO}@{COMMIT}"
NAMES = ("manifest.json", "weights.safetensors")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with local_hub(tmp_path / "home") as served:
        yield served


@pytest.fixture
def vector(hub: Hub, tmp_path: Path) -> Vector:
    """A vector in the repository's folder `vectors/glad`, beside what nobody asked for."""
    made = build_vector(
        "glad",
        model_id="demo",
        layers=(2, 3),
        directions_LD=np.eye(2, 8, dtype=np.float32),
        residual_norms_L=np.ones(2, np.float32),
        created_by="a test",
    )
    save_vector(made, tmp_path / "glad")
    (tmp_path / "glad" / "huge.bin").write_bytes(b"0" * 4096)
    hub.add(tmp_path / "glad", "vectors/glad")
    return made


def config(path: str, **more: Any) -> PilothouseConfig:
    raw = {"version": 1, "vectors": {"glad": {"path": path, **more}}}
    return parse_config(raw, folder=Path("/nowhere"), origin="pilothouse.yaml")


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_a_vector_of_the_hub_is_the_one_that_was_put_there(hub: Hub, vector: Vector) -> None:
    loaded = load_catalog(config(f"{PLACE}/vectors/glad", digest=vector.digest)).vectors["glad"]
    assert isinstance(loaded, Vector)
    assert np.array_equal(loaded.directions_LD, vector.directions_LD)
    assert sorted(hub.fetched) == [f"vectors/glad/{each}" for each in NAMES]


def test_what_was_fetched_once_needs_no_network(hub: Hub, vector: Vector) -> None:
    ours = config(f"{PLACE}/vectors/glad", digest=vector.digest)
    load_catalog(ours)
    hub.requests.clear()
    assert load_catalog(ours).vectors["glad"].digest == vector.digest
    assert hub.requests == []


def test_readers_find_plain_files_though_the_cache_holds_links(vector: Vector) -> None:
    place = parse_place(f"{PLACE}/vectors/glad")
    folder = folder_of(place, NAMES)
    cached = list(Path(constants.HF_HUB_CACHE).rglob("snapshots/*/vectors/glad/manifest.json"))
    assert [each.is_symlink() for each in cached] == [True]
    assert not (folder / "manifest.json").is_symlink()
    assert (folder / "manifest.json").samefile(cached[0])
    assert load_vector("glad", folder).digest == vector.digest


def test_the_clients_own_cache_is_enough_offline(
    hub: Hub, vector: Vector, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import hf_hub_download

    for name in NAMES:
        hf_hub_download(REPO, f"vectors/glad/{name}", revision=COMMIT)
    offline(monkeypatch)
    hub.requests.clear()
    ours = config(f"{PLACE}/vectors/glad", digest=vector.digest)
    assert load_catalog(ours).vectors["glad"].digest == vector.digest
    assert hub.requests == []


def test_offline_and_not_in_the_cache_says_what_to_do(
    hub: Hub, vector: Vector, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch)
    with pytest.raises(ArtefactError, match="run once without HF_HUB_OFFLINE"):
        load_catalog(config(f"{PLACE}/vectors/glad", digest=vector.digest))
    assert hub.requests == []


def test_a_vector_without_a_digest_is_refused_with_the_line_to_add(vector: Vector) -> None:
    with pytest.raises(ArtefactError, match=f"vectors.glad: digest: .* digest: {vector.digest}"):
        load_catalog(config(f"{PLACE}/vectors/glad"))


def test_another_content_than_the_digest_says_is_refused(vector: Vector) -> None:
    with pytest.raises(ArtefactError, match=f"digest: got {vector.digest}, want {'0' * 64}"):
        load_catalog(config(f"{PLACE}/vectors/glad", digest="0" * 64))


def test_a_local_vector_may_be_pinned_too(vector: Vector, tmp_path: Path) -> None:
    load_catalog(config(str(tmp_path / "glad"), digest=vector.digest))
    load_catalog(config(str(tmp_path / "glad")))
    with pytest.raises(ArtefactError, match="digest: got"):
        load_catalog(config(str(tmp_path / "glad"), digest="0" * 64))


@pytest.mark.parametrize("revision", ["@main", ""])
def test_a_branch_is_refused_with_the_commit_that_it_is(
    hub: Hub, vector: Vector, revision: str
) -> None:
    with pytest.raises(ArtefactError, match=f"write path: {PLACE}/vectors/glad"):
        load_catalog(config(f"hf://{REPO}{revision}/vectors/glad", digest=vector.digest))
    assert hub.fetched == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"hf://lab/nothing@{COMMIT}", "repository: got none at http://127.0.0.1"),
        (f"hf://{REPO}@{'f' * 40}/vectors/glad", "revision: got none of that name"),
        (f"{PLACE}/vectors/sad", "files: got none of them"),
    ],
)
def test_what_the_hub_has_not_is_named(vector: Vector, path: str, said: str) -> None:
    with pytest.raises(ArtefactError, match=said) as caught:
        load_catalog(config(path, digest=vector.digest))
    assert str(caught.value).startswith(path)
    assert "; " in str(caught.value).partition(", want ")[2]


def test_no_network_says_so_in_time(vector: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ArtefactError, match=r"network: got ConnectError.*HF_ENDPOINT"):
        load_catalog(config(f"{PLACE}/vectors/glad", digest=vector.digest))


def test_a_file_that_breaks_off_is_not_kept(
    hub: Hub, vector: Vector, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    hub.cut_bytes = 7
    ours = config(f"{PLACE}/vectors/glad", digest=vector.digest)
    with pytest.raises(ArtefactError, match=r"network: got|file: got"):
        load_catalog(ours)
    hub.cut_bytes = 0
    assert load_catalog(ours).vectors["glad"].digest == vector.digest


def test_a_server_that_speaks_of_another_commit_is_refused(hub: Hub, vector: Vector) -> None:
    hub.commit_told = "f" * 40
    with pytest.raises(ArtefactError, match="revision: got another commit for"):
        load_catalog(config(f"{PLACE}/vectors/glad", digest=vector.digest))


def test_an_etag_that_leads_elsewhere_writes_nothing_there(
    hub: Hub, vector: Vector, tmp_path: Path
) -> None:
    hub.etag = "../../../../../evil"
    with pytest.raises(ArtefactError, match=r"etag of vectors/glad/manifest\.json: got"):
        load_catalog(config(f"{PLACE}/vectors/glad", digest=vector.digest))
    outside = [each for each in tmp_path.parent.rglob("evil*") if each.is_file()]
    assert outside == []


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"<html>sign in</html>",
        b"{}",
        b"null",
        b"[1, 2]",
        b"[" * 100_000,
        b'[{"type": "file", "path": "vectors/glad/manifest.json"}]',
        b'[{"type": "file", "path": "vectors/glad/manifest.json", "size": "x", "oid": "0"}]',
        b'[{"type": "file", "path": "vectors/glad/manifest.json", "size": -1, "oid": "0"}]',
    ],
    ids=["empty", "page", "object", "null", "numbers", "deep", "no size", "a word", "negative"],
)
def test_an_answer_that_is_none_is_refused(hub: Hub, vector: Vector, junk: bytes) -> None:
    hub.junk = junk
    with pytest.raises(ArtefactError, match=f"{PLACE}/vectors/glad: ") as caught:
        load_catalog(config(f"{PLACE}/vectors/glad", digest=vector.digest))
    assert "; " in str(caught.value).partition(", want ")[2], "no remedy"
    assert hub.fetched == []


def test_names_that_were_not_asked_for_are_not_fetched(
    hub: Hub, vector: Vector, tmp_path: Path
) -> None:
    hub.listed = ["../../../evil.json", "vectors/glad/../../evil.json", "/etc/evil.json"]
    load_catalog(config(f"{PLACE}/vectors/glad", digest=vector.digest))
    words = [
        "import",
        f"{PLACE}/vectors/glad",
        "--format",
        "safetensors",
        "--layer",
        "1",
        "--model-id",
        "demo",
        "--norms",
        "4",
        "--out",
        str(tmp_path / "out"),
    ]
    assert CliRunner().invoke(vector_app, words).exit_code == 1
    assert {each.rpartition("/")[2] for each in hub.fetched} <= {*NAMES, "huge.bin"}
    assert [each for each in tmp_path.parent.rglob("evil*")] == []


def test_more_than_fits_is_refused_before_it_is_fetched(hub: Hub, vector: Vector) -> None:
    hub.declared["vectors/glad/weights.safetensors"] = 1 << 50
    with pytest.raises(ArtefactError, match="size: got 1125899"):
        load_catalog(config(f"{PLACE}/vectors/glad", digest=vector.digest))
    assert hub.fetched == []


@pytest.mark.parametrize(
    "path",
    [
        "hf://lab",
        "hf://lab/things@",
        f"{PLACE}/../secrets",
        f"{PLACE}/a/../../b",
        "hf:///etc",
        f"{PLACE}/.git/config",
        f"hf://lab/things@{COMMIT}/a b",
        "hf://lab/things@refs/pr/1/../..",
        "hf://../things@main",
    ],
)
def test_a_place_that_leads_elsewhere_is_no_place(path: str) -> None:
    with pytest.raises(ConfigError, match=r"vectors\.glad\.path"):
        config(path)


def test_relative_and_hub_paths_stand_side_by_side_in_a_file(tmp_path: Path) -> None:
    text = f"version: 1\nvectors: {{a: {{path: a}}, b: {{path: 'hf://{REPO}@main/b'}}}}\n"
    (tmp_path / "pilothouse.yaml").write_text(text)
    loaded = load_config(tmp_path / "pilothouse.yaml")
    assert loaded.vectors["a"].path == tmp_path / "a"
    assert loaded.vectors["b"].path == HubPlace(repo=REPO, revision="main", inside="b")


def test_places_come_through_a_plan_unchanged(tmp_path: Path) -> None:
    for path in (f"{PLACE}/vectors/glad", str(tmp_path)):
        ours = config(path, digest="0" * 64)
        assert PilothouseConfig.model_validate_json(ours.model_dump_json()) == ours
        assert PilothouseConfig.model_validate(ours.model_dump()) == ours


def test_a_change_of_one_vector_keeps_the_others_pins(vector: Vector, tmp_path: Path) -> None:
    ours = config(f"{PLACE}/vectors/glad", digest=vector.digest)
    changed = with_loaded(ours, "vectors", "other", {"path": tmp_path / "glad"})
    assert changed.vectors["glad"] == ours.vectors["glad"]


def test_a_vector_file_of_the_hub_is_imported_by_branch_and_keeps_its_commit(
    hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "up").mkdir()
    writers.write_gguf(tmp_path / "up" / "v.gguf")
    hub.add(tmp_path / "up", "deep/er")
    words = [
        "import",
        f"hf://{REPO}@main/deep/er/v.gguf",
        "--format",
        "gguf",
        "--model-id",
        "demo",
        "--norms",
        "4,5",
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(vector_app, words)
    assert result.exit_code == 0, result.output
    loaded = load_vector("v", tmp_path / "out")
    assert f"{PLACE}/deep/er/v.gguf" in loaded.manifest.created_by
    assert np.array_equal(loaded.direction_D(2), writers.direction(2))


def test_a_folder_of_the_hub_is_imported(hub: Hub, tmp_path: Path) -> None:
    writers.write_refusal(tmp_path / "run")
    (tmp_path / "run" / "README.md").write_text("long")
    hub.add(tmp_path / "run")
    words = [
        "import",
        PLACE,
        "--format",
        "refusal-direction",
        "--model-id",
        "demo",
        "--norms",
        "4",
        "--allow-pickle-weights",
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(vector_app, words)
    assert result.exit_code == 0, result.output
    assert load_vector("v", tmp_path / "out").layers == (3,)
    assert "README.md" not in hub.fetched


def test_an_sae_of_the_hub_is_imported_with_its_commit(hub: Hub, tmp_path: Path) -> None:
    folder = files.saelens(tmp_path / "theirs", book("jumprelu"))
    (folder / "training.log").write_text("long")
    hub.add(folder, "layer_4")
    words = ["import", f"hf://{REPO}/layer_4", "--out", str(tmp_path / "ours")]
    result = CliRunner().invoke(sae_app, words)
    assert result.exit_code == 0, result.output
    source = json.loads((tmp_path / "ours" / "manifest.json").read_text())["source"]
    assert (source["place"], source["revision"]) == (f"{PLACE}/layer_4", COMMIT)
    assert sorted(source["files"]) == ["cfg.json", "sae_weights.safetensors"]
    assert "layer_4/training.log" not in hub.fetched
    shown = CliRunner().invoke(sae_app, ["show", f"{PLACE}/layer_4", "--json"])
    assert json.loads(shown.output)["digest"] == load_sae("layer_4", folder, "saelens").digest


def test_an_sae_of_the_hub_is_loaded_by_its_digest(hub: Hub, tmp_path: Path) -> None:
    folder = files.saelens(tmp_path / "theirs", book("jumprelu"))
    hub.add(folder, "layer_4")
    digest = load_sae("theirs", folder, None).digest
    saes = {"theirs": {"path": f"{PLACE}/layer_4", "digest": digest}}

    def load(**changes: Any) -> Catalog:
        raw = {"version": 1, "saes": {"theirs": saes["theirs"] | changes}}
        return load_catalog(parse_config(raw, folder=tmp_path, origin="pilothouse.yaml"))

    assert load().saes["theirs"].digest == digest
    assert sorted(hub.fetched) == ["layer_4/cfg.json", "layer_4/sae_weights.safetensors"]
    for changes in ({"digest": None}, {"digest": "0" * 64}):
        with pytest.raises(ArtefactError, match=r"saes\.theirs: digest: got"):
            load(**changes)


def test_a_repositorys_name_tells_k_as_a_folders_does(hub: Hub, tmp_path: Path) -> None:
    folder = files.qwen_scope(tmp_path / "theirs", book("topk"))
    (folder / "layer5.sae.safetensors").write_bytes(b"of another layer")
    hub.add(folder, repo=f"lab/{folder.name}")
    words = [
        "import",
        f"hf://lab/{folder.name}",
        "--out",
        str(tmp_path / "ours"),
        "--layer",
        "4",
        "--model-id",
        "demo",
    ]
    result = CliRunner().invoke(sae_app, words)
    assert result.exit_code == 0, result.output
    assert load_sae("s", tmp_path / "ours", "pilothouse").k == 7
    assert hub.fetched == ["layer4.sae.safetensors"]


def test_a_pickle_on_the_hub_is_fetched_only_where_that_is_said(hub: Hub, tmp_path: Path) -> None:
    folder = files.dictionary_learning(tmp_path / "theirs", book(), "AutoEncoder")
    (folder / "ae.safetensors").rename(folder / "ae.pt")
    hub.add(folder)
    words = ["import", PLACE, "--out", str(tmp_path / "ours"), "--format", "dictionary_learning"]
    assert CliRunner().invoke(sae_app, words).exit_code == 1
    assert hub.fetched == ["config.json"]
    result = CliRunner().invoke(sae_app, [*words, "--allow-pickle-weights"])
    assert (result.exit_code, "ae.pt: content: got" in result.output) == (1, True)
    assert "ae.pt" in hub.fetched
    assert not (tmp_path / "ours").exists()


def test_the_endpoint_and_offline_mode_of_the_environment_hold(
    hub: Hub, vector: Vector, tmp_path: Path
) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom pilothouse.config import parse_config\n"
        "from pilothouse.artifacts.catalog import Catalog, load_catalog\n"
        "ref = {'path': sys.argv[1], 'digest': sys.argv[2]}\n"
        "raw = {'version': 1, 'vectors': {'glad': ref}}\n"
        "config = parse_config(raw, folder=Path(), origin='x')\n"
        "print(load_catalog(config).vectors['glad'].digest)\n"
    )
    words = [sys.executable, "-c", program, f"{PLACE}/vectors/glad", vector.digest]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    ours = clean | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "other")}
    first = subprocess.run(words, env=ours, capture_output=True, text=True, check=True)
    hub.requests.clear()
    again = subprocess.run(
        words, env=ours | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=True
    )
    assert first.stdout.strip() == again.stdout.strip() == vector.digest
    assert hub.requests == []
