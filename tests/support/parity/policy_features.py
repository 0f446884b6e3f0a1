"""Policies that steer with and log features of SAEs of every kind, against transformers with hooks.

Also a program (`python -m tests.support.parity.policy_features qwen3 --v2 --compiled --chunked`).

Shape suffixes: T positions, V vocabulary, D hidden size, M features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.launch import WORKER
from pilothouse.policy.schema import Policy
from tests.reference.hf_hooks import HookedChange, HookedModel
from tests.reference.sae import Book
from tests.support.engines.catalogs import policy, probe, readout
from tests.support.engines.harness import Engine, all_logprobs, engine, make_plan, random_rows
from tests.support.models.tiny_architectures import make_architecture
from tests.support.parity.operators import with_saes
from tests.support.parity.program import run_program
from tests.support.parity.sae_cases import BOOKS, CHOSEN, FEATURES, JUMP, NORMED, SIGNED
from tests.support.parity.steering import LEAST_MISS, LEAST_MOVE, TOLERANCE, V2_WORKER

OUTPUT_TOKENS = 6
LENGTH = 33
LOGGED = tuple(range(0, FEATURES, 2))
"""More than are counted one by one."""
TOP = 32
LOGGING = ("chosen", "signed", "normed", "jump")
FIRST = probe("first", {0: random_rows(3, 1)[0]}, {"all": readout("prompt")})
Rules = Mapping[int, tuple[str, float, float | None]]


class Steered(NamedTuple):
    """A request under some policies, and what they do to a token's stream at which layer."""

    policies: tuple[str, ...]
    layer: int
    right: Callable[[np.ndarray], np.ndarray]
    wrong: Callable[[np.ndarray], np.ndarray]


def always(name: str, then: Mapping[str, Any]) -> Policy:
    """A policy whose rule fires at every prompt."""
    rule = {"id": "r", "phase": "prompt", "when": "x >= 0.000001", "then": dict(then)}
    return policy(name, [rule], {"x": "first/all"})


def steers(name: str, sae: str, features: list[int], **how: Any) -> Policy:
    """A policy that steers with features."""
    return always(name, {"action": "steer", "sae": sae, "feature": features} | how)


POLICIES = (
    steers("sets", "chosen", [20, 4], value=6.0),
    steers("scales", "signed", [*range(8, 24)], op="scale", scale=-3.0),
    steers("norms", "normed", [6], value=4.0),
    steers("jumps", "jump", [3], value=6.0),
    *(
        always(
            f"logs-{sae}",
            {
                "action": "log",
                "features": {"sae": sae, "of": list(LOGGED), "top": TOP},
            },
        )
        for sae in LOGGING
    ),
)
SET: Rules = {20: ("set", 6.0, None), 4: ("set", 6.0, None)}
SCALED: Rules = {each: ("scale", -3.0, None) for each in range(8, 24)}
NORM: Rules = {6: ("set", 4.0, None)}
JUMPED: Rules = {3: ("set", 6.0, None)}


def edited(made: Book, rules: Rules, h_TD: np.ndarray) -> np.ndarray:
    """The textbook's edit, token by token."""
    return np.stack([made.edited(h_D, dict(rules)) for h_D in h_TD])


def elsewhere(made: Book, rules: Rules, h_TD: np.ndarray) -> np.ndarray:
    """The same of other features."""
    return edited(made, {(each + 37) % FEATURES: rule for each, rule in rules.items()}, h_TD)


STEERED = (
    Steered(("sets",), 1, lambda h: edited(CHOSEN, SET, h), lambda h: elsewhere(CHOSEN, SET, h)),
    Steered(
        ("scales",), 2, lambda h: edited(SIGNED, SCALED, h), lambda h: elsewhere(SIGNED, SCALED, h)
    ),
    Steered(("norms",), 1, lambda h: edited(NORMED, NORM, h), lambda h: elsewhere(NORMED, NORM, h)),
    Steered(
        ("sets", "jumps"),
        1,
        lambda h: edited(JUMP, JUMPED, edited(CHOSEN, SET, h)),
        lambda h: edited(CHOSEN, SET, h),
    ),
)


def prompt_of(name: str) -> list[int]:
    """A fixed random prompt."""
    drawn: list[int] = np.random.default_rng(sum(map(ord, name))).integers(3, 250, LENGTH).tolist()
    return drawn


def check(started: Engine, reference: HookedModel) -> dict[str, float]:
    """All requests in one batch; each steered one's largest error in log-probabilities.

    Raises:
        AssertionError: an error above the tolerance, codes that differ, or a check that could not
            have failed.
    """
    asked = {"+".join(each.policies): each.policies for each in STEERED}
    asked |= {f"logs-{sae}": (f"logs-{sae}",) for sae in LOGGING}
    for name, policies in asked.items():
        params = started.params(
            policies=policies, decision_id=name, logprobs=-1, max_tokens=OUTPUT_TOKENS
        )
        started.add(name, prompt_of(name), params)
    outputs = started.drain()
    for sae in LOGGING:
        _check_logged(started, reference, sae, outputs[f"logs-{sae}"])
    return {
        name: _check_steered(each, outputs[name], reference)
        for each in STEERED
        for name in ["+".join(each.policies)]
    }


def _check_steered(each: Steered, output: Any, reference: HookedModel) -> float:
    prompt = prompt_of("+".join(each.policies))
    tokens, got_TV = prompt + list(output.outputs[0].token_ids), all_logprobs(output)

    def expected(change: Callable[[np.ndarray], np.ndarray] | None, start: int) -> np.ndarray:
        changes = [] if change is None else [HookedChange(each.layer, change, start)]
        return reference.run(tokens, changes).logprobs_TV[LENGTH - 1 : -1]

    wanted_TV = expected(each.right, LENGTH)
    error = float(np.abs(got_TV - wanted_TV).max())
    assert error <= TOLERANCE, f"{each.policies}: log-probabilities differ by {error:.2e}"
    assert np.abs(expected(None, 0) - wanted_TV).max() >= LEAST_MOVE, each.policies
    for wrong_TV in (expected(each.wrong, LENGTH), expected(each.right, LENGTH - 1)):
        assert np.abs(got_TV - wrong_TV).max() >= LEAST_MISS, each.policies
    return error


def _check_logged(started: Engine, reference: HookedModel, sae: str, output: Any) -> None:
    made, layer = BOOKS[sae]
    fed = [*prompt_of(f"logs-{sae}"), *output.outputs[0].token_ids][:-1]
    stream_TD = reference.run(fed).streams[layer].astype(np.float64)
    codes_TM = np.array([made.codes(h_D) for h_D in stream_TD])[:, LOGGED]
    largest_M = codes_TM[np.abs(codes_TM).argmax(axis=0), np.arange(len(LOGGED))]
    best = np.argsort(-np.abs(largest_M), kind="stable")[:TOP]
    wanted = [(LOGGED[i], float(largest_M[i])) for i in best if largest_M[i]]
    assert len(wanted) > 10, "else little is compared"
    told = started.closing(f"logs-{sae}").features[f"logs-{sae}/r"]
    assert [each.feature for each in told] == [feature for feature, _ in wanted], sae
    np.testing.assert_allclose([e.code for e in told], [code for _, code in wanted], atol=1e-3)


def run_check(
    name: str, folder: Path, *, v2: bool = False, compiled: bool = False, chunked: bool = False
) -> dict[str, float]:
    """Make the model, start one engine, check every request."""
    make_architecture(folder, name)
    loaded, saes = with_saes(Catalog(probes={"first": FIRST}), folder)
    plan = make_plan(loaded, POLICIES, saes=saes)
    with engine(
        folder,
        plan,
        worker=V2_WORKER if v2 else WORKER,
        enforce_eager=not compiled,
        max_num_batched_tokens=40 if chunked else 1024,
    ) as started:
        return check(started, HookedModel(folder))


if __name__ == "__main__":
    run_program(run_check)
