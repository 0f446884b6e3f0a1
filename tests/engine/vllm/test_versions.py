"""What differs between versions of vLLM is asked of the module that was written for each."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pilothouse.engine.vllm import rpc, v0_31, v0_32, v0_33, version
from pilothouse.engine.vllm.model_runner import AttachedOutput
from pilothouse.engine.vllm.scheduler import watch_prefix_cache
from pilothouse.errors import EngineError, UnsupportedError

MODULES = {"0.31.0": v0_31, "0.32.1": v0_32, "0.33.0": v0_33}
ASKED = {
    "ADAPTERLESS_TOKENS_TAKE_THE_LAST_SLOT",
    "call_every_engine",
    "cli_env_setup",
    "load_chat_template",
    "no_chat_template",
    "refuse_settings",
}


class OneEngine:
    """A client of 0.31, which knows no call for all engines."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def call_utility_async(self, *call: Any) -> str:
        self.calls.append(call)
        return "answer"


class AllEngines:
    """A client of 0.32."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def call_utility_all_async(self, *call: Any) -> list[str]:
        self.calls.append(call)
        return ["answer"]


@pytest.mark.parametrize("release", MODULES)
def test_the_module_of_a_version_answers_everything_that_is_asked(
    monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    monkeypatch.setattr(version, "version", lambda _: release)
    found = version.of_this_version()
    assert found is MODULES[release]
    assert set(dir(found)) >= ASKED


@pytest.mark.parametrize(
    ("release", "client"), [("0.31.0", OneEngine()), ("0.32.0", AllEngines())], ids=["one", "all"]
)
def test_every_engine_is_asked_in_the_words_of_the_version(
    monkeypatch: pytest.MonkeyPatch, release: str, client: Any
) -> None:
    monkeypatch.setattr(version, "version", lambda _: release)
    engine = SimpleNamespace(engine_core=client)
    assert asyncio.run(rpc.ask_engines(engine, "newest", 0, "r1")) == ["answer"]
    assert client.calls == [(rpc.CALL, "newest", [0, "r1"])]
    with pytest.raises(EngineError, match="did not answer 'newest'"):
        asyncio.run(rpc.ask_engines(SimpleNamespace(engine_core=None), "newest"))


@pytest.mark.parametrize(("splits", "ranks"), [(True, 1), (False, 2)])
def test_sequence_parallelism_of_0_31_is_refused_only_where_it_splits(
    splits: bool, ranks: int
) -> None:
    v0_31.refuse_settings(config(splits, ranks))
    with pytest.raises(UnsupportedError, match="enable_sp"):
        v0_31.refuse_settings(config(True, 2))


def config(splits: bool, ranks: int) -> Any:
    return SimpleNamespace(
        compilation_config=SimpleNamespace(pass_config=SimpleNamespace(enable_sp=splits)),
        parallel_config=SimpleNamespace(tensor_parallel_size=ranks),
    )


def test_what_is_left_of_a_failed_output_is_vllms_own() -> None:
    inner = SimpleNamespace(get_kv_connector_output=lambda: "transfers")
    attached = AttachedOutput(inner, "ours", lambda: None)
    assert attached.get_kv_connector_output() == "transfers"


def test_a_bound_that_vllm_sets_on_a_hit_reaches_vllm() -> None:
    asked: list[tuple[Any, ...]] = []

    def look(request: Any, *args: Any, **kwargs: Any) -> tuple[Any, int, int]:
        asked.append((list(request.block_hashes), args, kwargs))
        return ("blocks", 16, 0)

    manager = SimpleNamespace(
        get_computed_blocks=look, allocate_slots=None, prefix_cache_lookup_enabled=lambda _: True
    )
    watcher = SimpleNamespace(bound=lambda _: 1, found=lambda *_: None)
    watch_prefix_cache(SimpleNamespace(kv_cache_manager=manager, hash_block_size=16), watcher)
    request = SimpleNamespace(block_hashes=[b"a", b"b"])
    assert manager.get_computed_blocks(request, 32) == ("blocks", 16, 0)
    assert asked == [([b"a"], (32,), {})]
    assert request.block_hashes == [b"a", b"b"]
