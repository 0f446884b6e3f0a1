"""Texts of a fit as tokens: what a template or tokenizer refuses ends before weights are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import Qwen3Config

from pilothouse.training.fit_options import Files
from pilothouse.training.pair import load_pairs
from pilothouse.training.tokenized import read_texts
from tests.support.models.echo_model import D_MODEL, NUM_LAYERS, echo_pairs, write_lines
from tests.support.models.tiny_model import MAX_TOKENS, tiny_tokenizer
from tests.support.training.fit_command import run_fit

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
REFUSES_SYSTEM = (
    "{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('System role not supported') }}"
    "{%- endif -%}{%- for each in messages -%}{{ each.role }}: {{ each.content }}\n{%- endfor -%}"
)
THINKS = (
    "{% for each in messages %}{{ each.role }}: {{ each.content }}\n{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}no thinking{% endif %}"
)


def model_of(folder: Path, template: str | None, bos: str | None = None) -> Path:
    """A model's folder without any weights: only its configuration and tokenizer."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    if bos is not None:
        from tokenizers.processors import TemplateProcessing

        tokenizer.bos_token = bos
        number = tokenizer.convert_tokens_to_ids(bos)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, number)]
        )
    tokenizer.save_pretrained(folder)
    Qwen3Config(
        vocab_size=512,
        hidden_size=D_MODEL,
        intermediate_size=128,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        architectures=["Qwen3ForCausalLM"],
        max_position_embeddings=MAX_TOKENS,
        dtype="float32",
    ).save_pretrained(folder)
    return folder


def talks(count: int, *, system_at: tuple[int, ...] = ()) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for number, pair in enumerate(echo_pairs(count), 1):
        first = [{"role": "system", "content": "be kind"}] if number in system_at else []
        asked = [*first, {"role": "user", "content": pair.pop("prompt")}]
        found.append({"messages": asked} | pair)
    return found


def test_a_conversation_that_the_template_refuses_ends_before_weights_are_read(
    tmp_path: Path,
) -> None:
    model = model_of(tmp_path / "m", REFUSES_SYSTEM)
    pairs = write_lines(tmp_path / "pairs.jsonl", talks(10, system_at=(5, 7)))
    done = run_fit(pairs, "--model", model, "--out", tmp_path / "out")
    assert done.exit_code == 2, done.output
    for number in (5, 7):
        assert (
            f"{pairs}: pair {number}: messages: the model's chat template refuses it: "
            in done.output
        )
    assert "System role not supported" in done.output
    assert "pair 6" not in done.output and not (tmp_path / "out").exists()


def test_a_question_that_the_template_refuses_is_told_by_its_file(tmp_path: Path) -> None:
    model = model_of(tmp_path / "m", REFUSES_SYSTEM)
    pairs = write_lines(tmp_path / "pairs.jsonl", echo_pairs(10))
    asked = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    facts = write_lines(tmp_path / "facts.jsonl", [{"messages": asked, "answer": "c"}])
    done = run_fit(pairs, "--model", model, "--out", tmp_path / "out", "--facts", facts)
    assert done.exit_code == 2
    assert f"{facts}: question 1: messages: the model's chat template refuses it" in done.output


def test_a_tokenizer_without_a_template_is_told(tmp_path: Path) -> None:
    model = model_of(tmp_path / "m", None)
    pairs = write_lines(tmp_path / "pairs.jsonl", talks(10))
    done = run_fit(pairs, "--model", model, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "pair 1: messages: the model has no chat template: give `prompt` texts" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ('{"enable_thinkin": false}', "got ['enable_thinkin'], which the model's chat template"),
        ('{"add_generation_prompt": false}', "got ['add_generation_prompt']"),
        ("{", "not JSON"),
        ("[1]", "want an object"),
    ],
)
def test_variables_that_no_template_reads_are_refused(
    tmp_path: Path, words: str, said: str
) -> None:
    model = model_of(tmp_path / "m", THINKS)
    pairs = write_lines(tmp_path / "pairs.jsonl", talks(10))
    done = run_fit(
        pairs, "--model", model, "--out", tmp_path / "out", "--chat-template-kwargs", words
    )
    assert (done.exit_code, said in done.output) == (2, True), done.output


def test_variables_reach_the_template_as_they_do_over_http(tmp_path: Path) -> None:
    from pilothouse.engine.vllm.prompts import PromptRenderer

    model = model_of(tmp_path / "m", THINKS)
    asked = [{"role": "user", "content": "the boats"}]
    texts = {}
    for value in (True, False):
        renderer = PromptRenderer(str(model), {}, {"enable_thinking": value})
        ids = renderer.chat(asked)
        wanted = renderer.tokenizer.apply_chat_template(
            asked,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            enable_thinking=value,
        )
        assert list(ids) == list(wanted)
        texts[value] = renderer.tokenizer.decode(ids)
    assert "no thinking" in texts[False] and "no thinking" not in texts[True]


def test_a_prompt_that_begins_twice_is_told_and_is_what_vllm_makes_of_it(tmp_path: Path) -> None:
    from pilothouse.engine.vllm.prompts import PromptRenderer

    model = model_of(tmp_path / "m", "<|pad|>" + THINKS, bos="<|pad|>")
    renderer = PromptRenderer(str(model), {}, {})
    bos = renderer.tokenizer.bos_token_id
    text = "<|pad|>the boats"
    [served] = renderer._renderer.render_cmpl(
        [{"prompt": text}], renderer._renderer.default_cmpl_tok_params
    )
    assert served["prompt_token_ids"] == renderer.tokenizer.encode(text)
    assert served["prompt_token_ids"][:2] == [bos, bos]
    assert renderer.begins_twice(text)
    assert not renderer.begins_twice("the boats") and not renderer.begins_twice("")
    once = renderer.chat([{"role": "user", "content": "the boats"}])
    assert once.count(bos) == 1
    pairs = echo_pairs(10)
    for number in (2, 3):
        pairs[number]["prompt"] = "<|pad|>" + pairs[number]["prompt"]
    place = write_lines(tmp_path / "pairs.jsonl", pairs)
    options = SimpleNamespace(
        pairs=place, settings={}, chat_template_kwargs={}, neutral=None, facts=None
    )
    [note] = read_texts(options, Files(load_pairs(place), (), ()), str(model)).notes
    assert note.startswith(f"{place}: pair 3 and 1 more: begins with '<|pad|>'")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"positive": "e", "negative": "the boats"}, "want at least 2, since the first of a whole"),
        ({"prompt": "the", "positive": " boats" * MAX_TOKENS, "negative": "a"}, "shorten it"),
    ],
)
def test_a_text_that_cannot_be_scored_says_what_is_missing(
    tmp_path: Path, row: dict[str, str], said: str
) -> None:
    model = model_of(tmp_path / "m", None)
    pairs = write_lines(tmp_path / "pairs.jsonl", [*echo_pairs(10), row])
    done = run_fit(pairs, "--model", model, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "pair 11: positive: " in done.output and said in done.output, done.output


def test_answers_of_one_token_are_refused_with_the_option_that_helps(tmp_path: Path) -> None:
    model = model_of(tmp_path / "m", None)
    rows = [{"prompt": f"the {n}", "positive": "a", "negative": "b"} for n in range(10)]
    pairs = write_lines(tmp_path / "pairs.jsonl", rows)
    done = run_fit(pairs, "--model", model, "--out", tmp_path / "out")
    assert (done.exit_code, "or give --on all" in done.output) == (2, True), done.output


def test_a_tuned_model_with_other_tokens_is_refused_before_an_engine_starts(tmp_path: Path) -> None:
    model = model_of(tmp_path / "m", THINKS)
    shutil.copytree(model, tmp_path / "t")
    other = tiny_tokenizer()
    other.add_tokens(["boats"])
    other.save_pretrained(tmp_path / "t")
    pairs = write_lines(tmp_path / "pairs.jsonl", echo_pairs(10))
    words = (pairs, "--model", model, "--out", tmp_path / "out", "--tuned", tmp_path / "t")
    done = run_fit(*words)
    assert (done.exit_code, "its tokenizer is another" in done.output) == (2, True), done.output


def test_a_model_that_cannot_be_read_is_wrong_use(tmp_path: Path) -> None:
    pairs = write_lines(tmp_path / "pairs.jsonl", echo_pairs(10))
    done = run_fit(pairs, "--model", tmp_path / "nothing", "--out", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert "cannot be read" in done.output


def test_features_put_a_prompt_into_the_template_before_an_engine_starts(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pilothouse.cli.sae import app
    from tests.support.artifacts import sae_files as files
    from tests.support.artifacts.sae_files import book

    model = model_of(tmp_path / "m", None)
    folder = files.saelens(tmp_path / "s", book())
    words = ["features", "hi", "--model", str(model), "--sae", str(folder), "--model-id", "m"]
    made = book(
        W_enc=book().W_enc.repeat(6, axis=0)[:D_MODEL], W_dec=book().W_dec.repeat(6, 1)[:, :D_MODEL]
    )
    made.b_dec = made.b_dec.repeat(6)[:D_MODEL]
    meta = {"model_name": "m", "hook_name": "blocks.1.hook_resid_post"}
    files.saelens(tmp_path / "s", made, d_in=D_MODEL, metadata=meta)
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, "no chat template" in done.output) == (2, True), done.output
    wrong = json.dumps({"enable_thinking": False})
    done = CliRunner().invoke(app, [*words, "--raw", "--chat-template-kwargs", wrong])
    assert "got it with --raw" in done.output


def test_texts_that_begin_twice_are_logged_offline(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from pilothouse.engine.vllm.prompts import PromptRenderer
    from pilothouse.llm import _warn_of_doubled

    renderer = PromptRenderer(str(model_of(tmp_path / "m", None, bos="<|pad|>")), {}, {})._renderer
    given = ["a", {"prompt": "<|pad|>b"}, "<|pad|>c", {"prompt_token_ids": [0, 0]}]
    with caplog.at_level("WARNING", logger="pilothouse"):
        _warn_of_doubled(renderer, given, {})
        _warn_of_doubled(renderer, given[:1], {})
        _warn_of_doubled(renderer, given, {"tokenization_kwargs": {"add_special_tokens": False}})
    mine = [each for each in caplog.records if each.name.startswith("pilothouse")]
    assert [each.getMessage()[:30] for each in mine] == ["prompts: number 1 and 1 more b"]
