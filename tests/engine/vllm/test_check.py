"""The installed vLLM is compared at start, and what is missing of it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import vllm
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.output_processor import OutputProcessor

from pilothouse.engine.launch import guarded_args
from pilothouse.engine.scheduler.scheduler import GuardedScheduler
from pilothouse.engine.vllm import version
from pilothouse.engine.vllm.check import Found, Installed, check, missing
from pilothouse.engine.vllm.output_processor import install
from pilothouse.engine.vllm.relied_on import RELIED_ON, Part, Use, uses_of
from pilothouse.errors import UnsupportedError
from tests.support.vllm_source import unpacked

MINOR = version.minor_of(version.vllm_version())


@pytest.mark.parametrize("part", RELIED_ON)
def test_the_installed_vllm_has_all_that_is_relied_on(part: Part) -> None:
    check(part)


def test_source_and_import_say_the_same_of_a_release() -> None:
    source = unpacked(Path(vllm.__file__).parents[1])
    uses = uses_of(MINOR)
    assert missing(uses, source) == missing(uses, Installed()) == []
    for use in uses:
        read, imported = found(use, source), found(use, Installed())
        if use.takes is not None:
            assert str(read.signature()) == str(imported.signature()), use.where
        if use.defines is not None:
            assert set(read.abstract_methods()) == set(imported.abstract_methods()), use.where


def found(use: Use, release: Any) -> Found:
    thing: Found | None = release.find(use.module, use.name)
    assert thing is not None, use.where
    return thing


def test_a_method_that_has_gone_stops_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Scheduler, "_handle_blocked_waiting_request")
    with pytest.raises(UnsupportedError) as refused:
        GuardedScheduler(None)
    told = str(refused.value)
    assert "vllm.v1.core.sched.scheduler.Scheduler._handle_blocked_waiting_request" in told
    assert version.vllm_version() in told and version.tested_range() in told


def test_a_method_that_takes_something_else_stops_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def process_outputs(self: object, outputs: list[object]) -> None: ...

    monkeypatch.setattr(OutputProcessor, "process_outputs", process_outputs)
    with pytest.raises(UnsupportedError, match=r"takes \(outputs\), wanted \(engine_core_outputs"):
        guarded_args(None, None)  # type: ignore[arg-type]


def test_vllms_own_parameters_are_seen_behind_what_replaces_them() -> None:
    install()
    found = Installed().find("vllm.v1.engine.output_processor", "OutputProcessor.process_outputs")
    assert found is not None and "iteration_stats" in str(found.signature())


@pytest.mark.parametrize("release", ["0.30.2", "0.33.0", "0.99.1"])
def test_a_version_that_was_not_tested_is_refused_with_those_that_were(
    monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    monkeypatch.setattr(version, "version", lambda _: release)
    for call in (version.check_version, lambda: check("api")):
        with pytest.raises(UnsupportedError, match=rf"{release}.*0\.31\.x, 0\.32\.x"):
            call()


def test_a_version_without_a_module_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "version", lambda _: "0.99.1")
    with pytest.raises(UnsupportedError, match=r"0\.99\.1"):
        version.of_this_version()
