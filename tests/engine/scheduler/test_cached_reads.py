"""Cached: an enforced rule does not switch the prefix cache off, and sees what it would without.

Random batches over prompts that share beginnings, in a KV cache so small that requests are
preempted: what each request is scored with is compared with the same request's on an empty cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.scheduler.cached_reads import CachedReads, ReadStore
from pilothouse.engine.scheduler.messages import Emissions
from pilothouse.record import Record
from pilothouse.term import SteerTerm
from tests.support.engines.catalogs import policy, probe, readout, vector
from tests.support.engines.harness import (
    BLOCK,
    Engine,
    engine,
    forced_async,
    make_plan,
    random_rows,
)

LONGEST = 3 * BLOCK
SHARED = np.random.default_rng(11).integers(3, 249, LONGEST).tolist()
V_ALL = SteerTerm(vector="v", scale=1.0, on="all")
V_PROMPT = SteerTerm(vector="v", scale=-0.5, on="prompt")
NEVER = "x >= 0.999999 and y >= 0.999999"


def watched_plan(**limits: Any) -> Any:
    """Rules of each phase that read the whole prompt and never fire, and a vector below them."""
    rows = {layer: random_rows(20 + layer, 1)[0] for layer in (1, 2, 3)}
    readouts = {
        "most": readout("prompt", "max"),
        "mean": readout("prompt", "mean"),
        "ema": readout("answer", "ema_max", 3.0),
        "now": readout("output"),
        "top": readout("prompt", "top_k_mean", k_tokens=5),
        "window": readout("prompt", "sliding_max", window_tokens=BLOCK + 3),
        "cusum": readout("prompt", "cusum_max", reference_logit=-0.5, drift_logits=0.1),
    }
    rules = [
        {"id": "r", "phase": phase, "when": NEVER, "then": {"action": "block"}}
        for phase in ("prompt", "output")
    ]
    policies = [
        policy(f"on-{each['phase']}", [each], {"x": "p/most", "y": "q/mean"}) for each in rules
    ]
    probes = {
        "p": probe("p", {1: rows[1], 3: rows[3]}, readouts),
        "q": probe("q", {2: rows[2]}, readouts, bias=0.5),
    }
    loaded = Catalog(vectors={"v": vector("v", (1, 2), norm=6.0)}, probes=probes)
    allowed = {"max_norm_ratio": 1e6, "max_wait_ms": 60_000} | limits
    return make_plan(loaded, policies, limits=allowed)


POLICIES = ("on-prompt", "on-output")


@dataclass(frozen=True)
class Asked:
    """A random request on a beginning of one long text, or on an answer to it and what follows."""

    length: int
    is_turn_two: bool
    steer: tuple[SteerTerm, ...]
    policies: tuple[str, ...]
    max_tokens: int
    arrives: int = 0
    abort_after: int | None = None


requests = st.builds(
    Asked,
    length=st.sampled_from([5, BLOCK, BLOCK + 9, 2 * BLOCK + 1, LONGEST]),
    is_turn_two=st.booleans(),
    steer=st.sampled_from([(), (), (V_ALL,), (V_PROMPT,)]),
    policies=st.sampled_from([POLICIES, ("on-prompt",), ("on-output",)]),
    max_tokens=st.integers(1, 2 * BLOCK),
    arrives=st.integers(0, 5),
    abort_after=st.none() | st.integers(1, 6),
)

MET: Counter[str] = Counter()
_numbers = iter(range(1 << 30))


@pytest.fixture(scope="module", params=["sync", "async"])
def served(request: pytest.FixtureRequest, qwen3: Path) -> Iterator[Engine]:
    """An engine whose cache holds two of the longest requests."""
    MET.clear()
    scheduling = forced_async() if request.param == "async" else nullcontext()
    with (
        scheduling,
        engine(
            qwen3,
            watched_plan(),
            enable_prefix_caching=True,
            num_gpu_blocks_override=8,
            max_num_batched_tokens=BLOCK + 12,
            max_num_seqs=6,
            max_model_len=2 * LONGEST,
        ) as started,
    ):
        yield started
    for what in ("preempted", "cached", "compared", "aborted", "steered and cached"):
        assert MET[what] >= 3, f"the batches hardly met this: {what}, {dict(MET)}"


def text_of(asked: Asked, started: Engine) -> list[int]:
    """The tokens of a prompt; a second turn has a greedy answer in it, which is the model's own."""
    if not asked.is_turn_two:
        return SHARED[: asked.length]
    if not hasattr(started, "answer"):
        params = started.params(max_tokens=BLOCK)
        started.answer = started.tokens([SHARED[: BLOCK + 9]], params)[0]  # type: ignore[attr-defined]
        started.reset_cache()
    return [*SHARED[: BLOCK + 9], *started.answer, *SHARED[: asked.length]][: LONGEST + 4]  # type: ignore[attr-defined]


def run(started: Engine, batch: list[Asked]) -> dict[int, tuple[Record, int]]:
    """Closing record and cached tokens of each request of a batch that was not aborted."""
    tag, step, names = f"c{next(_numbers)}", 0, {}
    waiting = dict(enumerate(batch))
    prompts = [text_of(each, started) for each in batch]
    hits: dict[int, int] = {}
    before = len(started.emissions)
    while waiting or started.llm.llm_engine.has_unfinished_requests():
        for index in [i for i, each in waiting.items() if each.arrives <= step]:
            each = waiting.pop(index)
            names[f"{tag}-{index}"] = index
            params = started.params(
                steer=each.steer,
                policies=each.policies,
                decision_id=f"{tag}-{index}",
                max_tokens=each.max_tokens,
            )
            started.add(f"{tag}-{index}", prompts[index], params)
        for name, index in names.items():
            if batch[index].abort_after == step:
                started.abort(name)
        for output in started.step():
            if output.finished:
                hits[names[output.request_id]] = output.num_cached_tokens or 0
        step += 1
    if len(batch) > 1:
        MET["aborted"] += len(batch) - len(hits)
        MET["cached"] += sum(map(bool, hits.values()))
        MET["steered and cached"] += sum(
            bool(hit and batch[index].steer) for index, hit in hits.items()
        )
        for name in names:
            fed = [
                start
                for each in started.emissions[before:]
                for request_id, start in zip(each.request_ids, each.starts, strict=True)
                if request_id.startswith(name)
            ]
            MET["preempted"] += any(later <= earlier for earlier, later in pairwise(fed))
    return {index: (started.closing(f"{tag}-{index}"), hit) for index, hit in hits.items()}


@pytest.mark.engine
@pytest.mark.timeout(900)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batch=st.lists(requests, min_size=2, max_size=6))
def test_a_request_is_scored_in_any_batch_as_on_an_empty_cache(
    served: Engine, batch: list[Asked]
) -> None:
    for index, (record, _) in run(served, batch).items():
        served.reset_cache()
        each = batch[index]
        again = Asked(each.length, each.is_turn_two, each.steer, each.policies, each.max_tokens)
        [(alone, hit)] = run(served, [again]).values()
        assert hit == 0 and alone.unscored_tokens == record.unscored_tokens == {}
        assert record.scored_tokens == alone.scored_tokens
        assert record.values == pytest.approx(alone.values, abs=1e-4)
        MET["compared"] += 1
    served.reset_cache()


@pytest.mark.engine
def test_choices_of_one_prompt_share_its_blocks_in_the_step_that_computes_them(
    qwen3: Path,
) -> None:
    prompt = SHARED[: 2 * BLOCK + 5]
    with engine(qwen3, watched_plan(), enable_prefix_caching=True) as started:
        for index in range(5):
            params = started.params(policies=POLICIES, decision_id=f"d{index}", max_tokens=3)
            started.add(f"d{index}", prompt, params)
        outputs = started.drain()
        records = [started.closing(f"d{index}") for index in range(5)]
        [first] = [each for each in started.emissions if any(c > 1 for c in each.counts)]
    assert sorted(each.num_cached_tokens for each in outputs.values()) == [0, *[2 * BLOCK] * 4]
    assert sorted(first.counts) == [*[5] * 4, 2 * BLOCK + 5], "all of them in one step"
    assert all(each.values == pytest.approx(records[0].values, abs=1e-5) for each in records)
    assert all(each.scored_tokens == records[0].scored_tokens for each in records)
    assert all(each.unscored_tokens == {} for each in records)


@pytest.mark.engine
def test_rows_are_gone_with_the_cache_and_need_room(qwen3: Path) -> None:
    prompt = SHARED[: 2 * BLOCK + 5]
    with engine(qwen3, watched_plan(), enable_prefix_caching=True) as started:
        params = started.params(policies=POLICIES, max_tokens=3)

        def hit() -> int:
            [output] = started.run([prompt], params)
            assert started.closing().unscored_tokens == {}
            return int(output.num_cached_tokens)

        assert (hit(), hit()) == (0, 2 * BLOCK)
        reads = started.scheduler._cached_reads
        assert len(reads._store) == 2
        started.reset_cache()
        assert len(reads._store) == 0
        assert (hit(), hit()) == (0, 2 * BLOCK)
        one_block = BLOCK * 3 * 4
        reads._store = ReadStore(one_block)
        # Of two blocks the first was read first and goes first: without it there is no beginning.
        assert (hit(), hit()) == (0, 0)


@pytest.mark.engine
def test_without_room_for_rows_such_requests_take_nothing_from_the_cache(qwen3: Path) -> None:
    plan = watched_plan(read_cache_mib=0)
    with engine(qwen3, plan, enable_prefix_caching=True) as started:
        for policies, hits in ((POLICIES, [0, 0]), ((), [2 * BLOCK])):
            params = started.params(policies=policies, max_tokens=3)
            found = [started.run([SHARED[: 2 * BLOCK + 5]], params)[0] for _ in hits]
            assert [each.num_cached_tokens for each in found] == hits


SIZE, COLUMNS = 4, 3


@dataclass
class FakeRequest:
    """What is looked at of vLLM's request; hashes are as long as its tokens reach."""

    request_id: str
    tokens: list[int]
    num_prompt_tokens: int
    block_hashes: list[bytes] = field(default_factory=list)

    def hash(self) -> None:
        full = len(self.tokens) // SIZE
        self.block_hashes[:] = [bytes(self.tokens[: (b + 1) * SIZE]) for b in range(full)]


def row_of(tokens: list[int]) -> np.ndarray:
    """What is read at the last of these tokens: a function of all of them, as activations are."""
    seed = sum((i + 1) * token for i, token in enumerate(tokens))
    return np.random.default_rng(seed).normal(size=COLUMNS).astype(np.float32)


def fed(request: FakeRequest, start: int, stop: int) -> Emissions:
    rows = [row_of(request.tokens[: at + 1]) for at in range(start, stop)]
    return Emissions((request.request_id,), (start,), (stop - start,), np.array(rows))


class StepScores:
    """Where folding stands, and the rows that it was given."""

    def __init__(self) -> None:
        self.cursor: dict[str, int] = {}
        self.rows: dict[str, list[np.ndarray]] = {}

    def fold(self, emissions: Emissions | None) -> None:
        if emissions is None:
            return
        first = 0
        runs = (emissions.request_ids, emissions.starts, emissions.counts)
        for name, start, count in zip(*runs, strict=True):
            assert start == self.cursor[name], "a gap, or twice"
            self.rows[name] += list(emissions.scores_TE[first : first + count])
            self.cursor[name] += count
            first += count


def made(*, budget_bytes: int = 1 << 20) -> tuple[CachedReads, StepScores]:
    folded = StepScores()
    return CachedReads(ReadStore(budget_bytes), SIZE, folded.cursor.get), folded


def asked(reads: CachedReads, folded: StepScores, name: str, tokens: list[int]) -> FakeRequest:
    request = FakeRequest(name, tokens, len(tokens))
    request.hash()
    folded.cursor[name], folded.rows[name] = 0, []
    reads.follow(request, sees_all=True)
    return request


def steps(request: FakeRequest, start: int, cuts: list[int]) -> list[tuple[int, int]]:
    inside = sorted({cut for cut in cuts if start < cut < len(request.tokens)})
    return list(pairwise([start, *inside, len(request.tokens)]))


texts = st.lists(st.integers(0, 1), min_size=1, max_size=4 * SIZE)


@given(batch=st.lists(st.tuples(texts, st.lists(st.integers(1, 4 * SIZE), max_size=4)), max_size=6))
def test_whatever_is_skipped_is_folded_with_the_rows_of_the_same_tokens(
    batch: list[tuple[list[int], list[int]]],
) -> None:
    """One after the other, cut into any chunks, over a vocabulary in which beginnings repeat."""
    reads, folded = made()
    for number, (tokens, cuts) in enumerate(batch):
        request = asked(reads, folded, str(number), tokens)
        most = reads.bound(request)
        assert most is not None
        start = min(most * SIZE, (len(tokens) - 1) // SIZE * SIZE)
        reads.found(request, start)
        for begin, end in steps(request, start, cuts):
            reads.given(request, begin, end)
            reads.planned({request.request_id})
            emissions = fed(request, begin, end)
            folded.fold(reads.take(emissions, reads.life))
            folded.fold(emissions)
        want = [row_of(tokens[: at + 1]) for at in range(len(tokens))]
        np.testing.assert_array_equal(folded.rows[request.request_id], want)
        reads.forget(request.request_id)
    assert reads._entries == {} and not reads._promises and not reads._awaited


def test_a_block_under_way_may_be_taken_and_one_that_was_not_planned_may_not() -> None:
    reads, folded = made()
    tokens = list(range(2 * SIZE + 1))
    first, second = (asked(reads, folded, name, tokens) for name in ("first", "second"))
    assert reads.bound(second) == 0
    reads.given(first, 0, len(tokens))
    assert reads.bound(second) == 2
    reads.planned(())  # preempted before the step was complete
    assert reads.bound(second) == 0 and not reads._promises
    reads.given(first, 0, len(tokens))
    reads.planned({"first"})
    assert reads.bound(second) == 2


def test_who_took_a_block_of_one_that_is_aborted_still_gets_its_rows() -> None:
    reads, folded = made(budget_bytes=1)
    tokens = list(range(2 * SIZE + 1))
    first, second = (asked(reads, folded, name, tokens) for name in ("first", "second"))
    reads.given(first, 0, len(tokens))
    reads.found(second, 2 * SIZE)
    reads.given(second, 2 * SIZE, len(tokens))
    reads.planned({"first", "second"})
    reads.forget("first")
    del folded.cursor["first"]
    one, other = fed(first, 0, len(tokens)), fed(second, 2 * SIZE, len(tokens))
    skipped = reads.take(
        Emissions(
            ("second", "first"),
            (2 * SIZE, 0),
            (1, len(tokens)),
            np.concatenate([other.scores_TE, one.scores_TE]),
        ),
        reads.life,
    )
    assert skipped is not None and skipped.request_ids == ("second",)
    np.testing.assert_array_equal(skipped.scores_TE, one.scores_TE[: 2 * SIZE])
    assert list(reads._entries) == ["second"]


def test_what_a_rule_must_see_and_nobody_has_is_no_score() -> None:
    reads, folded = made()
    tokens = list(range(2 * SIZE + 1))
    first, second = (asked(reads, folded, name, tokens) for name in ("first", "second"))
    reads.given(first, 0, len(tokens))
    reads.found(second, 2 * SIZE)
    reads.given(second, 2 * SIZE, len(tokens))
    reads.planned({"first", "second"})
    life = reads.life
    reads.clear()
    assert reads.take(fed(first, 0, len(tokens)), life) is None and not len(reads._store)
    skipped = reads.take(fed(second, 2 * SIZE, len(tokens)), life)
    assert skipped is not None and np.isnan(skipped.scores_TE).all()
    assert skipped.counts == (2 * SIZE,)


def test_a_block_is_kept_when_its_last_token_is_hashed() -> None:
    reads, folded = made()
    tokens = list(range(SIZE))
    request = asked(reads, folded, "r", tokens)
    reads.given(request, 0, SIZE)
    request.block_hashes.clear()  # the last token is accepted in this very step
    reads.take(fed(request, 0, SIZE), reads.life)
    assert not len(reads._store)
    request.hash()
    reads.settle()
    assert request.block_hashes[0] in reads._store


def test_answers_are_kept_token_by_token_and_a_gap_keeps_none() -> None:
    reads, folded = made()
    request = asked(reads, folded, "r", list(range(3 * SIZE)))
    for at in (*range(SIZE + 1), *range(SIZE + 2, 3 * SIZE)):
        reads.given(request, at, at + 1)
        reads.take(fed(request, at, at + 1), reads.life)
    kept = [each in reads._store for each in request.block_hashes]
    assert kept == [True, False, True]


def test_who_waits_in_the_queue_takes_no_room_for_rows() -> None:
    reads, folded = made()
    waiting = [asked(reads, folded, str(number), [0, 1]) for number in range(100)]
    reads.take(fed(waiting[0], 0, 1), reads.life)
    assert len(reads._tail_CSE) == 0
    for each in waiting:
        reads.given(each, 0, 2)
        reads.forget(each.request_id)
    assert len(reads._tail_CSE) == 64, "each gives its room back"


def test_the_store_lets_go_of_what_was_used_least_recently() -> None:
    rows = np.zeros((SIZE, COLUMNS), np.float32)
    store = ReadStore(2 * rows.nbytes)
    for name in (b"a", b"b"):
        store.put(name, rows)
    assert store.get(b"a") is not None
    store.put(b"c", rows)
    assert [each in store for each in (b"a", b"b", b"c")] == [True, False, True]
    store.put(b"c", rows)
    assert store.size_bytes == 2 * rows.nbytes and len(store) == 2
