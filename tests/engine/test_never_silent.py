"""Never-silent: what cannot be guarded stops the start; what carries no valid seal is refused."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.launch import (
    CONFIG_VARIABLE,
    GATE,
    GUARDED_VARIABLE,
    SCHEDULER,
    WORKER,
    guarded_args,
)
from pilothouse.engine.plugin import register
from pilothouse.engine.unsupported_flags import (
    REFUSALS,
    REFUSED_VARIABLES,
    refuse_model,
    refuse_resolved,
    refuse_settings,
    resolved_value,
)
from pilothouse.engine.vllm.version import is_at_least
from pilothouse.errors import ConfigError, UnsupportedError
from pilothouse.signed_request import SIGNED_REQUEST_KEY, SignedRequest, seal, signing_key
from pilothouse.term import SteerTerm
from tests.support.engines.catalogs import vector
from tests.support.engines.harness import Engine, engine, make_plan

HERE = [each for each in REFUSALS if is_at_least(each.since)]
"""Settings that the installed vLLM has."""
VALUES: dict[str, str | None] = {
    "--worker-cls": "some.Worker",
    "--worker-extension-cls": "some.Extension",
    "--scheduler-cls": "some.Scheduler",
    "--runner": "pooling",
    "--data-parallel-size": "2",
    "--prefill-context-parallel-size": "2",
    "--decode-context-parallel-size": "2",
    "--ubatch-size": "2",
    "--speculative-config": '{"method": "medusa", "num_speculative_tokens": 2}',
    "--spec-method": "eagle",
    "--spec-model": "drafter",
    "--kv-transfer-config": '{"kv_connector": "ExampleConnector", "kv_role": "kv_both"}',
    "--kv-events-config": '{"enable_kv_cache_events": true}',
    "--ec-transfer-config": '{"ec_connector": "ECExampleConnector", "ec_role": "ec_both"}',
    "--kv-offloading-size": "1.5",
    "--attention-config": '{"hisparse_config": {}}',
    "--aux-output-config": '{"enable_return_routed_experts": true}',
    "--diffusion-config": '{"canvas_length": 4}',
    "--root-path": "/llm/",
}
"""What is typed after a flag; switches take nothing."""


def parse(*argv: str) -> Namespace:
    """vLLM's own parser of `vllm serve`."""
    parser = make_arg_parser(FlexibleArgumentParser())
    return parser.parse_args(["some/model", *argv])


@pytest.fixture(scope="module")
def defaults() -> Namespace:
    return parse()


def test_vllms_defaults_are_not_refused(defaults: Namespace) -> None:
    refuse_settings(defaults)


@pytest.mark.parametrize("refusal", HERE, ids=lambda each: each.flag)
def test_every_row_names_a_setting_that_vllm_has(refusal: Any, defaults: Namespace) -> None:
    assert hasattr(defaults, refusal.attribute)


@pytest.mark.parametrize("refusal", HERE, ids=lambda each: each.flag)
def test_every_refused_flag_stops_the_start_with_its_reason(refusal: Any) -> None:
    value = VALUES.get(refusal.flag)
    args = parse(refusal.flag, *([] if value is None else [value]))
    with pytest.raises(UnsupportedError) as refused:
        refuse_settings(args)
    assert refusal.flag in str(refused.value)
    assert refusal.reason in str(refused.value)


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("--aux-output-config.enable_return_routed_experts", "true"), "--aux-output-config"),
        (("--aux_output_config", '{"enable_return_routed_experts": true}'), "--aux-output-config"),
        *([(("--enable_hc_sp",), "--enable-hc-sp")] if is_at_least("0.32") else []),
        (("--attention-config.hisparse_config", "{}"), "--attention-config"),
        (("--kv-events-config.enable_kv_cache_events", "true"), "--kv-events-config"),
        (("-dp", "2"), "--data-parallel-size"),
        (("--speculative-config.method", "eagle"), "--speculative-config"),
        (
            ("--speculative-config", '{"method": "ngram", "rejection_sample_method": "block"}'),
            "--speculative-config",
        ),
    ],
)
@pytest.mark.parametrize("in_a_file", [False, True])
def test_a_setting_is_refused_however_it_is_written(
    words: tuple[str, ...], flag: str, in_a_file: bool, tmp_path: Path
) -> None:
    """In a `--config` file, with underscores, dotted, as JSON, or by its short name."""
    if in_a_file:
        if not words[0].startswith("--"):
            pytest.skip("a file has no short names")
        name, value = words[0][2:], (words[1] if len(words) > 1 else "true")
        (tmp_path / "vllm.yaml").write_text(
            f"{name}: {value!r}\n" if len(words) > 1 else f"{name}: true\n"
        )
        words = ("--config", str(tmp_path / "vllm.yaml"))
    args = parse(*words)
    with pytest.raises(UnsupportedError, match=f"{flag} "):
        refuse_settings(args)


def test_a_group_of_settings_that_switches_nothing_on_is_no_offence() -> None:
    refuse_settings(
        parse(
            "--kv-events-config",
            '{"enable_kv_cache_events": false}',
            "--aux-output-config",
            '{"enable_return_routed_experts": false}',
            "--speculative-config",
            '{"method": "ngram", "num_speculative_tokens": 2}',
        )
    )


@pytest.fixture(scope="module")
def resolved(qwen3: Path) -> Any:
    """What vLLM makes of no flags at all."""
    return EngineArgs(model=str(qwen3), enforce_eager=True).create_engine_config()


IN_A_GROUP: dict[str, Any] = {
    "--speculative-config": Namespace(method="eagle"),
    "--kv-transfer-config": Namespace(kv_connector="ExampleConnector"),
    "--kv-events-config": Namespace(enable_kv_cache_events=True),
    "--ec-transfer-config": Namespace(ec_connector="ECExampleConnector"),
    "--attention-config": Namespace(hisparse_config=Namespace()),
    "--aux-output-config": Namespace(enable_return_routed_experts=True),
    "--runner": "pooling",
}
"""What a resolved configuration has where a setting is refused; others are counts or switches."""


def with_value(config: Any, path: str, value: Any) -> Namespace:
    """As much of a configuration as the refusals look at, with one setting changed."""
    copied = Namespace(
        **{name: getattr(config, name) for name in vars(config)}  # groups stay as they are
    )
    *groups, name = path.split(".")
    place: Any = copied
    for group in groups:
        inner = getattr(place, group)
        inner = Namespace(**({} if inner is None else dict(vars(inner))))
        setattr(place, group, inner)
        place = inner
    setattr(place, name, value)
    if groups == ["model_config"]:
        copied.model_config.multimodal_config = None
    return copied


def test_what_vllm_resolves_by_default_is_not_refused(resolved: Any) -> None:
    refuse_resolved(resolved)


@pytest.mark.parametrize(
    "refusal", [each for each in HERE if each.resolved], ids=lambda each: each.flag
)
def test_a_setting_is_refused_wherever_it_came_from(refusal: Any, resolved: Any) -> None:
    """By the environment, another flag or the model itself: it is the resolved one that counts."""
    assert not refusal.applies(resolved_value(resolved, refusal.resolved))
    value = IN_A_GROUP.get(refusal.flag, 2)
    with pytest.raises(UnsupportedError) as refused:
        refuse_resolved(with_value(resolved, refusal.resolved, value))
    assert refusal.flag in str(refused.value) and refusal.reason in str(refused.value)


def test_a_pair_is_refused_wherever_it_came_from(resolved: Any) -> None:
    config = with_value(resolved, "parallel_config.pipeline_parallel_size", 2)
    refuse_resolved(config)
    with pytest.raises(UnsupportedError, match="--pipeline-parallel-size together with"):
        refuse_resolved(with_value(config, "lora_config", Namespace()))


def test_an_engine_does_not_start_with_what_no_flag_told_of(qwen3: Path) -> None:
    overrides = {"is_encoder_decoder": True}
    refusing = pytest.raises(UnsupportedError, match="encoder-decoder")
    with refusing, engine(qwen3, make_plan(Catalog()), hf_overrides=overrides):
        pytest.fail("it started")


@pytest.mark.parametrize("variable", REFUSED_VARIABLES)
def test_every_refused_variable_stops_the_start(
    variable: str, defaults: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "0")
    refuse_settings(defaults)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(UnsupportedError, match=variable):
        refuse_settings(defaults)


def test_an_encoder_decoder_is_refused() -> None:
    refuse_model(Namespace(is_encoder_decoder=False))
    with pytest.raises(UnsupportedError):
        refuse_model(Namespace(is_encoder_decoder=True))


def test_a_diffusion_model_is_refused() -> None:
    refuse_model(Namespace(canvas_length=None))
    with pytest.raises(UnsupportedError, match="diffusion"):
        refuse_model(Namespace(canvas_length=32))


def test_a_guarded_start_sets_worker_scheduler_plan_and_gate() -> None:
    plan = make_plan(Catalog())
    args = guarded_args(parse("--middleware", "some.Middleware"), plan)
    assert (args.worker_cls, args.scheduler_cls) == (WORKER, SCHEDULER)
    assert args.middleware == ["some.Middleware", GATE]
    assert args.additional_config == plan.to_additional_config()


def test_a_users_additional_config_stays_and_may_not_take_our_key() -> None:
    plan = make_plan(Catalog())
    args = guarded_args(parse("--additional-config", '{"theirs": 1}'), plan)
    assert args.additional_config["theirs"] == 1
    with pytest.raises(ConfigError, match="pilothouse"):
        guarded_args(parse("--additional-config", '{"pilothouse": {}}'), plan)


PROMPT = list(range(3, 20))
TOKENS = 6


@pytest.fixture(scope="module")
def narrow(qwen3: Path) -> Iterator[Engine]:
    """One slot, and little patience."""
    vectors = {name: vector(name, (1,), seed=i, norm=5.0) for i, name in enumerate("abc")}
    limits = {"max_norm_ratio": 1e6, "max_programs": 1, "max_wait_ms": 400}
    plan = make_plan(Catalog(vectors=vectors), limits=limits)
    with engine(qwen3, plan) as started:
        yield started


def sealed_by_another_start(started: Engine) -> str:
    request = SignedRequest(decision_id="x", revision=started.plan.revision)  # type: ignore[union-attr]
    return seal(request, b"another key of thirty-two bytes!")


SEALED_WELL = ("unknown vector", "unknown layer", "overflow", "no table", "no value")
"""The seal holds; what it asks for cannot be done."""


def broken_seals(started: Engine) -> dict[str, object]:
    good = started.sealed()
    head, mac = good.split(".")
    other_revision = SignedRequest(decision_id="x", revision="000000000000")
    unknown = started.sealed(steer=[SteerTerm(vector="nowhere", scale=1.0)])
    layers = started.sealed(steer=[SteerTerm(vector="a", scale=1.0, layers=(3,))])
    return {
        "missing": None,
        "empty": "",
        "number": 7,
        "no mac": head,
        "cut": good[:-3],
        "tampered": f"{'A' if head[0] != 'A' else 'B'}{head[1:]}.{mac}",
        "other start": sealed_by_another_start(started),
        "other revision": seal(other_revision, signing_key()),
        "unknown vector": unknown,
        "unknown layer": layers,
        "no table": started.sealed(steer=[SteerTerm(vector="a", op="ablate")]),
        "no value": started.sealed(steer=[SteerTerm(vector="a", op="set")]),
        "overflow": started.sealed(steer=[SteerTerm(vector="a", scale=1e300)]),
    }


@pytest.mark.engine
def test_what_carries_no_valid_seal_gets_nothing_and_the_engine_goes_on(narrow: Engine) -> None:
    want = narrow.tokens([PROMPT], narrow.params(max_tokens=TOKENS))
    for name, value in broken_seals(narrow).items():
        extra = {} if value is None else {SIGNED_REQUEST_KEY: value}
        params = SamplingParams(max_tokens=TOKENS, detokenize=False, extra_args=extra)
        before = len(narrow.sent)
        [output] = narrow.run([PROMPT], params)
        assert list(output.outputs[0].token_ids) == [], name
        assert output.outputs[0].finish_reason == "error", name
        assert [each.token_ids for each in narrow.sent[before:]] == [()], name
        decision_id = "d" if name in SEALED_WELL else ""
        assert narrow.closing(decision_id).error == "seal", name
    assert narrow.tokens([PROMPT], narrow.params(max_tokens=TOKENS)) == want


def steered(started: Engine, name: str, decision_id: str, max_tokens: int = TOKENS) -> Any:
    return started.params(
        steer=[SteerTerm(vector=name, scale=1.0, on="all")],
        decision_id=decision_id,
        max_tokens=max_tokens,
    )


@pytest.mark.engine
def test_a_request_waits_for_a_slot_and_is_served_when_one_frees(narrow: Engine) -> None:
    alone = narrow.tokens([PROMPT], steered(narrow, "b", "alone"))[0]
    narrow.add("first", PROMPT, steered(narrow, "a", "first"))
    narrow.add("second", PROMPT, steered(narrow, "b", "second"))
    narrow.add("same", PROMPT, steered(narrow, "a", "same"))
    narrow.add("plain", PROMPT, narrow.params(max_tokens=TOKENS, decision_id="plain"))
    outputs = narrow.drain()
    assert list(outputs["second"].outputs[0].token_ids) == alone
    waited = {name: narrow.closing(name).waited for name in ("first", "second", "same", "plain")}
    assert waited == {"first": False, "second": True, "same": False, "plain": False}
    assert narrow.closing("second").error is None


@pytest.mark.engine
def test_a_request_that_waits_too_long_is_refused_for_capacity(narrow: Engine) -> None:
    narrow.add("long", PROMPT, steered(narrow, "a", "long", max_tokens=200))
    narrow.add("late", PROMPT, steered(narrow, "b", "late"))
    began = time.monotonic()
    refused: list[float] = []

    def slowly() -> None:
        time.sleep(0.01)
        if not refused and "late" in narrow.records:
            refused.append(time.monotonic() - began)

    outputs = narrow.drain(slowly)
    assert outputs["late"].outputs[0].finish_reason == "error"
    assert list(outputs["late"].outputs[0].token_ids) == []
    assert narrow.closing("late").error == "capacity"
    assert narrow.closing("late").waited
    assert narrow.closing("late").steered_tokens == {}
    assert 0.4 <= refused[0] < 5.0
    assert len(outputs["long"].outputs[0].token_ids) == 200
    again = narrow.tokens([PROMPT], steered(narrow, "b", "again"))
    assert len(again[0]) == TOKENS


@pytest.mark.engine
def test_a_request_that_no_table_could_seat_is_refused_at_once(narrow: Engine) -> None:
    terms = [SteerTerm(vector="a", scale=1.0, on="prompt"), SteerTerm(vector="b", scale=1.0)]
    [output] = narrow.run([PROMPT], narrow.params(steer=terms, decision_id="two"))
    assert output.outputs[0].finish_reason == "error"
    record = narrow.closing("two")
    assert (record.error, record.waited) == ("capacity", False)


@pytest.mark.engine
def test_a_waiting_request_can_be_aborted(narrow: Engine) -> None:
    narrow.add("holder", PROMPT, steered(narrow, "a", "holder", max_tokens=30))
    narrow.add("gone", PROMPT, steered(narrow, "c", "gone"))
    for _ in range(3):
        narrow.step()
    narrow.abort("gone")
    narrow.drain()
    narrow.run([PROMPT], narrow.params())
    record = narrow.closing("gone")
    assert record.aborted and record.steered_tokens == {}
    assert np.isfinite(record.policy_seconds)


def test_an_unguarded_start_with_a_configuration_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, "pilothouse.yaml")
    monkeypatch.delenv(GUARDED_VARIABLE, raising=False)
    with pytest.raises(SystemExit, match="pilothouse serve"):
        register()
    monkeypatch.delenv(CONFIG_VARIABLE)
    register()
