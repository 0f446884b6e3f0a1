"""`LLM.capture`: rows on disk are what transformers computes, whatever the schedule was.

Shape suffixes: N rows, T positions of a sequence, D width of a site.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vllm.lora.request import LoRARequest

from pilothouse import LLM
from pilothouse.artifacts.catalog import SERVED_SITES
from pilothouse.artifacts.vector import save_vector
from pilothouse.capture.index import load_index
from pilothouse.capture.reader import CaptureReader
from pilothouse.config import PilothouseConfig, parse_config
from pilothouse.engine import capture_session
from pilothouse.engine.worker.shard_writer import ShardWriter
from pilothouse.errors import ConfigError, EngineError, RequestError
from pilothouse.term import SteerTerm
from tests.reference.hf_sites import SiteModel
from tests.support.engines.catalogs import vector
from tests.support.engines.harness import forced_async
from tests.support.engines.offline_llm import offline_llm, scheduler_of, worker_of
from tests.support.models.lora_adapters import make_adapter

pytestmark = pytest.mark.engine

TOLERANCE = 1e-4
SHARED = np.random.default_rng(1).integers(3, 256, 64).tolist()
PROMPTS = [
    [*SHARED[:shared], *np.random.default_rng(n).integers(3, 256, n).tolist()]
    for shared, n in ((0, 5), (64, 9), (64, 30), (0, 90), (32, 17), (64, 1))
]
MAX_TOKENS = 12


@pytest.fixture(scope="module")
def reference(qwen3: Path) -> SiteModel:
    return SiteModel(qwen3, "qwen3")


@pytest.fixture(scope="module")
def llm(qwen3: Path) -> Iterator[LLM]:
    """One engine for what does not depend on its settings. Only one can live in a process, so
    tests with engines of their own stand before those that take this one."""
    with offline_llm(qwen3, enable_prefix_caching=True, max_num_batched_tokens=64) as loaded:
        yield loaded


def check_against(
    reader: CaptureReader, reference: SiteModel, answers: list[list[int]], edits: Any = None
) -> None:
    """Every row of every place against the reference's, at the tokens that vLLM sampled."""
    for place in reader.places:
        activations_ND, labels = reader.layer(*place)
        for number, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
            mine = labels.prompt_R == number
            tokens = [*prompt, *answer][:-1] if len(answer) > 1 else prompt
            assert labels.position_R[mine].tolist() == list(range(len(tokens)))
            assert labels.token_id_R[mine].tolist() == tokens
            is_output = np.arange(len(tokens)) >= len(prompt)
            assert labels.is_output_R[mine].tolist() == is_output.tolist()
            site = "resid_pre" if place.site == "embed" else place.site
            want_TD = reference.run(tokens, edits).values[place.layer, site]
            assert np.abs(activations_ND[mine] - want_TD).max() <= TOLERANCE, (place, number)


def answers_of(llm: LLM) -> list[list[int]]:
    params = llm.get_default_sampling_params()
    params.temperature, params.max_tokens, params.detokenize = 0.0, MAX_TOKENS, False
    asked = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    outputs = llm.generate(asked, params, use_tqdm=False)
    return [list(each.outputs[0].token_ids) for each in outputs]


@pytest.mark.parametrize("ahead", [False, True], ids=["sync", "async"])
def test_rows_equal_transformers_under_chunked_prefill_preemption_and_prefix_hits(
    qwen3: Path, reference: SiteModel, tmp_path: Path, ahead: bool
) -> None:
    fed: dict[str, list[int]] = {}
    settings = {
        "enable_prefix_caching": True,
        "num_gpu_blocks_override": 9,
        "max_num_batched_tokens": 32,
        "max_num_seqs": 8,
    }
    with forced_async() if ahead else nullcontext(), offline_llm(qwen3, **settings) as llm:
        answers = answers_of(llm)
        cached = llm.generate({"prompt_token_ids": PROMPTS[2]}, use_tqdm=False)[0]
        assert cached.num_cached_tokens >= 32
        tap_manager = worker_of(llm).pilothouse
        on_step = tap_manager._state.write

        def write(request_ids: Any, starts_B: Any, counts_B: Any) -> None:
            for name, start in zip(request_ids, starts_B.tolist(), strict=True):
                fed.setdefault(name, []).append(start)
            on_step(request_ids, starts_B, counts_B)

        tap_manager._state.write = write
        reader = llm.capture(
            PROMPTS,
            [1, 3],
            sites=["resid_post", "attn_out"],
            positions="all",
            max_tokens=MAX_TOKENS,
            out=tmp_path,
            rows_per_shard=37,
            progress=False,
        )
    starts = list(fed.values())
    assert any(later <= earlier for each in starts for earlier, later in pairwise(each))
    assert any(len(each) > 1 + MAX_TOKENS for each in starts)
    assert reader.complete
    assert reader.prompts_done.tolist() == list(range(len(PROMPTS)))
    check_against(reader, reference, answers)


def steering(folder: Path) -> PilothouseConfig:
    save_vector(vector("v", (1,), norm=4.0), folder / "v")
    said = {
        "version": 1,
        "model_id": "tiny",
        "vectors": {"v": {"path": "v"}},
        "limits": {"max_norm_ratio": 1e6},
    }
    return parse_config(said, folder=folder, origin="test")


def test_a_capture_is_steered_and_reads_behind_the_edit(
    qwen3: Path, reference: SiteModel, tmp_path: Path
) -> None:
    terms = [SteerTerm(vector="v", scale=1.5, on="all")]
    with offline_llm(qwen3, steering(tmp_path), enable_prefix_caching=True) as llm:
        plain = llm.capture(PROMPTS, [1, 2], out=tmp_path / "plain", progress=False)
        steered = llm.capture(
            PROMPTS, [1, 2], steer=terms, out=tmp_path / "steered", progress=False
        )
        with pytest.raises(RequestError, match="vector: got 'nobody'"):
            llm.capture(
                PROMPTS,
                [1],
                steer=[SteerTerm(vector="nobody", scale=1.0)],
                out=tmp_path / "nobody",
                progress=False,
            )
    delta_D = 1.5 * vector("v", (1,), norm=4.0).directions_LD[0]
    assert np.abs(steered.layer(1)[0] - plain.layer(1)[0] - delta_D).max() <= TOLERANCE
    activations_ND, labels = steered.layer(2)
    for number, prompt in enumerate(PROMPTS):
        want_TD = reference.run(prompt, {(1, "resid_post"): delta_D}).values[2, "resid_post"]
        assert np.abs(activations_ND[labels.prompt_R == number] - want_TD).max() <= TOLERANCE
    assert np.abs(activations_ND - plain.layer(2)[0]).max() > 0.05


def test_a_compiled_model_is_read_and_compiled_again_afterwards(
    qwen3: Path, reference: SiteModel, tmp_path: Path
) -> None:
    with offline_llm(qwen3, enforce_eager=False) as llm:
        before = answers_of(llm)
        reader = llm.capture(PROMPTS, [0, 2], out=tmp_path, progress=False)
        model = worker_of(llm).model_runner.get_model()
        compiled = [each for each in model.modules() if "compiled" in vars(each)]
        assert compiled and not any(each.do_not_compile for each in compiled)
        assert answers_of(llm) == before
    check_against(reader, reference, [[0]] * len(PROMPTS))


def test_rows_under_an_adapter_are_the_merged_models(qwen3: Path, tmp_path: Path) -> None:
    adapter, merged = make_adapter(qwen3, tmp_path / "lora", seed=5)
    with offline_llm(qwen3, enable_lora=True, max_lora_rank=8, max_loras=1) as llm:
        asked: dict[str, Any] = {"progress": False, "sites": ["resid_post", "attn_heads"]}
        plain = llm.capture(PROMPTS, [1, 2], out=tmp_path / "plain", **asked)
        adapted = llm.capture(
            PROMPTS,
            [1, 2],
            out=tmp_path / "adapted",
            lora_request=LoRARequest("one", 1, str(adapter)),
            **asked,
        )
    check_against(plain, SiteModel(qwen3, "qwen3"), [[0]] * len(PROMPTS))
    check_against(adapted, SiteModel(merged, "qwen3"), [[0]] * len(PROMPTS))
    assert np.abs(adapted.layer(2)[0] - plain.layer(2)[0]).max() > 0.05


def test_every_served_site_is_captured(llm: LLM, reference: SiteModel, tmp_path: Path) -> None:
    sites = [site for site in SERVED_SITES if site != "embed"]
    reader = llm.capture(PROMPTS, [0, 2], sites=sites, out=tmp_path / "all", progress=False)
    assert len(reader.places) == 2 * len(sites)
    check_against(reader, reference, [[0]] * len(PROMPTS))
    reader = llm.capture(PROMPTS, [0], sites=["embed"], out=tmp_path / "e", progress=False)
    check_against(reader, reference, [[0]] * len(PROMPTS))


@pytest.mark.parametrize(
    ("positions", "first", "stop"),
    [("prompt", 0, 90), ("last_prompt", 89, 90), ("output", 90, 95), ("all", 0, 95)],
)
def test_positions_are_those_asked_for(
    llm: LLM, tmp_path: Path, positions: Any, first: int, stop: int
) -> None:
    output = positions in ("output", "all")
    reader = llm.capture(
        [PROMPTS[3]],
        [2],
        positions=positions,
        max_tokens=6 if output else None,
        out=tmp_path,
        progress=False,
    )
    assert reader.layer(2)[1].position_R.tolist() == list(range(first, stop))


def test_at_most_one_file_of_rows_is_held(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    append = ShardWriter.append

    def watched(self: ShardWriter, rows: Any) -> None:
        append(self, rows)
        held.append((self.rows_held, self.rows_written, sum(map(torch_bytes, vars(self).values()))))

    monkeypatch.setattr(ShardWriter, "append", watched)
    rows = 16
    reader = llm.capture(PROMPTS * 4, [1], out=tmp_path, rows_per_shard=rows, progress=False)
    total = 4 * sum(map(len, PROMPTS))
    assert max(each for each, _, _ in held) < rows
    assert all(written >= seen - rows for seen, (_, written, _) in enumerate(held))
    assert {size for _, _, size in held} == {rows * (64 * 4 + 3 * 4 + 1)}
    assert len(reader.layer(1)[0]) == total
    assert [each.rows for each in reader.index.shards[:-1]] == [rows] * (total // rows)
    assert sum(each.rows for each in reader.index.shards) == total


def torch_bytes(value: Any) -> int:
    tensors = value.values() if isinstance(value, dict) else ()
    return sum(each.nbytes for each in tensors if hasattr(each, "nbytes"))


def test_bfloat16_rows_are_the_rounded_ones(llm: LLM, tmp_path: Path) -> None:
    full = llm.capture(PROMPTS, [1], out=tmp_path / "a", progress=False).layer(1)[0]
    half = llm.capture(PROMPTS, [1], dtype="bfloat16", out=tmp_path / "b", progress=False).layer(1)[
        0
    ]
    assert np.abs(half - full).max() > 0
    assert (np.abs(half - full) <= 2.0**-8 * np.abs(full)).all()
    stored = (tmp_path / "b" / "rows-000000.safetensors").stat().st_size
    assert stored < 0.7 * (tmp_path / "a" / "rows-000000.safetensors").stat().st_size


class Full(OSError):
    """A disk without room."""

    def __init__(self) -> None:
        super().__init__(28, "No space left on device")


def interrupt_after(monkeypatch: pytest.MonkeyPatch, rows: int, deed: Any) -> None:
    """Do something when so many rows were taken over by writers."""
    append, seen = ShardWriter.append, [0]

    def counted(self: ShardWriter, taken: Any) -> None:
        append(self, taken)
        seen[0] += len(taken)
        if seen[0] >= rows:
            seen[0] = -(1 << 30)
            deed()

    monkeypatch.setattr(ShardWriter, "append", counted)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("deed", ["ctrl-c", "disk full"])
def test_what_was_interrupted_is_usable_and_the_same_call_finishes_it(
    llm: LLM, reference: SiteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    def fail() -> None:
        raise Full

    asked: dict[str, Any] = {"out": tmp_path, "rows_per_shard": 23, "progress": False}
    prompts = PROMPTS * 3
    with monkeypatch.context() as during:
        interrupt_after(during, 300, press_ctrl_c if deed == "ctrl-c" else fail)
        expected = KeyboardInterrupt if deed == "ctrl-c" else EngineError
        with pytest.raises(expected, match=None if deed == "ctrl-c" else "No space left"):
            llm.capture(prompts, [2], **asked)
    assert not llm.llm_engine.has_unfinished_requests()
    partial = CaptureReader(tmp_path)
    done = partial.prompts_done.tolist()
    assert not partial.complete and 0 < len(done) < len(prompts)
    assert set(partial.layer(2)[1].prompt_R.tolist()) == set(done)
    admitted = []
    add = scheduler_of(llm).add_request
    monkeypatch.setattr(
        scheduler_of(llm), "add_request", lambda each: admitted.append(each) or add(each)
    )
    reader = llm.capture(prompts, [2], **asked)
    assert len(admitted) == len(prompts) - len(done)
    assert reader.complete and reader.index.run == 1
    activations_ND, labels = reader.layer(2)
    assert len(labels) == sum(map(len, prompts))
    for number, prompt in enumerate(prompts):
        mine = labels.prompt_R == number
        assert labels.token_id_R[mine].tolist() == prompt
        want_TD = reference.run(prompt).values[2, "resid_post"]
        assert np.abs(activations_ND[mine] - want_TD).max() <= TOLERANCE
    admitted.clear()
    assert len(llm.capture(prompts, [2], **asked).labels()) == len(labels)
    assert not admitted


def test_a_position_that_went_by_unseen_is_an_error(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads_cache(number: int, max_tokens: int) -> Any:
        params = capture_session.capture_params(number, max_tokens)
        params.skip_reading_prefix_cache = False
        return params

    monkeypatch.setattr("pilothouse.offline.capturing.capture_params", reads_cache)
    answers_of(llm)
    with pytest.raises(EngineError, match=r"prompt \d+: some of its \d+ positions went by unseen"):
        llm.capture(PROMPTS, [1], out=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [1, 4]}, r"layers: got \[4\], want a list of integers from 0..3"),
        ({"layers": []}, r"layers: got none"),
        ({"layers": 2}, r"layers: got 2, want a list"),
        ({"layers": ["1"]}, r"layers: got \['1'\]"),
        ({"sites": ["logits"]}, r"sites: got \['logits'\], want a list of names from"),
        ({"sites": "resid_post"}, r"sites: got 'resid_post', want a list"),
        ({"positions": "first"}, r"positions: got 'first', want one of"),
        ({"dtype": "float16"}, r"dtype: got 'float16'"),
        ({"rows_per_shard": 0}, r"rows_per_shard: got 0"),
        ({"max_tokens": 4}, r"max_tokens: got 4 with positions='prompt'"),
        ({"max_tokens": 1, "positions": "output"}, r"max_tokens: got 1, want .* at least 2"),
        ({"prompts": []}, r"prompts: got none"),
        ({"prompts": [[]]}, r"prompts: number 0 is \[\]"),
        ({"prompts": 7}, r"prompts: got int"),
        ({"prompts": [[{"role": "user", "content": "a"}], "b"]}, "conversations beside other"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_runs(
    llm: LLM, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    asked: dict[str, Any] = {"prompts": PROMPTS, "layers": [1], "out": tmp_path / "c"} | changes
    with pytest.raises(ConfigError, match=message):
        llm.capture(asked.pop("prompts"), asked.pop("layers"), progress=False, **asked)
    assert not (tmp_path / "c").exists()


def test_a_site_that_a_layer_does_not_have_is_refused_and_nothing_is_left(
    llm: LLM, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="the embedding enters layer 0: ask for it there"):
        llm.capture(PROMPTS, [1], sites=["embed"], out=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []
    assert llm.capture(PROMPTS, [1], out=tmp_path, progress=False).complete


def test_folders_that_cannot_be_taken_are_refused(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("")
    for name, message in (
        ("file", r"out: .*file cannot be written: File exists"),
        ("file/below", r"out: .*below cannot be written: Not a directory"),
        ("full", r"out: .*full holds 'notes.txt' and no index.json: choose an empty folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            llm.capture(PROMPTS, [1], out=tmp_path / name, progress=False)
    llm.capture(PROMPTS, [1], out=tmp_path / "taken", progress=False)
    with pytest.raises(ConfigError, match=r"holds another capture \(layers: \(1,\) there, \(2,\)"):
        llm.capture(PROMPTS, [2], out=tmp_path / "taken", progress=False)
    with pytest.raises(ConfigError, match=r"holds another capture \(num_prompts: "):
        llm.capture(PROMPTS[1:], [1], out=tmp_path / "taken", progress=False)
    with pytest.raises(ConfigError, match=r"\(prompts_digest: "):
        llm.capture(PROMPTS[::-1], [1], out=tmp_path / "taken", progress=False)


def test_a_prompt_that_vllm_refuses_leaves_the_engine_as_it_was(llm: LLM, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts: number 6: This model's maximum context"):
        llm.capture([*PROMPTS, [3] * 300], [1], out=tmp_path / "a", progress=False)
    assert not load_index(tmp_path / "a").complete
    assert worker_of(llm).pilothouse._recorder is None
    assert llm.capture(PROMPTS, [1], out=tmp_path / "b", progress=False).complete


def test_waiting_requests_are_not_mixed_with_a_capture(llm: LLM, tmp_path: Path) -> None:
    params = llm.get_default_sampling_params()
    params.max_tokens, params.detokenize = 2, False
    asked = {"prompt_token_ids": PROMPTS[0]}

    def capture_meanwhile(given: Any) -> list[Any]:
        llm.enqueue(asked, given, use_tqdm=False)
        with pytest.raises(ConfigError, match="requests are waiting"):
            llm.capture(PROMPTS, [1], out=tmp_path, progress=False)
        return llm.wait_for_completion(use_tqdm=False)

    llm._governed("completions", params, [{}], None, capture_meanwhile)
