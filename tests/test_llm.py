"""`from pilothouse import LLM, Steer`: the demo's model, policies and vectors without a server."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pilothouse import LLM, Steer
from pilothouse.cli.prompts import load_prompts
from pilothouse.errors import RequestError, UnsupportedError
from pilothouse.library import library_path

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
PROMPTS = load_prompts()


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    """The demo's model under the demo's configuration, in vLLM's own processes."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    loaded = LLM(
        str(library_path("examples/demo") / "model"),
        pilothouse_config=library_path("probes/demo") / "pilothouse.yaml",
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=16,
    )
    yield loaded
    del loaded
    gc.collect()


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def greedy(llm: LLM, **changes: object):
    params = llm.get_default_sampling_params()
    params.temperature, params.max_tokens = 0.0, 48
    for name, value in changes.items():
        setattr(params, name, value)
    return params


def test_policies_hold_as_they_do_on_a_server(llm: LLM) -> None:
    known, forbidden = llm.chat(
        [asked(PROMPTS.known), asked(PROMPTS.blocked)], greedy(llm), use_tqdm=False
    )
    allowed, ended = known.outputs[0], forbidden.outputs[0]
    assert allowed.pilothouse["action"] in ("allow", "steer") and allowed.text
    assert ended.pilothouse["action"] == "block" and ended.pilothouse["message"]
    assert (ended.text, list(ended.token_ids)) == ("", [])
    assert ended.finish_reason == "content_filter"
    assert ended.pilothouse["rules"][0]["policy"] == "no-misuse"
    assert known.pilothouse["revision"] == llm.plan.revision
    assert known.pilothouse["decision_id"] != forbidden.pilothouse["decision_id"]


def test_steering_changes_the_answer_and_says_how_many_tokens(llm: LLM) -> None:
    terms = [Steer(vector="cheerful", scale=1.0)]
    [plain] = llm.chat(asked(PROMPTS.known), greedy(llm), use_tqdm=False)
    [steered] = llm.chat(asked(PROMPTS.known), greedy(llm), steer=terms, use_tqdm=False)
    [profiled] = llm.chat(
        asked(PROMPTS.known), greedy(llm), profile="demo:cheerful", use_tqdm=False
    )
    assert steered.outputs[0].text != plain.outputs[0].text
    assert profiled.outputs[0].text == steered.outputs[0].text
    assert steered.outputs[0].pilothouse["steered"]["cheerful"] > 0
    assert plain.outputs[0].pilothouse["steered"].get("cheerful", 0) == 0


def test_each_of_several_completions_is_settled_by_itself(llm: LLM) -> None:
    params = greedy(llm, n=2, temperature=0.8, seed=1)
    [output] = llm.chat(asked(PROMPTS.known), params, scores="tokens", use_tqdm=False)
    assert len(output.outputs) == 2
    for completion in output.outputs:
        told = completion.pilothouse
        assert told["scores"] and len(told["token_scores"]) >= 1


def test_generate_takes_what_chat_takes(llm: LLM) -> None:
    [output] = llm.generate(
        "hello", greedy(llm), probes=["misuse"], steer=[Steer(vector="hedge", scale=0.5)],
        use_tqdm=False,
    )  # fmt: skip
    assert output.outputs[0].pilothouse["scores"]["misuse/prompt"] >= 0.0


def test_what_the_plan_does_not_have_is_an_error_before_anything_runs(llm: LLM) -> None:
    with pytest.raises(RequestError, match=r"vector: got 'nobody', available are"):
        llm.generate("hello", steer=[Steer(vector="nobody", scale=1.0)])
    with pytest.raises(RequestError, match=r"probes\.0: got 'nobody'"):
        llm.generate("hello", probes=["nobody"])


def test_settings_that_are_refused_on_a_server_are_refused_here() -> None:
    with pytest.raises(UnsupportedError, match="--enable-sleep-mode"):
        LLM(str(library_path("examples/demo") / "model"), enable_sleep_mode=True)


def test_the_package_is_light_until_llm_is_asked_for() -> None:
    said = subprocess.run(
        [
            sys.executable, "-c",
            "import sys, pilothouse; from pilothouse import Steer; print('vllm' in sys.modules)",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == "False"
