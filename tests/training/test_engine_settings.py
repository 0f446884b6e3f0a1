"""What a fit asks of its engine where nobody says it, and that what somebody says holds."""

from __future__ import annotations

import pytest
from vllm.platforms import current_platform

from pilothouse.engine.plan import dtype
from pilothouse.errors import ConfigError, spelled
from pilothouse.training.engine_settings import (
    CPU_BLOCK,
    IN_FLIGHT_TOKENS,
    KV_VARIABLE,
    STEP_TOKENS,
    engine_settings,
    with_dtype,
    with_memory,
)
from tests.support.models.echo_model import D_MODEL, MAX_TOKENS, NUM_LAYERS, make_echo_model

pytestmark = pytest.mark.engine
KV_BYTES = 2 * NUM_LAYERS * D_MODEL * 4
"""Of a token of the echo model in float32, whose heads are as wide as the stream."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_echo_model(tmp_path_factory.mktemp("settings") / "echo"))


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KV_VARIABLE, raising=False)


def test_the_flags_behind_the_dashes_are_taken_and_no_others() -> None:
    assert engine_settings(["--max-num-seqs", "7"]) == {"max_num_seqs": 7}
    with pytest.raises(ConfigError, match="which vector fit sets itself"):
        engine_settings(["--model", "other"])


@pytest.mark.parametrize("words", [["--dtype", "auto"], ["--dtype=auto"]])
def test_a_dtype_that_was_given_holds_also_where_it_is_vllms_own(words: list[str]) -> None:
    settings = engine_settings(words)
    assert settings == {"dtype": "auto"}
    assert with_dtype("nothing", settings) == (settings, ())


def test_a_dtype_is_wanted_once() -> None:
    assert engine_settings([], "bfloat16") == {"dtype": "bfloat16"}
    assert engine_settings(["--dtype", "half"], "half") == {"dtype": "half"}
    with pytest.raises(ConfigError, match="want it once"):
        engine_settings(["--dtype", "half"], "float32")


def test_the_usual_dtype_is_told_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setattr(dtype, "missing_bfloat16", lambda: "it lacks them")
    settings, told = with_dtype(model, {"max_num_seqs": 3})
    assert settings == {"max_num_seqs": 3, "dtype": "float32"}
    assert [spelled(each) for each in told] == [
        "dtype is not given: float32: it lacks them, so that bfloat16 would be several times slower"
    ]


def test_the_cache_holds_what_the_texts_need_and_not_what_the_machine_has(model: str) -> None:
    settings, told = with_memory(model, {"dtype": "float32"}, longest=100)
    assert settings["kv_cache_memory_bytes"] == max(64 << 20, KV_BYTES * IN_FLIGHT_TOKENS)
    assert settings["block_size"] == CPU_BLOCK
    assert settings["max_num_batched_tokens"] == STEP_TOKENS
    assert "max_model_len" not in settings
    assert told == ()


def test_a_context_that_would_take_too_much_is_cut_down_and_told(
    monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setattr(
        "pilothouse.training.engine_settings.MOST_KV_BYTES", KV_BYTES * MAX_TOKENS - 1
    )
    monkeypatch.setattr("pilothouse.training.engine_settings.CONTEXT_STEP", 64)
    settings, [told] = with_memory(model, {"dtype": "float32"}, longest=100)
    assert settings["max_model_len"] == 128
    assert f"engine['max_model_len'] is not given: 128 of the model's {MAX_TOKENS}" in spelled(told)
    kept, told_nothing = with_memory(model, {"dtype": "float32", "max_model_len": 300}, 100)
    assert (kept["max_model_len"], told_nothing) == (300, ())


def test_memory_that_somebody_gave_holds(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    given = {"dtype": "float32", "kv_cache_memory_bytes": 1 << 20, "block_size": 64}
    settings, _ = with_memory(model, given | {"max_num_seqs": 600}, longest=9)
    assert settings | given == settings
    assert settings["max_num_batched_tokens"] == 600  # vLLM takes no fewer than sequences
    monkeypatch.setenv(KV_VARIABLE, "2")
    assert "kv_cache_memory_bytes" not in with_memory(model, {"dtype": "float32"}, 9).settings


def test_a_gpus_memory_is_left_to_vllm(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda _: False)
    assert with_memory(model, {"dtype": "float32"}, 9) == ({"dtype": "float32"}, ())
