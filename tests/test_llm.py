"""`from pilothouse import LLM, Steer`: the demo's model, policies and vectors without a server."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from vllm.sampling_params import StructuredOutputsParams

from pilothouse import LLM, CaptureReader, Steer
from pilothouse.cli.prompts import load_prompts
from pilothouse.engine.vllm.prompts import PromptRenderer
from pilothouse.errors import ConfigError, RequestError, UnsupportedError
from pilothouse.library import library_path

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
PROMPTS = load_prompts()
CHEERFUL = 207
"""The demo's feature of that name; its card says how it was found."""


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


def test_a_feature_of_an_sae_is_edited_offline_too(llm: LLM) -> None:
    edit = Steer(sae="world-l4", feature=CHEERFUL, value=1.0, unit="max_act")
    [plain] = llm.chat(asked(PROMPTS.known), greedy(llm), use_tqdm=False)
    [edited] = llm.chat(asked(PROMPTS.known), greedy(llm), steer=[edit], use_tqdm=False)
    assert "hooray" in edited.outputs[0].text and "hooray" not in plain.outputs[0].text
    assert edited.outputs[0].pilothouse["steered"]["world-l4"] > 0
    with pytest.raises(RequestError, match="got feature 9999, want 0 to 1023"):
        llm.chat(
            asked(PROMPTS.known),
            greedy(llm),
            steer=[Steer(sae="world-l4", feature=9999, value=1.0)],
            use_tqdm=False,
        )


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
        "hello",
        greedy(llm),
        probes=["misuse"],
        steer=[Steer(vector="hedge", scale=0.5)],
        use_tqdm=False,
    )
    assert output.outputs[0].pilothouse["scores"]["misuse/prompt"] >= 0.0


def test_conversations_are_captured_and_what_policies_did_is_noted(
    llm: LLM, tmp_path: Path
) -> None:
    known, blocked = asked(PROMPTS.known), asked(PROMPTS.blocked)
    reader = llm.capture(
        [known, blocked], [2], positions="all", max_tokens=8, out=tmp_path, progress=False
    )
    assert reader.index.actions["block"] == (1,)
    activations_ND, labels = reader.layer(2)
    tokenizer = llm.get_tokenizer()
    for number, messages in enumerate((known, blocked)):
        mine = labels.prompt_R == number
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert labels.token_id_R[mine & ~labels.is_output_R].tolist() == prompt
        assert (mine & labels.is_output_R).any() == (number == 0)
    assert activations_ND.shape == (len(labels), llm.plan.body.model.d_model)
    assert np.isfinite(activations_ND).all()


def test_the_example_of_the_offline_page_runs(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parent.parent / "docs" / "get-started" / "python-api.md"
    [example] = [
        code
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
        if "llm.capture(" in code
    ]
    monkeypatch.chdir(tmp_path)
    seen: dict[str, object] = {"llm": llm}
    exec(compile(example, str(page), "exec"), seen)
    activations_ND, labels = seen["activations"], seen["labels"]
    assert isinstance(activations_ND, np.ndarray) and len(activations_ND) == len(labels) > 0
    assert (tmp_path / "captures" / "questions" / "index.json").exists()


CAPTURE_FOR_LONG = """
import os
from pathlib import Path
from pilothouse import LLM
from pilothouse.library import library_path

if __name__ == "__main__":
    llm = LLM(str(library_path("examples/demo") / "model"), dtype="float32", enforce_eager=True)
    llm.capture(
        [f"w{n} hello there" for n in range(20_000)], [1, 2], positions="all", max_tokens=8,
        out="OUT", rows_per_shard=500,
    )
"""


@pytest.mark.full
def test_ctrl_c_at_a_terminal_leaves_whole_prompts(tmp_path: Path) -> None:
    out, script = tmp_path / "rows", tmp_path / "script.py"
    script.write_text(CAPTURE_FOR_LONG.replace("OUT", str(out)))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"},
    )
    try:
        deadline = time.monotonic() + 200
        while not list(out.glob("rows-000060*")):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
        told = process.communicate(timeout=60)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "KeyboardInterrupt" in told
    reader = CaptureReader(out)
    done = len(reader.prompts_done)
    assert not reader.complete and 0 < done < 20_000
    activations_ND, labels = reader.layer(2)
    assert len(np.unique(labels.prompt_R)) == done
    assert np.isfinite(activations_ND).all()
    assert not list(out.glob("*.tmp"))


def test_each_prompt_can_be_steered_its_own_way(llm: LLM) -> None:
    terms = [Steer(vector="cheerful", scale=1.0)]
    prompts = [asked(PROMPTS.known)] * 3
    mixed = llm.chat(prompts, greedy(llm), steer=[[], terms, []], use_tqdm=False)
    texts = [each.outputs[0].text for each in mixed]
    [plain] = llm.chat(asked(PROMPTS.known), greedy(llm), use_tqdm=False)
    [steered] = llm.chat(asked(PROMPTS.known), greedy(llm), steer=terms, use_tqdm=False)
    assert texts == [plain.outputs[0].text, steered.outputs[0].text, plain.outputs[0].text]
    assert texts[0] != texts[1]
    for wrong in ([terms], [terms, *terms, []]):
        with pytest.raises(ConfigError, match=r"steer: got .* for 3 prompts"):
            llm.chat(prompts, greedy(llm), steer=wrong, use_tqdm=False)


def test_another_configuration_is_followed_on_the_same_taps(llm: LLM) -> None:
    before = llm.plan
    added = before.config.vectors | {"cheerful-too": before.config.vectors["cheerful"]}
    llm.reload(before.config.model_copy(update={"vectors": added}))
    try:
        assert llm.plan.revision != before.revision
        [one, other] = (
            llm.chat(
                asked(PROMPTS.known),
                greedy(llm),
                use_tqdm=False,
                steer=[Steer(vector=name, scale=1.0)],
            )[0]
            for name in ("cheerful", "cheerful-too")
        )
        assert one.outputs[0].text == other.outputs[0].text
        assert other.outputs[0].pilothouse["steered"]["cheerful-too"] > 0
        assert other.pilothouse["revision"] == llm.plan.revision
    finally:
        llm.reload(before.config)
    assert llm.plan.revision == before.revision
    with pytest.raises(RequestError, match="cheerful-too"):
        llm.generate("hello", steer=[Steer(vector="cheerful-too", scale=1.0)])
    with pytest.raises(ConfigError, match=r"limits\.max_programs"):
        limits = before.config.limits.model_copy(update={"max_programs": 7})
        llm.reload(before.config.model_copy(update={"limits": limits}))
    assert llm.plan.revision == before.revision


def test_what_the_plan_does_not_have_is_an_error_before_anything_runs(llm: LLM) -> None:
    with pytest.raises(RequestError, match=r"vector: got 'nobody', available are"):
        llm.generate("hello", steer=[Steer(vector="nobody", scale=1.0)])
    with pytest.raises(RequestError, match=r"probes\.0: got 'nobody'"):
        llm.generate("hello", probes=["nobody"])


@pytest.mark.parametrize(
    "chosen",
    [
        {"structured_outputs": StructuredOutputsParams(choice=["yes", "no"])},
        {"allowed_token_ids": [5, 6]},
        {"logit_bias": {5: 1.0}},
    ],
    ids=lambda chosen: next(iter(chosen)),
)
def test_tokens_chosen_for_the_model_are_refused_under_a_rule_that_ends_prompts(
    llm: LLM, chosen: dict[str, object]
) -> None:
    with pytest.raises(RequestError, match=f"got {next(iter(chosen))}.*a server does"):
        llm.chat(asked(PROMPTS.known), greedy(llm, **chosen), use_tqdm=False)


def test_settings_that_are_refused_on_a_server_are_refused_here() -> None:
    with pytest.raises(UnsupportedError, match="--enable-sleep-mode"):
        LLM(str(library_path("examples/demo") / "model"), enable_sleep_mode=True)


def test_the_package_is_light_until_llm_is_asked_for() -> None:
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, pilothouse; from pilothouse import Steer; print('vllm' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "False"


def test_a_conversation_has_the_same_tokens_asked_captured_and_fitted(
    llm: LLM, tmp_path: Path
) -> None:
    folder = str(library_path("examples/demo") / "model")
    ids = PromptRenderer(folder, {}, {}).chat(asked(PROMPTS.known))
    [answer] = llm.chat(asked(PROMPTS.known), greedy(llm, max_tokens=1), use_tqdm=False)
    reader = llm.capture([asked(PROMPTS.known)], [1], out=tmp_path / "rows", progress=False)
    assert tuple(answer.prompt_token_ids) == ids
    assert tuple(reader.layer(1, "resid_post")[1].token_id_R) == ids


def test_variables_that_the_template_does_not_read_are_refused(llm: LLM, tmp_path: Path) -> None:
    variables = {"chat_template_kwargs": {"enable_thinking": False}}
    for ask in (
        lambda: llm.chat(asked(PROMPTS.known), greedy(llm), **variables),
        lambda: llm.capture([asked(PROMPTS.known)], [1], out=tmp_path / "rows", **variables),
    ):
        with pytest.raises(ConfigError, match="which the model's chat template does not read"):
            ask()
