"""Every operator, everywhere it can hold, in one batch, against transformers with hooks.

Also a program (`python -m tests.support.parity.operators qwen3 --v2 --compiled --chunked`).

Shape suffixes: T positions, V vocabulary, D hidden size, L layers, K directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse.artifacts.catalog import Catalog
from pilothouse.artifacts.saes.cache import open_sae
from pilothouse.artifacts.transform import UNBOUNDED, Transform, build_transform
from pilothouse.config import SaeRef
from pilothouse.engine.launch import WORKER
from pilothouse.term import SteerTerm
from tests.reference import operators as oracle
from tests.reference.hf_hooks import HookedChange, HookedModel
from tests.support.engines.catalogs import probe, readout, vector
from tests.support.engines.harness import Engine, all_logprobs, engine, make_plan, random_rows
from tests.support.models.tiny_architectures import D_MODEL, NUM_LAYERS, make_architecture
from tests.support.parity.program import run_program
from tests.support.parity.sae_cases import BOOKS, feature_cases, write_saes
from tests.support.parity.steering import LEAST_MISS, LEAST_MOVE, TOLERANCE, V2_WORKER

OUTPUT_TOKENS = 6
LONG = 75
"""Tokens of two whole blocks and some more."""
LAYERS = (1, 2)
NORMS = (6.0, 7.0)
MARK = 250
"""A token that stands in some prompts."""
draw = np.random.default_rng(11)
Change = Callable[[np.ndarray], np.ndarray]
Wheres = list[tuple[int, int]]


def transform(name: str, form: Any, **arrays_LxD: np.ndarray) -> Transform:
    """A transform at LAYERS."""
    return build_transform(
        name,
        form=form,
        model_id="tiny",
        layers=LAYERS,
        arrays={key: each.astype(np.float32) for key, each in arrays_LxD.items()},
        residual_norms_L=np.array(NORMS, np.float32),
        created_by="tests",
    )


def orthonormal(count: int) -> np.ndarray:
    """[L, K, D]"""
    drawn = (np.linalg.qr(draw.normal(size=(D_MODEL, count)))[0].T for _ in LAYERS)
    return np.stack(list(drawn)).astype(np.float32).astype(np.float64)


SPAN, PLANE, ROTATION = orthonormal(3), orthonormal(2), orthonormal(4)
WEIGHTS, OFFSETS = draw.normal(size=(2, 4, D_MODEL)) * 0.2, draw.normal(size=(2, 4)) * 3
MAP, SHIFT = draw.uniform(0.3, 1.7, (2, D_MODEL)), draw.normal(size=(2, D_MODEL))
LOW, HIGH = np.full((2, D_MODEL), -0.5), np.full((2, D_MODEL), 0.6)
V = vector("v", LAYERS, seed=1, norm=6.0)
W = vector("w", LAYERS, seed=2, norm=9.0)
READ = random_rows(5, 1)[0] * 0.3
CATALOGUE = Catalog(
    vectors={
        "v": V,
        "w": W,
        "span": transform("span", "subspace", basis=SPAN),
        "plane": transform("plane", "plane", basis=PLANE),
        "reft": transform("reft", "lowrank", read=WEIGHTS - ROTATION, write=ROTATION, bias=OFFSETS),
        "act": transform("act", "diagonal", weight=MAP - 1, bias=SHIFT, low=LOW, high=HIGH),
        "neurons": transform(
            "neurons",
            "diagonal",
            weight=np.where(np.arange(D_MODEL) % 5 == 0, -1.0, 0.0) * np.ones((2, 1)),
            bias=np.where(np.arange(D_MODEL) % 5 == 0, 1.5, 0.0) * np.ones((2, 1)),
            low=np.full((2, D_MODEL), -UNBOUNDED),
            high=np.full((2, D_MODEL), UNBOUNDED),
        ),
    },
    probes={"p": probe("p", {LAYERS[1]: READ}, {"all": readout("answer")})},
)
RESERVED = {
    "taps": {
        "operators": [
            "add",
            "add_below",
            "ablate",
            "reflect",
            "set",
            "floor",
            "cap",
            "affine",
            "rotate",
            "rotate_adaptive",
            "slerp",
            "apply",
            "replace",
            "gate",
            "restore_norm",
            "token_unit",
            "feature",
        ]
    },
    "auth": {"client_steering": True},
}


@dataclass(frozen=True)
class Case:
    """A request, and what it should do to the stream at each layer, where."""

    name: str
    terms: tuple[dict[str, Any], ...]
    change: Callable[[int], Change] = field(repr=False)
    where: Callable[[list[int], int], Wheres]
    length: int = 21
    seed: int | None = None
    """Of its prompt; drawn from its name where there is none."""
    mistakes: Mapping[str, Callable[[int], Change]] = field(default_factory=dict, repr=False)
    """What else must not pass for it."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of its terms."""
        named = (
            (BOOKS[term["sae"]][1],) if "sae" in term else term.get("layers", LAYERS)
            for term in self.terms
        )
        return tuple(sorted({layer for layers in named for layer in layers}))


def by_token(definition: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[int], Change]:
    """A definition over one token and the index of the layer."""
    return lambda at: lambda h_TD: np.stack([definition(h, at) for h in h_TD])


def v(at: int) -> np.ndarray:
    """The vector's direction at the layer of that index."""
    return V.directions_LD[at].astype(np.float64)


def w(at: int) -> np.ndarray:
    """The other vector's."""
    return W.directions_LD[at].astype(np.float64)


END = 1 << 30
PROMPT: Callable[[list[int], int], Wheres] = lambda tokens, n: [(0, n)]  # noqa: E731, ARG005
OUTPUT: Callable[[list[int], int], Wheres] = lambda tokens, n: [(n, END)]  # noqa: E731, ARG005
ALL: Callable[[list[int], int], Wheres] = lambda tokens, n: [(0, END)]  # noqa: E731, ARG005


def case(
    name: str,
    term: dict[str, Any] | Sequence[dict[str, Any]],
    definition: Callable[[np.ndarray, int], np.ndarray],
    where: Callable[[list[int], int], Wheres] = ALL,
    **more: Any,
) -> Case:
    """A case; where it holds everywhere, its terms say so."""
    terms = [term] if isinstance(term, dict) else list(term)
    on = {id(PROMPT): "prompt", id(OUTPUT): "output", id(ALL): "all"}.get(id(where))
    placed = tuple(each if on is None else {"on": on} | each for each in terms)
    return Case(name, placed, by_token(definition), where, **more)


def added(h: np.ndarray, at: int) -> np.ndarray:
    """The plain addition that position cases use."""
    return oracle.add(h, v(at), 1.5)


def of_features() -> tuple[Case, ...]:
    """The cases with SAEs; some on the prompt or the output alone."""
    wheres = (ALL, OUTPUT, PROMPT)
    return tuple(
        case(
            each.name,
            each.terms,
            each.right,
            wheres[number % len(wheres)],
            mistakes={name: by_token(wrong) for name, wrong in each.mistakes.items()},
        )
        for number, each in enumerate(feature_cases(v(0), w(0)))
    )


GATE = {"probe": "p", "above": 0.3, "sharpness": 2.0}
CASES = (
    case("add", {"vector": "v", "scale": 1.5}, added, OUTPUT),
    case(
        "residual",
        {"vector": "w", "scale": 0.8, "unit": "residual"},
        lambda h, at: oracle.add(h, w(at) / np.linalg.norm(w(at)), 0.8 * (6.0 + at)),
        PROMPT,
    ),
    case(
        "norm kept",
        {"vector": "v", "scale": 2.0, "restore_norm": True},
        lambda h, at: oracle.restored(h, oracle.add(h, v(at), 2.0)),
    ),
    case(
        "never longer",
        {"vector": "v", "scale": 2.0, "restore_norm": "if_longer"},
        lambda h, at: oracle.shortened(h, oracle.add(h, v(at), 2.0)),
        OUTPUT,
    ),
    case(
        "token units",
        {"vector": "w", "scale": -0.7, "unit": "token"},
        lambda h, at: oracle.relative_add(h, w(at), -0.7),
    ),
    case(
        "add below",
        {"vector": "v", "op": "add_below", "scale": 1.5, "value": 0.2},
        lambda h, at: oracle.add_below(h, v(at), 1.5, 0.2),
    ),
    case("ablate", {"vector": "v", "op": "ablate"}, lambda h, at: oracle.ablate(h, v(at))),
    case("reflect", {"vector": "w", "op": "reflect"}, lambda h, at: oracle.reflect(h, w(at))),
    case("subspace", {"vector": "span"}, lambda h, at: oracle.ablate(h, SPAN[at]), OUTPUT),
    case(
        "two ablated",
        [{"vector": "v", "op": "ablate"}, {"vector": "w", "op": "ablate"}],
        lambda h, at: oracle.ablate(h, np.stack([v(at), w(at)])),
        PROMPT,
    ),
    case(
        "set",
        {"vector": "v", "op": "set", "value": 4.0},
        lambda h, at: oracle.set_projection(h, v(at), 4.0),
    ),
    case(
        "floor",
        {"vector": "v", "op": "floor", "value": 2.0},
        lambda h, at: oracle.floor_projection(h, v(at), 2.0),
        OUTPUT,
    ),
    case(
        "cap",
        {"vector": "v", "op": "cap", "value": -2.0},
        lambda h, at: oracle.cap_projection(h, v(at), -2.0),
        PROMPT,
    ),
    case(
        "affine",
        {"vector": "w", "op": "affine", "scale": -0.5, "value": 2.5},
        lambda h, at: oracle.affine(h, w(at), -0.5, 2.5),
    ),
    case(
        "rotate",
        {"vector": "plane", "value": 135.0},
        lambda h, at: oracle.rotate(h, PLANE[at], 135.0),
    ),
    case(
        "rotate adaptively",
        {"vector": "plane", "op": "rotate_adaptive", "value": 160.0},
        lambda h, at: oracle.rotate_adaptive(h, PLANE[at], 160.0),
        PROMPT,
    ),
    case(
        "slerp",
        {"vector": "v", "op": "slerp", "scale": 0.4},
        lambda h, at: oracle.slerp(h, v(at), 0.4),
    ),
    case(
        "LoReFT",
        {"vector": "reft"},
        lambda h, at: oracle.loreft(h, ROTATION[at], WEIGHTS[at], OFFSETS[at]),
        PROMPT,
    ),
    case(
        "AcT",
        {"vector": "act", "scale": 0.7},
        lambda h, at: oracle.linear_transport(h, MAP[at], SHIFT[at], LOW[at], HIGH[at], 0.7),
    ),
    case(
        "neurons",
        {"vector": "neurons"},
        lambda h, at: np.where(np.arange(D_MODEL) % 5 == 0, 1.5, h) + 0 * at,
        OUTPUT,
    ),
    case("replace", {"vector": "v", "op": "replace"}, lambda h, at: v(at) + 0 * h, OUTPUT),
    case(
        "token gate",
        {"vector": "v", "scale": 2.0, "layers": [LAYERS[1]], "gate": GATE},
        lambda h, at: oracle.gated_add(h, v(1), 2.0, float(READ @ h), 0.3, 2.0) + 0 * at,
    ),
    case(
        "all at once",
        [
            {"vector": "act"},
            {"vector": "reft"},
            {"vector": "v", "op": "ablate"},
            {"vector": "w", "scale": 1.0, "restore_norm": True},
        ],
        lambda h, at: oracle.restored(
            h,
            oracle.add(
                oracle.ablate(
                    oracle.loreft(
                        oracle.linear_transport(h, MAP[at], SHIFT[at], LOW[at], HIGH[at], 1.0),
                        ROTATION[at],
                        WEIGHTS[at],
                        OFFSETS[at],
                    ),
                    v(at),
                ),
                w(at),
                1.0,
            ),
        ),
    ),
    case(
        "last prompt token",
        {"vector": "v", "scale": 1.5, "on": "all", "positions": "last_prompt"},
        added,
        lambda tokens, n: [(n - 1, n)],  # noqa: ARG005
    ),
    case(
        "first",
        {"vector": "v", "scale": 1.5, "on": "prompt", "positions": {"first": 4}},
        added,
        lambda tokens, n: [(0, 4)],  # noqa: ARG005
    ),
    case(
        "last",
        {"vector": "v", "scale": 1.5, "on": "prompt", "positions": {"last": 3}},
        added,
        lambda tokens, n: [(n - 3, n)],  # noqa: ARG005
    ),
    case(
        "window",
        {"vector": "v", "scale": 1.5, "on": "output", "positions": {"window": [1, 3]}},
        added,
        lambda tokens, n: [(n + 1, n + 3)],  # noqa: ARG005
    ),
    case(
        "indices",
        {"vector": "v", "scale": 1.5, "on": "all", "positions": {"indices": [0, 7, -2, 23]}},
        added,
        lambda tokens, n: [(0, 1), (7, 8), (n - 2, n - 1), (23, 24)],  # noqa: ARG005
    ),
    case(
        "after a mark",
        {"vector": "v", "scale": 1.5, "on": "all", "positions": {"after": [MARK]}},
        added,
        lambda tokens, n: [(tokens.index(MARK) + 1, END)],  # noqa: ARG005
    ),
    *of_features(),
)


def prompt_of(each: Case) -> list[int]:
    """A fixed random prompt with a mark in the middle."""
    drawn = np.random.default_rng(sum(map(ord, each.name)) if each.seed is None else each.seed)
    tokens = drawn.integers(3, 249, each.length).tolist()
    tokens[each.length // 2] = MARK
    return tokens


def changes(each: Case, tokens: list[int], layer_shift: int = 0) -> list[HookedChange]:
    """The reference edits of a case."""
    return [
        HookedChange(layer + layer_shift, each.change(LAYERS.index(layer)), start, stop)
        for layer in each.layers
        for start, stop in each.where(tokens, each.length)
    ]


def wrong_changes(each: Case, tokens: list[int]) -> dict[str, list[HookedChange]]:
    """The neighbouring layer, and the positions that were not meant."""
    right = changes(each, tokens)
    elsewhere = [
        replace(change, start=start, stop=stop)
        for change in changes(replace(each, where=ALL), tokens)
        for start, stop in _outside([(c.start, c.stop) for c in right], len(tokens))
    ]
    found = {"neighbouring layer": changes(each, tokens, 1 if LAYERS[-1] + 1 < NUM_LAYERS else -1)}
    found |= {"other positions": elsewhere} if elsewhere else {"no edit": []}
    mistaken = {
        name: changes(replace(each, change=wrong), tokens) for name, wrong in each.mistakes.items()
    }
    return found | mistaken


def _outside(held: Wheres, count: int) -> Wheres:
    inside = {i for start, stop in held for i in range(start, min(stop, count))}
    return [(i, i + 1) for i in range(count - 1) if i not in inside]


def check(
    started: Engine, reference: HookedModel, cases: Sequence[Case] = CASES
) -> dict[str, float]:
    """All cases in one batch; each one's largest error.

    Raises:
        AssertionError: an error above the tolerance, or a case that could not have failed.
    """
    outputs = answers(started, cases)
    return {each.name: _check_case(each, outputs[each.name], reference) for each in cases}


def answers(started: Engine, cases: Sequence[Case] = CASES) -> dict[str, Any]:
    """The output of every case, all in one batch."""
    for each in cases:
        _ask(started, each)
    return started.drain()


def check_cached(started: Engine, reference: HookedModel) -> tuple[float, int]:
    """All cases on one long prompt, each after all the others, twice over a prefix cache.

    Returns:
        The largest error, and how many prompt tokens came out of the cache.

    Raises:
        AssertionError: as `check`: some case got keys and values that another one left.
    """
    cases = [replace(each, length=LONG, seed=1) for each in CASES]
    errors, cached = [], 0
    for turn in (cases, cases[::-1]):
        for each in turn:
            _ask(started, each)
            output = started.drain()[each.name]
            errors.append(_check_case(each, output, reference))
            cached += output.num_cached_tokens
    return max(errors), cached


def _ask(started: Engine, each: Case) -> None:
    terms = tuple(SteerTerm.model_validate(term) for term in each.terms)
    params = started.params(
        steer=terms, decision_id=each.name, logprobs=-1, max_tokens=OUTPUT_TOKENS
    )
    started.add(each.name, prompt_of(each), params)


def with_saes(catalog: Catalog, folder: Path) -> tuple[Catalog, dict[str, Any]]:
    """A catalog with the SAEs of the cases too, and its configuration's `saes`."""
    refs = write_saes(folder / "saes")
    opened = {name: open_sae(name, SaeRef.model_validate(ref)) for name, ref in refs.items()}
    return replace(catalog, saes=opened), refs


def starting(folder: Path, **settings: Any) -> AbstractContextManager[Engine]:
    """An engine with what every case needs."""
    loaded, saes = with_saes(CATALOGUE, folder)
    plan = make_plan(loaded, limits=LIMITS, saes=saes, **RESERVED)
    return engine(folder, plan, max_num_seqs=40, **settings)


def _check_case(each: Case, output: Any, reference: HookedModel) -> float:
    prompt = prompt_of(each)
    tokens = prompt + list(output.outputs[0].token_ids)
    assert len(tokens) == each.length + OUTPUT_TOKENS, f"{each.name}: ended early"
    got_TV = all_logprobs(output)

    def expected(edits: list[HookedChange]) -> np.ndarray:
        return reference.run(tokens, edits).logprobs_TV[each.length - 1 : -1]

    wanted_TV = expected(changes(each, tokens))
    error = float(np.abs(got_TV - wanted_TV).max())
    assert error <= TOLERANCE, f"{each.name}: log-probabilities differ by {error:.2e}"
    moved = float(np.abs(expected([]) - wanted_TV).max())
    assert moved >= LEAST_MOVE, f"{each.name}: the edit moves the reference by {moved:.3f}"
    for mistake, wrong in wrong_changes(each, tokens).items():
        missed = float(np.abs(got_TV - expected(wrong)).max())
        assert missed >= LEAST_MISS, f"{each.name}: {mistake} would pass ({missed:.1e})"
    return error


LIMITS = {"max_norm_ratio": 1e6, "max_rank": 8}


def run_check(
    name: str, folder: Path, *, v2: bool = False, compiled: bool = False, chunked: bool = False
) -> dict[str, float]:
    """Make the model, start one engine, check every case."""
    make_architecture(folder, name)
    with starting(
        folder,
        worker=V2_WORKER if v2 else WORKER,
        enforce_eager=not compiled,
        max_num_batched_tokens=40 if chunked else 1024,
    ) as started:
        return check(started, HookedModel(folder))


if __name__ == "__main__":
    run_program(run_check)
