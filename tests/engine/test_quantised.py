"""Quantised weights: taps sit on the stream, which is as wide and as precise as ever.

References are transformers with the weights read back from the quantised ones. `w8a8` also rounds
the input of each projection, which the reference does too; a value near the middle of two levels
then takes one or the other by its last bit, in float32 as in float64, and each such choice moves a
log-probability by about 1e-2. So the bound is that of bfloat16: at most twice as far from the finer
reference as the coarser one is, and where no choice differs the agreement is to 1e-4. What no
rounding can blur is compared with plain vLLM under hooks of the test's own, bit for bit.

Shape suffixes: T positions, V vocabulary, D hidden size.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from vllm.platforms import current_platform

from pilothouse.engine.unsupported_flags import refuse_settings
from pilothouse.term import SteerTerm
from tests.engine import test_untouched
from tests.reference.hf_hooks import HookedModel
from tests.support.engines.harness import Engine, all_logprobs, engine, make_plan, random_rows
from tests.support.engines.hooked_worker import HOOKED_WORKER
from tests.support.models.quantised import PROJECTIONS, SCHEMES, quantise, rounded_activations
from tests.support.models.tiny_architectures import make_architecture
from tests.support.parity.steering import (
    CASES,
    CATALOGUE,
    COLUMN_LAYERS,
    LEAST_MOVE,
    OUTPUT_TOKENS,
    TOLERANCE,
    prompt_of,
    reference_edits,
)

pytestmark = pytest.mark.engine

DTYPES = {"w8a8": "float32", "w4a16": "bfloat16"}
PRECISIONS = {
    "w8a8": (torch.float64, torch.float32),
    "w4a16": (torch.float32, torch.bfloat16),
}
"""Of the finer reference, and of the coarser."""
EACH_SCHEME = pytest.mark.parametrize(
    "name", ["w8a8", pytest.param("w4a16", marks=pytest.mark.full)]
)
EDITED = 1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Scheme -> (quantised model, the same numbers as plain weights)."""
    folder = tmp_path_factory.mktemp("quantised")
    plain = make_architecture(folder / "plain", "qwen3", dtype=torch.bfloat16)
    return {name: quantise(plain, folder / name, scheme) for name, scheme in SCHEMES.items()}


@pytest.fixture(autouse=True)
def _the_kernel_is_in_this_build(request: pytest.FixtureRequest) -> None:
    """vLLM's build for CPUs with AVX2 alone has no kernel of four bits."""
    name = getattr(request.node, "callspec", None)
    if name is not None and name.params.get("name") == "w4a16":
        current_platform.import_kernels()
        if not hasattr(torch.ops._C, "cpu_gemm_wna16"):
            pytest.skip("plain vLLM's build for this CPU has no cpu_gemm_wna16")


def reference(folder: Path, name: str, dtype: torch.dtype) -> HookedModel:
    """Transformers with the weights read back, and activations rounded where the scheme does."""
    oracle = HookedModel(folder, dtype)
    if SCHEMES[name].rounds_activations:
        for path, module in oracle.model.named_modules():
            if path.split(".")[-1] in PROJECTIONS:
                module.register_forward_pre_hook(_round)
    return oracle


def _round(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (rounded_activations(args[0]), *args[1:])


def _skip_where_plain_vllm_is_further(
    quantised: Path, exact: HookedModel, rounded: HookedModel, name: str
) -> None:
    """The bound is about our edits, and needs a CPU whose kernels multiply as the scheme says.

    Those of CPUs with AVX2 alone saturate sums of int8 products, in plain vLLM without us too.
    """
    with engine(quantised, None, dtype=DTYPES[name]) as plain:
        prompts = [prompt_of(case) for case in CASES]
        outputs = plain.run(prompts, plain.params(logprobs=-1, max_tokens=OUTPUT_TOKENS))
    far, near = [], []
    for prompt, output in zip(prompts, outputs, strict=True):
        tokens, at = prompt + list(output.outputs[0].token_ids), slice(len(prompt) - 1, -1)
        want_TV = exact.run(tokens).logprobs_TV[at]
        far.append(np.abs(all_logprobs(output) - want_TV).mean())
        near.append(np.abs(rounded.run(tokens).logprobs_TV[at] - want_TV).mean())
    if np.mean(far) > 2 * np.mean(near):
        pytest.skip(
            f"plain vLLM's {name} kernels on this CPU are {np.mean(far):.1e} from the weights read "
            f"back, the coarser reference {np.mean(near):.1e}"
        )


@EACH_SCHEME
def test_a_quantised_model_that_nobody_touches_answers_as_plain_vllm(
    name: str, models: dict[str, tuple[Path, Path]]
) -> None:
    settings = test_untouched.CHUNKED | {"dtype": DTYPES[name]}
    with engine(models[name][0], None, **settings) as plain:
        want = test_untouched.answers(plain)
        assert _quantised_projections(plain)
    with engine(models[name][0], test_untouched.loaded_plan(), **settings) as ours:
        got = test_untouched.answers(ours)
    for (want_tokens, want_TV, _), (got_tokens, got_TV, _) in zip(want, got, strict=True):
        assert got_tokens == want_tokens
        assert np.array_equal(got_TV, want_TV)


@EACH_SCHEME
def test_steering_is_as_close_to_the_weights_read_back_as_a_hooked_reference(
    name: str, models: dict[str, tuple[Path, Path]]
) -> None:
    quantised, read_back = models[name]
    exact, rounded = (reference(read_back, name, dtype) for dtype in PRECISIONS[name])
    _skip_where_plain_vllm_is_further(quantised, exact, rounded, name)
    with engine(quantised, make_plan(CATALOGUE), dtype=DTYPES[name]) as started:
        for case in CASES:
            params = started.params(
                steer=case.terms, decision_id=case.name, logprobs=-1, max_tokens=OUTPUT_TOKENS
            )
            started.add(case.name, prompt_of(case), params)
        outputs = started.drain()
    ours, theirs, moves, same = [], [], [], []
    for case in CASES:
        tokens = prompt_of(case) + list(outputs[case.name].outputs[0].token_ids)
        edits, at = reference_edits(case.terms, case.length), slice(case.length - 1, -1)
        got_TV, want_TV = all_logprobs(outputs[case.name]), exact.run(tokens, edits).logprobs_TV[at]
        other_TV = rounded.run(tokens, edits).logprobs_TV[at]
        ours.append(np.abs(got_TV - want_TV).mean())
        theirs.append(np.abs(other_TV - want_TV).mean())
        same.append(min(np.abs(got_TV - each).max() for each in (want_TV, other_TV)) <= TOLERANCE)
        if edits:
            moves.append(np.abs(exact.run(tokens).logprobs_TV[at] - want_TV).mean())
    assert np.mean(ours) <= 2 * np.mean(theirs)
    assert min(moves) > 2 * max(theirs)
    if name == "w8a8":
        assert sum(same) >= len(CASES) / 2


@EACH_SCHEME
def test_steering_and_reads_equal_those_of_hooks_of_the_tests_own_in_plain_vllm(
    name: str, models: dict[str, tuple[Path, Path]]
) -> None:
    prompt = prompt_of(CASES[0])
    term = SteerTerm(vector="inner", scale=1.0, on="all")
    vector = CATALOGUE.vectors["inner"]
    with engine(models[name][0], None, worker_cls=HOOKED_WORKER, dtype=DTYPES[name]) as hooked:
        worker = hooked.core.model_executor.driver_worker.worker
        for layer, row_D in zip(vector.layers, vector.directions_LD, strict=True):
            worker.hooked_edit(layer, "resid_post", row_D)
        asked = hooked.params(max_tokens=1, logprobs=-1)
        want_TV = all_logprobs(hooked.run([prompt], asked)[0])
        streams = {
            layer: worker.hooked_values(layer, "resid_post", len(prompt))[1]
            for layer, _, _ in COLUMN_LAYERS
        }
        for layer in vector.layers:
            worker.hooked_edit(layer, "resid_post", None)
        plain_TV = all_logprobs(hooked.run([prompt], asked)[0])
    with engine(models[name][0], make_plan(CATALOGUE), dtype=DTYPES[name]) as started:
        params = started.params(steer=[term], probes=["pair"], max_tokens=1, logprobs=-1)
        started.add("steered", prompt, params)
        got_TV = all_logprobs(started.drain()["steered"])
        reads = started.reads("steered")
    assert np.array_equal(got_TV, want_TV)
    assert np.abs(want_TV - plain_TV).max() > LEAST_MOVE
    for column, (layer, probe, row) in enumerate(COLUMN_LAYERS):
        want_T = streams[layer] @ CATALOGUE.probes[probe].weights_LD[row]
        got_T = np.array([reads[position][column] for position in range(len(prompt))])
        assert np.abs(got_T - want_T).max() <= TOLERANCE
        assert np.abs(want_T).max() > LEAST_MOVE


@EACH_SCHEME
def test_every_site_of_quantised_blocks_passes_the_self_check_and_an_edit_arrives_whole(
    name: str, models: dict[str, tuple[Path, Path]]
) -> None:
    settings: dict[str, Any] = {"worker_cls": HOOKED_WORKER, "dtype": DTYPES[name]}
    edit_D = random_rows(5, 1, norm=8.0)[0]
    prompt = prompt_of(CASES[0])
    with engine(models[name][0], None, **settings) as started:
        worker = started.core.model_executor.driver_worker.worker
        sites = worker.hooked_sites()
        assert all(set(each) >= {"attn_heads", "mlp_neurons"} for each in sites.values())
        worker.hooked_edit(EDITED, "resid_post", edit_D)
        started.tokens([prompt], started.params(max_tokens=1))
        _, behind_TD = worker.hooked_values(EDITED, "resid_post", len(prompt))
        _, received_TD = worker.hooked_values(EDITED + 1, "resid_pre", len(prompt))
    eps = torch.finfo(getattr(torch, DTYPES[name])).eps
    error_TD = np.abs(received_TD - behind_TD - edit_D)
    assert (error_TD <= 8 * eps * (np.abs(behind_TD) + np.abs(received_TD) + np.abs(edit_D))).all()
    assert np.abs(edit_D).max() > 100 * error_TD.mean()


def test_quantisation_is_not_refused() -> None:
    refuse_settings(Namespace(quantization="compressed-tensors"))


def _quantised_projections(started: Engine) -> bool:
    model = started.core.model_executor.driver_worker.worker.model_runner.get_model()
    methods = {
        type(module.quant_method).__name__
        for name, module in model.named_modules()
        if name.split(".")[-1] in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    }
    return methods == {"CompressedTensorsLinearMethod"}
