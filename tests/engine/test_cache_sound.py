"""Cache-sound: KV computed under an edit never serves a request without it.

Every answer with the prefix cache on is compared with the same request's on an empty cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pilothouse.artifacts.catalog import Catalog
from pilothouse.artifacts.vector import build_vector
from pilothouse.term import SteerTerm
from tests.reference.hf_hooks import HookedModel
from tests.support.engines.catalogs import firing_row, policy, probe, readout, vector
from tests.support.engines.harness import (
    BLOCK,
    Engine,
    all_logprobs,
    engine,
    make_plan,
    random_rows,
)

pytestmark = pytest.mark.engine

PROMPT = np.random.default_rng(7).integers(3, 256, 3 * BLOCK + 5).tolist()
JAILBREAK = PROMPT[: BLOCK + 8]
FULL_BLOCKS = 3 * BLOCK
V_PROMPT = SteerTerm(vector="v", scale=1.0, on="prompt")
V_OUTPUT = SteerTerm(vector="v", scale=1.0, on="output")
V_ALL = SteerTerm(vector="v", scale=1.0, on="all")
ALIAS_ALL = SteerTerm(vector="alias", scale=1.0, on="all")
W_ALL = SteerTerm(vector="w", scale=1.0, on="all")


@pytest.fixture(scope="module")
def cached(qwen3: Path) -> Iterator[Engine]:
    v = vector("v", (1, 2), norm=6.0)
    alias = build_vector(
        "alias",
        model_id="tiny",
        layers=v.layers,
        directions_LD=v.directions_LD,
        residual_norms_L=v.residual_norms_L,
        created_by="tests",
    )
    stream_TD = HookedModel(qwen3).run(JAILBREAK).streams[2]
    probes = {
        "jailbreak": probe(
            "jailbreak", {2: firing_row(stream_TD, [3])}, {"whole": readout("prompt", "max")}
        ),
        "any": probe("any", {0: random_rows(2, 1)[0]}, {"now": readout("output")}),
    }
    policies = (
        policy(
            "no-jailbreak",
            [{"id": "stop", "phase": "prompt", "when": "x >= 0.5", "then": {"action": "block"}}],
            {"x": "jailbreak/whole"},
        ),
        policy(
            "late",
            [{"id": "note", "phase": "output", "when": "x >= 0.5", "then": {"action": "block"}}],
            {"x": "jailbreak/whole"},
        ),
        policy(
            "push",
            [
                {
                    "id": "always",
                    "phase": "output",
                    "when": "x >= 0.000001",
                    "then": {"action": "steer", "vector": "w", "scale": 3.0, "hold_tokens": 8},
                }
            ],
            {"x": "any/now"},
        ),
    )
    catalog = Catalog(
        vectors={"v": v, "alias": alias, "w": vector("w", (2,), seed=8, norm=6.0)}, probes=probes
    )
    plan = make_plan(catalog, policies)
    with engine(qwen3, plan, enable_prefix_caching=True) as started:
        yield started


def ask(started: Engine, prompt: list[int], *steer: SteerTerm, salt: str | None = None, **more):
    """(log-probabilities [T, V], cached tokens, tokens) of one request."""
    extra = {} if salt is None else {"cache_salt": salt}
    params = started.params(steer=steer, logprobs=-1, **({"max_tokens": 6} | more))
    [output] = started.run([prompt], params, **extra)
    return all_logprobs(output), output.num_cached_tokens, list(output.outputs[0].token_ids)


def alone(started: Engine, prompt: list[int], *steer: SteerTerm, **more) -> np.ndarray:
    """The same on an empty cache."""
    started.reset_cache()
    logprobs_TV, hit, _ = ask(started, prompt, *steer, **more)
    assert hit == 0
    started.reset_cache()
    return logprobs_TV


CLAUSES = [V_PROMPT, V_ALL, W_ALL]


@pytest.mark.parametrize("term", CLAUSES, ids=lambda each: f"{each.vector}-{each.on}")
def test_plain_after_steered_and_steered_after_plain_are_right(
    cached: Engine, term: SteerTerm
) -> None:
    plain, steered = alone(cached, PROMPT), alone(cached, PROMPT, term)
    assert np.abs(plain - steered).max() > 0.05
    for first, second, want in (((term,), (), plain), ((), (term,), steered)):
        cached.reset_cache()
        ask(cached, PROMPT, *first)
        got, hit, _ = ask(cached, PROMPT, *second)
        assert hit == 0
        assert np.abs(got - want).max() < 1e-5


@pytest.mark.parametrize("term", [None, *CLAUSES], ids=str)
def test_the_same_program_finds_its_own_blocks(cached: Engine, term: SteerTerm | None) -> None:
    steer = () if term is None else (term,)
    want = alone(cached, PROMPT, *steer)
    ask(cached, PROMPT, *steer)
    got, hit, _ = ask(cached, PROMPT, *steer)
    assert hit == FULL_BLOCKS
    assert np.abs(got - want).max() < 1e-5


def test_the_key_is_content_and_no_name(cached: Engine) -> None:
    cached.reset_cache()
    ask(cached, PROMPT, V_ALL)
    assert ask(cached, PROMPT, ALIAS_ALL)[1] == FULL_BLOCKS


@pytest.mark.parametrize(
    "other",
    [
        SteerTerm(vector="v", scale=1.5, on="all"),
        SteerTerm(vector="v", scale=-1.0, on="all"),
        SteerTerm(vector="v", scale=1.0, on="all", layers=(1,)),
        W_ALL,
        SteerTerm(vector="v", scale=1.0, unit="unit", on="all"),
    ],
    ids=["strength", "sign", "layers", "vector", "unit"],
)
def test_another_program_does_not_find_them(cached: Engine, other: SteerTerm) -> None:
    want = alone(cached, PROMPT, other)
    ask(cached, PROMPT, V_ALL)
    got, hit, _ = ask(cached, PROMPT, other)
    assert hit == 0
    assert np.abs(got - want).max() < 1e-5


def test_output_only_edits_do_not_fork_prompt_blocks(cached: Engine) -> None:
    want = alone(cached, PROMPT, V_OUTPUT)
    ask(cached, PROMPT)
    got, hit, _ = ask(cached, PROMPT, V_OUTPUT)
    assert hit == FULL_BLOCKS
    assert np.abs(got - want).max() < 1e-5


@pytest.mark.parametrize("term", [V_OUTPUT, V_PROMPT, V_ALL], ids=lambda each: each.on)
def test_turn_two_under_the_same_steering_equals_an_empty_cache(
    cached: Engine, term: SteerTerm
) -> None:
    cached.reset_cache()
    _, _, answer = ask(cached, PROMPT, term, max_tokens=2 * BLOCK)
    turn_two = PROMPT + answer + [9, 8, 7]
    got, hit, _ = ask(cached, turn_two, term)
    # Steered on all positions, the answer's blocks serve on: where the prompt ended is no content.
    assert hit == (len(turn_two) // BLOCK * BLOCK if term.on == "all" else FULL_BLOCKS)
    assert np.abs(got - alone(cached, turn_two, term)).max() < 1e-5


@pytest.mark.parametrize("policies", [(), ("push",)], ids=["request", "policy"])
def test_plain_turn_two_after_a_steered_answer_is_right(
    cached: Engine, policies: tuple[str, ...]
) -> None:
    cached.reset_cache()
    steer = () if policies else (V_OUTPUT,)
    _, _, answer = ask(cached, PROMPT, *steer, policies=policies, max_tokens=2 * BLOCK)
    turn_two = PROMPT + answer + [9, 8, 7]
    got, hit, _ = ask(cached, turn_two)
    assert hit == FULL_BLOCKS
    assert np.abs(got - alone(cached, turn_two)).max() < 1e-5


def test_policy_steering_moves_the_answer_it_steers(cached: Engine) -> None:
    free = alone(cached, PROMPT, max_tokens=12)
    pushed = alone(cached, PROMPT, policies=["push"], max_tokens=12)
    assert np.array_equal(free[:2], pushed[:2])
    assert np.abs(free - pushed)[2:].max() > 0.05


def test_the_clients_salt_still_isolates(cached: Engine) -> None:
    for steer in ((), (V_ALL,)):
        cached.reset_cache()
        assert ask(cached, PROMPT, *steer, salt="a")[1] == 0
        assert ask(cached, PROMPT, *steer, salt="b")[1] == 0
        assert ask(cached, PROMPT, *steer)[1] == 0
        assert ask(cached, PROMPT, *steer, salt="a")[1] == FULL_BLOCKS


@pytest.mark.parametrize("rule", ["no-jailbreak", "late"])
def test_a_jailbreak_gets_the_same_verdict_twice_and_as_turn_two(cached: Engine, rule: str) -> None:
    cached.reset_cache()
    answer = ask(cached, JAILBREAK)[2]
    assert ask(cached, JAILBREAK)[1] == BLOCK
    turn_two = JAILBREAK + answer + [9] * BLOCK
    # Nobody read the first block until a rule wanted it; from then on it is skipped and scored.
    for prompt, skipped in ((JAILBREAK, 0), (JAILBREAK, BLOCK), (turn_two, BLOCK)):
        _, hit, tokens = ask(cached, prompt, policies=[rule], decision_id="j")
        record = cached.closing("j")
        assert record.verdict is not None and record.verdict.result == "blocked"
        assert (hit, tokens) == (skipped, [])
        assert record.unscored_tokens == {}
        assert record.scored_tokens["jailbreak"] == len(prompt)
    assert ask(cached, JAILBREAK)[1] == BLOCK


def test_shadow_reads_the_cache_and_counts_what_nobody_scored(cached: Engine) -> None:
    cached.reset_cache()
    ask(cached, JAILBREAK)
    _, hit, _ = ask(cached, JAILBREAK, shadow=["no-jailbreak"], decision_id="s")
    assert hit == BLOCK
    assert cached.closing("s").unscored_tokens == {"prefix_cache": BLOCK}


def test_shadow_scores_what_an_enforced_rule_has_read(cached: Engine) -> None:
    cached.reset_cache()
    ask(cached, JAILBREAK, policies=["no-jailbreak"], decision_id="j")
    _, hit, _ = ask(cached, JAILBREAK, shadow=["no-jailbreak"], decision_id="s")
    assert hit == BLOCK
    record = cached.closing("s")
    assert record.unscored_tokens == {}
    assert record.values["jailbreak/whole"] == cached.closing("j").values["jailbreak/whole"]
