"""Succession: which configurations can follow a running one, and what is said of the others."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilothouse.cli.launch import plan_for
from pilothouse.config import load_config
from pilothouse.edits.program import compile_program
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.update import changes, following_plan
from pilothouse.errors import ConfigError
from pilothouse.server.reload.reload import with_loaded, without_loaded
from pilothouse.term import SteerTerm
from tests.support.artifacts.kubernetes_mounts import mount
from tests.support.artifacts.tiny_sae import save_topics
from tests.support.servers.tiny_deployment import (
    RESIDUAL_NORM,
    VECTOR_LAYER,
    make_tiny_house,
    save_nudge,
)

Raw = dict[str, Any]


class House:
    """The tiny house with a reserved tap, and the plan it runs under."""

    def __init__(self, folder: Path) -> None:
        self.file = make_tiny_house(folder)
        self.folder = folder
        save_nudge(folder, "other", seed=6)
        save_nudge(folder, "low", seed=7, layer=0)
        self.write(taps={"mlp_out": [2]})
        self.running = self.plan()

    @property
    def raw(self) -> Raw:
        raw: Raw = yaml.safe_load(self.file.read_text())
        return raw

    def write(self, **sections: Any) -> None:
        self.file.write_text(yaml.safe_dump(self.raw | sections))

    def plan(self) -> Plan:
        args = argparse.Namespace(
            model=str(self.folder / "model"),
            revision=None,
            trust_remote_code=False,
            hf_overrides=None,
        )
        return plan_for(load_config(self.file), args)

    def follow(self) -> Plan:
        return following_plan(self.running, load_config(self.file))

    def refused(self) -> str:
        with pytest.raises(ConfigError) as caught:
            self.follow()
        return str(caught.value)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def vectors(house: House, **more: str) -> Raw:
    return house.raw["vectors"] | {name: {"path": path} for name, path in more.items()}


def test_the_same_file_leads_to_the_same_revision(house: House) -> None:
    assert house.follow().revision == house.running.revision


def test_what_follows_is_what_a_start_would_have_made(house: House) -> None:
    house.write(
        vectors=vectors(house, other="vectors/other"),
        profiles=house.raw["profiles"]
        | {"small:new": {"steer": [{"vector": "other", "scale": 1}]}},
        limits=house.raw["limits"] | {"max_norm_ratio": 3.0, "max_wait_ms": 7},
        auth=house.raw["auth"] | {"client_steering": False},
    )
    plan = house.follow()
    assert plan.revision == house.plan().revision != house.running.revision
    assert plan.installation == house.running.installation
    done = changes(house.running, plan)
    assert done.added == ("profiles.small:new", "vectors.other")
    assert done.changed == ("auth.client_steering", "limits.max_norm_ratio", "limits.max_wait_ms")
    back = changes(plan, house.running)
    assert back.removed == done.added and back.changed == done.changed


def test_a_file_with_other_content_is_a_change(house: House) -> None:
    house.write(vectors=vectors(house, other="vectors/other"))
    before = house.follow()
    save_nudge(house.folder, "other", seed=8)
    after = following_plan(before, load_config(house.file))
    assert changes(before, after).changed == ("vectors.other",)


class MountedHouse(House):
    """Its configuration, and what that names, mounted as Kubernetes does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.file = folder / "volume" / "pilothouse.yaml"
        self.swap()
        self.running = self.plan()

    def swap(self) -> None:
        """Mount what the folder holds by now."""
        files = {
            str(each.relative_to(self.folder)): each.read_bytes()
            for name in ("vectors", "probes", "policies", "saes")
            for each in sorted((self.folder / name).rglob("*"))
            if each.is_file()
        }
        files["pilothouse.yaml"] = (self.folder / "pilothouse.yaml").read_bytes()
        mount(self.folder / "volume", files)


def test_a_house_in_a_mounted_volume_starts_and_follows_a_swap(tmp_path: Path) -> None:
    house = MountedHouse(tmp_path)
    assert house.follow().revision == house.running.revision
    text = (tmp_path / "pilothouse.yaml").read_text()
    raw = yaml.safe_load(text)
    raw["vectors"] |= {"other": {"path": "vectors/other"}}
    (tmp_path / "pilothouse.yaml").write_text(yaml.safe_dump(raw))
    house.swap()
    after = house.follow()
    assert changes(house.running, after).added == ("vectors.other",)
    save_nudge(tmp_path, "other", seed=8)
    house.swap()
    assert changes(after, following_plan(after, load_config(house.file))).changed == (
        "vectors.other",
    )


def test_a_policy_that_a_swap_changed_is_refused_by_name_until_the_next_start(
    tmp_path: Path,
) -> None:
    house = MountedHouse(tmp_path)
    file = next(iter(sorted((tmp_path / "policies").rglob("policy.yaml"))))
    name = yaml.safe_load(file.read_text())["metadata"]["name"]
    file.write_text(file.read_text().replace("severity: low", "severity: high"))
    house.swap()
    assert house.refused().startswith(f"policies.{name}: differs from what runs; it is read at sta")
    for each in file.parent.iterdir():
        each.unlink()
    house.swap()
    assert f"policies.{name}: is gone" in house.refused()


def limits(**changed: int) -> Callable[[House], None]:
    return lambda house: house.write(limits=house.raw["limits"] | changed)


FIXED: dict[str, tuple[Callable[[House], None], str]] = {
    "slots": (limits(max_programs=5), "limits.max_programs: got 5, running is 4"),
    "rank": (limits(max_rank=9), "limits.max_rank: got 9, running is 8"),
    "memory": (limits(table_mib=9), "limits.table_mib: got 9, running is 1024"),
    "taps": (lambda h: h.write(taps={"mlp_out": [1]}), "taps.mlp_out: got [1], running is [2]"),
    "operators": (
        lambda h: h.write(taps={"mlp_out": [2], "operators": ["add", "ablate"]}),
        "taps.operators: got ['add', 'ablate'], running is ['add']",
    ),
    "gate": (lambda h: h.write(gate={"allow": ["/x"]}), "gate.allow: got ['/x'], running is []"),
    "model": (lambda h: h.write(model_id="model"), "model_id: got model, running is tiny"),
    "probes": (
        lambda h: h.write(probes=h.raw["probes"] | {"more": {"path": "probes/vary"}}),
        "probes.more: is new",
    ),
    "probe": (
        lambda h: h.write(probes=h.raw["probes"] | {"vary": {"path": "probes/never"}}),
        "probes.vary: differs from what runs",
    ),
    "policy": (
        lambda h: _edit(h.folder / "policies" / "watch" / "policy.yaml", "0.0001", "0.0002"),
        "policies.watch: differs from what runs",
    ),
    "policies": (
        lambda h: h.write(policies=["policies/watch"]),
        "policies.steers: is gone",
    ),
}


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", FIXED)
def test_what_is_read_at_start_only_is_named(house: House, name: str) -> None:
    change, message = FIXED[name]
    change(house)
    told = house.refused()
    assert message in told and "restart" in told


def test_every_difference_has_its_line(house: House) -> None:
    house.write(limits=house.raw["limits"] | {"max_programs": 5}, taps={}, gate={"allow": ["/x"]})
    assert len(house.refused().splitlines()) == 3


def test_what_a_policy_steers_with_cannot_change(house: House) -> None:
    save_nudge(house.folder, "nudge", seed=9)
    assert (
        "vectors.nudge: has other content now, and rules of policy 'steers' name it"
        in house.refused()
    )
    plain = {name: {"steer": [{"vector": "other", "scale": 1}]} for name in house.raw["profiles"]}
    house.write(vectors={"other": {"path": "vectors/other"}}, profiles=plain)
    assert "vectors.nudge: cannot go, rules of policy 'steers' name it" in house.refused()


def test_a_vector_without_a_tap_is_refused_with_the_lines_that_help(house: House) -> None:
    house.write(vectors=vectors(house, low="vectors/low"))
    told = house.refused()
    assert "layer 0 of resid_post: needs a tap" in told
    section = yaml.safe_load(told[told.index("taps:") :])
    assert section == {"taps": {"mlp_out": [2], "resid_post": [0], "operators": ["add"]}}
    house.write(vectors={"nudge": house.raw["vectors"]["nudge"]}, **section)
    house.running = house.plan()
    house.write(vectors=vectors(house, low="vectors/low"))
    house.follow()


def test_an_operator_without_tables_is_refused_with_the_lines_that_help(house: House) -> None:
    direction = {"vector": "nudge", "op": "ablate", "on": "all", "restore_norm": True}
    features = {"sae": "topics", "feature": [3, 5], "op": "ablate", "on": "all"}
    profile = {"small:clean": {"steer": [direction, features]}}
    before, wanted = house.raw["profiles"], house.raw["profiles"] | profile
    house.write(profiles=wanted)
    told = house.refused()
    assert f"layer {VECTOR_LAYER} of resid_post: needs 3 rows, 1 reserved" in told
    section = yaml.safe_load(told[told.index("taps:") :])
    assert section["taps"]["operators"] == ["add", "ablate", "restore_norm", "feature"]
    house.write(profiles=before, **section)
    house.running = house.plan()
    house.write(profiles=wanted)
    house.follow()


@pytest.mark.parametrize("text", ["{", "version: 1\nnothing: 2\n", "version: 1\nvectors: 3\n"])
def test_a_bad_file_is_refused_by_its_name(house: House, text: str) -> None:
    house.file.write_text(text)
    assert str(house.file) in house.refused()


def test_a_missing_folder_and_a_vector_of_another_model_are_refused(house: House) -> None:
    house.write(vectors=vectors(house, gone="vectors/gone"))
    assert "gone" in house.refused()
    save_nudge(house.folder, "strange", seed=3, model_id="another")
    house.write(vectors=vectors(house, strange="vectors/strange"))
    assert "another" in house.refused()


def test_one_vector_more_and_one_less_is_the_same_configuration(house: House) -> None:
    config = house.running.config
    other = {"path": house.folder / "vectors" / "other"}
    more = with_loaded(config, "vectors", "other", other)
    plan = following_plan(house.running, more)
    assert changes(house.running, plan).added == ("vectors.other",)
    less = without_loaded(plan.config, "vectors", "other")
    assert less == config
    assert following_plan(plan, less).revision == house.running.revision


def test_one_sae_more_and_one_less_is_the_same_configuration(house: House) -> None:
    entry = save_topics(house.folder, "more", VECTOR_LAYER, norm=9.0, seed=8)
    entry |= {"path": house.folder / entry["path"]}
    plan = following_plan(house.running, with_loaded(house.running.config, "saes", "more", entry))
    assert plan.installation == house.running.installation
    assert changes(house.running, plan).added == ("saes.more",)
    less = without_loaded(plan.config, "saes", "more")
    assert following_plan(plan, less).revision == house.running.revision


def test_an_sae_of_other_content_is_a_change(house: House) -> None:
    tide = {"sae": "topics", "feature": [3], "value": 9.0}
    terms = [SteerTerm.model_validate(tide)]
    before = compile_program(terms, house.running.sources)
    save_topics(house.folder, "topics", VECTOR_LAYER, norm=RESIDUAL_NORM, seed=8)
    house.write(policies=[])
    house.running = house.plan()
    save_topics(house.folder, "topics", VECTOR_LAYER, norm=RESIDUAL_NORM, seed=9)
    after = house.follow()
    assert changes(house.running, after).changed == ("saes.topics",)
    digests = [compile_program(terms, plan.sources) for plan in (house.running, after)]
    assert len({each.digest for each in (before, *digests) if each is not None}) == 3


@pytest.mark.parametrize("name", ["features", "logs"])
def test_an_sae_that_rules_steer_with_or_log_stays(house: House, name: str) -> None:
    house.write(policies=[f"policies/{name}"])
    house.running = house.plan()
    gone = house.running.config.model_copy(update={"saes": {}, "profiles": {}})
    with pytest.raises(ConfigError, match=f"saes.topics: cannot go, rules of policy '{name}'"):
        following_plan(house.running, gone)
    save_topics(house.folder, "topics", VECTOR_LAYER, norm=RESIDUAL_NORM, seed=8)
    told = f"saes.topics: has other content now, and rules of policy '{name}' name it"
    assert told in house.refused()


def test_an_sae_without_a_tap_is_refused_with_the_lines_to_write(house: House) -> None:
    entry = save_topics(house.folder, "low", 0, norm=9.0)
    house.write(saes=house.raw["saes"] | {"low": entry})
    told = house.refused()
    assert "layer 0 of resid_post: needs a tap" in told
    section = yaml.safe_load(told[told.index("taps:") :])
    house.write(**section)
    house.running = house.plan()
    house.follow()


def test_a_vector_in_use_or_not_there_cannot_go(house: House) -> None:
    with pytest.raises(ConfigError, match=r"is not loaded; loaded are \['nudge'\]"):
        without_loaded(house.running.config, "vectors", "other")
    with pytest.raises(ConfigError, match=r"profiles .*small:plain.* steer with it"):
        without_loaded(house.running.config, "vectors", "nudge")


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65])
def test_a_name_that_cannot_be_one_is_refused(house: House, name: str) -> None:
    with pytest.raises(ConfigError, match="vectors"):
        with_loaded(house.running.config, "vectors", name, {"path": house.folder})
