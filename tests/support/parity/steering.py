"""One parity check: what the engine steers and reads against transformers with hooks.

Also a program (`python -m tests.support.parity.steering llama --v2 --compiled --chunked`), for
settings that need a process of their own.

Shape suffixes: T positions, V vocabulary, E read columns, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse.artifacts.catalog import Catalog
from pilothouse.artifacts.vector import Vector
from pilothouse.engine.launch import WORKER
from pilothouse.term import SteerTerm
from tests.reference.hf_hooks import HookedEdit, HookedModel
from tests.support.engines.catalogs import probe, readout, vector
from tests.support.engines.harness import Engine, all_logprobs, engine, make_plan, random_rows
from tests.support.models.tiny_architectures import NUM_LAYERS, make_architecture
from tests.support.parity.program import run_program

V2_WORKER = "tests.support.engines.v2_worker.V2GuardedWorker"
TOLERANCE = 1e-4
LEAST_MOVE = 0.05
LEAST_MISS = 0.01
OUTPUT_TOKENS = 6

CATALOGUE = Catalog(
    vectors={
        "inner": vector("inner", (1, 2), seed=1, norm=6.0),
        "outer": vector("outer", (0, 2), seed=2, norm=9.0),
    },
    probes={
        "pair": probe(
            "pair", dict(zip((1, 3), random_rows(3, 2), strict=True)), {"all": readout("answer")}
        ),
        "one": probe("one", {2: random_rows(4, 1)[0]}, {"all": readout("prompt", "mean")}),
    },
)
COLUMN_LAYERS = ((1, "pair", 0), (2, "one", 0), (3, "pair", 1))


@dataclass(frozen=True)
class Case:
    """A request: prompt length and what steers it."""

    name: str
    length: int
    terms: tuple[SteerTerm, ...]


CASES = (
    Case("plain", 23, ()),
    Case("prompt", 40, (SteerTerm(vector="inner", scale=1.0, on="prompt"),)),
    Case("output", 23, (SteerTerm(vector="inner", scale=-1.0, on="output"),)),
    Case("all", 5, (SteerTerm(vector="outer", scale=1.0, on="all"),)),
    Case("unit", 23, (SteerTerm(vector="inner", scale=5.0, unit="unit", on="all"),)),
    Case("residual", 40, (SteerTerm(vector="outer", scale=0.9, unit="residual", on="output"),)),
    Case("layer", 17, (SteerTerm(vector="inner", scale=2.0, on="prompt", layers=(2,)),)),
    Case(
        "two",
        31,
        (
            SteerTerm(vector="inner", scale=1.0, on="prompt"),
            SteerTerm(vector="outer", scale=-0.7, on="output"),
        ),
    ),
)


def reference_edits(terms: tuple[SteerTerm, ...], num_prompt_tokens: int) -> list[HookedEdit]:
    """The edits in plain numpy, written apart from `pilothouse.edits`."""
    edits = []
    for term in terms:
        loaded: Vector = CATALOGUE.vectors[term.vector]
        for i, layer in enumerate(loaded.layers):
            if term.layers is not None and layer not in term.layers:
                continue
            row_D = loaded.directions_LD[i].astype(np.float64)
            if term.unit != "raw":
                row_D = row_D / np.sqrt((row_D**2).sum())
            if term.unit == "residual":
                row_D = row_D * float(loaded.residual_norms_L[i])
            start = num_prompt_tokens if term.on == "output" else 0
            stop = num_prompt_tokens if term.on == "prompt" else 1 << 30
            edits.append(HookedEdit(layer, (term.scale * row_D).astype(np.float32), start, stop))
    return edits


def wrong_edits(edits: list[HookedEdit], num_prompt_tokens: int) -> dict[str, list[HookedEdit]]:
    """What a mistake would do: the neighbouring layer, the other sign, the other clause."""
    other = []
    for edit in edits:
        if edit.stop == num_prompt_tokens:
            other.append(replace(edit, start=num_prompt_tokens, stop=1 << 30))
        else:
            other.append(replace(edit, start=0, stop=num_prompt_tokens))
    return {
        "neighbouring layer": [
            replace(edit, layer=edit.layer + 1 if edit.layer + 1 < NUM_LAYERS else edit.layer - 1)
            for edit in edits
        ],
        "other sign": [replace(edit, delta_D=-edit.delta_D) for edit in edits],
        "other clause": other,
    }


def prompt_of(case: Case) -> list[int]:
    """A fixed random prompt."""
    seed = sum(map(ord, case.name))
    return np.random.default_rng(seed).integers(3, 256, case.length).tolist()


def check(engine: Engine, oracle: HookedModel) -> dict[str, float]:
    """Run every case in one batch, compare, and return each case's largest error."""
    for case in CASES:
        params = engine.params(
            steer=case.terms,
            probes=["pair"],
            decision_id=case.name,
            logprobs=-1,
            max_tokens=OUTPUT_TOKENS,
        )
        engine.add(case.name, prompt_of(case), params)
    outputs = engine.drain()
    return {case.name: check_case(case, outputs[case.name], engine, oracle) for case in CASES}


def check_case(case: Case, output: object, engine: Engine, oracle: HookedModel) -> float:
    """Compare one case; its largest error.

    Raises:
        AssertionError: an error above the tolerance, or a check that could not have failed.
    """
    prompt = prompt_of(case)
    tokens = list(output.outputs[0].token_ids)  # type: ignore[attr-defined]
    assert len(tokens) == OUTPUT_TOKENS
    got_TV = all_logprobs(output)

    def expected(edits: list[HookedEdit]) -> np.ndarray:
        return oracle.run(prompt + tokens, edits).logprobs_TV[case.length - 1 : -1]

    edits = reference_edits(case.terms, case.length)
    run = oracle.run(prompt + tokens, edits)
    error = float(np.abs(got_TV - run.logprobs_TV[case.length - 1 : -1]).max())
    assert error <= TOLERANCE, f"{case.name}: log-probabilities differ by {error:.2e}"
    if edits:
        moved = np.abs(expected([]) - expected(edits)).max()
        assert moved >= LEAST_MOVE, f"{case.name}: the edit moves the reference by {moved:.3f}"
        for mistake, wrong in wrong_edits(edits, case.length).items():
            missed = np.abs(got_TV - expected(wrong)).max()
            assert missed >= LEAST_MISS, f"{case.name}: {mistake} would pass ({missed:.1e})"
    return max(error, _check_reads(case, run.streams, engine))


def _check_reads(case: Case, streams: dict[int, np.ndarray], engine: Engine) -> float:
    reads = engine.reads(case.name)
    assert sorted(reads) == list(range(case.length + OUTPUT_TOKENS - 1))
    got_TE = np.stack([reads[position] for position in sorted(reads)])
    want_TE = np.stack(
        [
            streams[layer][: len(got_TE)] @ CATALOGUE.probes[name].weights_LD[row]
            for layer, name, row in COLUMN_LAYERS
        ],
        axis=1,
    )
    assert np.abs(want_TE).max() > LEAST_MOVE
    error = float(np.abs(got_TE - want_TE).max())
    assert error <= TOLERANCE, f"{case.name}: reads differ by {error:.2e}"
    return error


def settings_of(name: str) -> dict[str, Any]:
    """What an architecture needs to agree with transformers at all.

    vLLM's CPU kernel turns DeepSeek's queries wrongly; its plain torch form agrees.
    """
    if name.startswith("deepseek"):
        return {"compilation_config": {"custom_ops": ["none", "-rotary_embedding"]}}
    return {}


def run_check(
    name: str, folder: Path, *, v2: bool = False, compiled: bool = False, chunked: bool = False
) -> dict[str, float]:
    """Make the model, start an engine, check every case."""
    make_architecture(folder, name)
    with engine(
        folder,
        make_plan(CATALOGUE),
        worker=V2_WORKER if v2 else WORKER,
        enforce_eager=not compiled,
        max_num_seqs=16,
        max_num_batched_tokens=24 if chunked else 512,
        **settings_of(name),
    ) as started:
        return check(started, HookedModel(folder))


if __name__ == "__main__":
    run_program(run_check)
