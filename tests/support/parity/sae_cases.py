"""Edits of SAE features for `operator_parity`: SAEs in files, requests, and what the book says.

Shape suffixes: D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.reference import operators as oracle
from tests.reference.sae import Book
from tests.support.artifacts import sae_files as files
from tests.support.models.tiny_architectures import D_MODEL

FEATURES = 96
Definition = Callable[[np.ndarray, int], np.ndarray]
Rules = dict[int, tuple[str, float, float | None]]
LARGEST = np.linspace(1.0, 5.0, FEATURES)
"""The features' `max_act`, of the SAE that has them."""


def book(form: str, seed: int, **changes: Any) -> Book:
    """An SAE of the tiny model's width, of which many features are on."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return draw.normal(size=shape).astype(np.float32).astype(np.float64)

    fields: dict[str, Any] = {
        "W_enc": normal(D_MODEL, FEATURES),
        "W_dec": normal(FEATURES, D_MODEL) * 0.5,
        "b_dec": normal(D_MODEL) * 0.1,
        "b_enc": normal(FEATURES) * 0.3,
        "form": form,
    }
    if form == "jumprelu":
        fields["threshold"] = np.abs(normal(FEATURES))
    if form == "gated":
        fields |= {"b_mag": normal(FEATURES) * 0.3, "r_mag": 0.3 * normal(FEATURES)}
    if form in ("topk", "abstopk"):
        fields["k"] = 24
    return Book(**(fields | changes))


JUMP = book("jumprelu", 21, subtracts_b_dec=True)
GATED = book("gated", 22)
PLAIN = book("relu", 23, scale=0.4)
NORMED = book("jumprelu", 24, norm="layer_norm", subtracts_b_dec=True)
CHOSEN = book("topk", 25, subtracts_b_dec=True)
SIGNED = book("abstopk", 26, norm="constant_norm")
BOOKS: Mapping[str, tuple[Book, int]] = {
    "jump": (JUMP, 1),
    "gated": (GATED, 1),
    "plain": (PLAIN, 2),
    "normed": (NORMED, 1),
    "chosen": (CHOSEN, 1),
    "signed": (SIGNED, 2),
}
"""Name -> the SAE, and the layer at which it is."""
NORM = float(np.sqrt(D_MODEL) / PLAIN.scale)


def write_saes(folder: Path) -> dict[str, dict[str, Any]]:
    """The SAEs as files; a configuration's `saes`."""
    refs = {}
    for name, (made, layer) in BOOKS.items():
        scaled = made.scale != 1.0
        place = files.saelens(
            folder / name,
            made,
            d_in=D_MODEL,
            d_sae=FEATURES,
            metadata={"model_name": "tiny", "hook_name": f"blocks.{layer}.hook_resid_post"},
            **({"normalize_activations": "expected_average_only_in"} if scaled else {}),
        )
        refs[name] = {"path": str(place), "average_norm": NORM if scaled else 6.0}
    files.save(folder / "jump" / "features.safetensors", {"max_act": LARGEST})
    files.write_json(folder / "jump" / "labels.json", {"5": "a label", "6": "another label"})
    return refs


def told(made: Book, rules: Rules) -> Definition:
    """What the textbook makes of one SAE's features."""
    return lambda h, at: made.edited(h, rules) + 0 * at


class FeatureCase(NamedTuple):
    """A request; what should come of it; and what must not pass for it."""

    name: str
    terms: tuple[dict[str, Any], ...]
    right: Definition
    mistakes: Mapping[str, Definition]


def single(
    name: str, sae: str, features: list[int], op: str, amount: float, above: float | None = None
) -> FeatureCase:
    """Features of one SAE, with as many others as the mistake."""
    made, field = BOOKS[sae][0], {"scale": "scale", "ablate": ""}.get(op, "value")
    term: dict[str, Any] = {"sae": sae, "feature": features, "op": op}
    term |= {field: amount} if field else {}
    term |= {} if above is None else {"above": above}
    rules: Rules = {each: (op, amount, above) for each in features}
    others: Rules = {(each + 37) % FEATURES: (op, amount, above) for each in features}
    mistakes = {"other features": told(made, others)}
    if above is not None:
        everywhere: Rules = {each: (op, amount, None) for each in features}
        mistakes["every token"] = told(made, everywhere)
    return FeatureCase(name, (term,), told(made, rules), mistakes)


def _lossy(h: np.ndarray, at: int) -> np.ndarray:
    """The SAE's own picture of the stream with the edit in it, its error lost."""
    codes = JUMP.codes(h)
    codes[[4, 9, 30]] = 6.0
    return JUMP.reconstruction(h, codes) + 0 * at


def _at_two(h: np.ndarray, at: int) -> np.ndarray:
    if at == 0:
        return JUMP.edited(h, {8: ("set", 5.0, None)})
    return PLAIN.edited(h, {8: ("set", 5.0, None), 70: ("add", 3.0, None)})


def _unnormalised(h: np.ndarray, at: int) -> np.ndarray:
    return replace(NORMED, norm="none").edited(h, {6: ("set", 4.0, None)}) + 0 * at


def _never_chosen(h: np.ndarray, at: int) -> np.ndarray:
    """As if every positive code were on."""
    rules: Rules = {each: ("scale", 3.0, None) for each in (11, 12, 13, 14)}
    return replace(CHOSEN, form="relu").edited(h, rules) + 0 * at


def _chosen_and_normed(h: np.ndarray) -> np.ndarray:
    first = CHOSEN.edited(h, {20: ("set", 6.0, None)})
    return first + NORMED.edited(h, {20: ("add", 3.0, None)}) - h


def _both(h: np.ndarray) -> np.ndarray:
    """Two SAEs at one tap: each reads the stream as it comes."""
    first, second = (
        JUMP.edited(h, {3: ("set", 6.0, None)}),
        GATED.edited(h, {3: ("add", 4.0, None)}),
    )
    return first + second - h


def feature_cases(v_D: np.ndarray, w_D: np.ndarray) -> tuple[FeatureCase, ...]:
    """Every operator, forms, groups, labels, several SAEs, and other edits beside them.

    Args:
        v_D, w_D: the directions of `v` and `w` at the layer of `jump`.
    """
    three = single("features set", "jump", [4, 9, 30], "set", 6.0)
    labelled = {"sae": "jump", "feature": "a label", "value": 1.5, "unit": "max_act"}
    share = 1.5 * float(LARGEST[5])
    jump = {"sae": "jump", "feature": 8, "value": 5.0}
    scaled = single("chosen features scaled", "chosen", [11, 12, 13, 14], "scale", 3.0)
    normed = single("a feature of a normalised token", "normed", [6], "set", 4.0)
    return (
        scaled._replace(mistakes={**scaled.mistakes, "all are on": _never_chosen}),
        normed._replace(mistakes={**normed.mistakes, "the token as it is": _unnormalised}),
        single("a chosen feature set", "chosen", [30], "set", 7.0),
        single("signed features", "signed", [5, 44], "scale", -2.0),
        single("signed features held up", "signed", list(range(20, 44, 3)), "floor", -0.25),
        FeatureCase(
            "a chosen feature beside one of a normalised token, and an ablation",
            (
                {"sae": "chosen", "feature": 20, "value": 6.0},
                {"sae": "normed", "feature": 20, "op": "add", "value": 3.0},
                {"vector": "v", "op": "ablate", "layers": [1]},
            ),
            lambda h, at: oracle.ablate(_chosen_and_normed(h), v_D) + 0 * at,
            {"no ablation": lambda h, at: _chosen_and_normed(h) + 0 * at},
        ),
        three._replace(mistakes={**three.mistakes, "the error lost": _lossy}),
        single("features scaled", "gated", [2, 40, 41], "scale", -1.5),
        single("features ablated", "plain", list(range(10, 18)), "ablate", 0.0),
        single("features added to", "plain", [7, 50], "add", 4.0),
        single("feature floored", "gated", [60], "floor", 5.0),
        single("features capped", "jump", list(range(50, 58)), "cap", 0.25),
        single("features stepped", "plain", [20, 33, 34, 35], "steer", -2.0),
        single("features set where on", "jump", list(range(60, 67)), "set", 6.0, above=2.0),
        FeatureCase(
            "a labelled feature",
            (labelled,),
            told(JUMP, {5: ("set", share, None)}),
            {"the raw value": told(JUMP, {5: ("set", 1.5, None)})},
        ),
        FeatureCase(
            "two SAEs at one tap",
            (
                {"sae": "jump", "feature": 3, "value": 6.0},
                {"sae": "gated", "feature": 3, "op": "add", "value": 4.0},
            ),
            lambda h, at: _both(h) + 0 * at,
            {"one of them": told(JUMP, {3: ("set", 6.0, None)})},
        ),
        FeatureCase(
            "two SAEs at two taps",
            (
                jump,
                {"sae": "plain", "feature": 8, "value": 5.0},
                {"sae": "plain", "feature": [70], "op": "add", "value": 3.0},
            ),
            _at_two,
            {},
        ),
        FeatureCase(
            "a feature, an ablation and an addition",
            (
                jump,
                {"vector": "v", "op": "ablate", "layers": [1]},
                {"vector": "w", "scale": 1.0, "layers": [1]},
            ),
            lambda h, at: oracle.add(
                oracle.ablate(JUMP.edited(h, {8: ("set", 5.0, None)}), v_D), w_D, 1.0 + 0 * at
            ),
            {
                "the ablation first": lambda h, at: oracle.add(
                    JUMP.edited(oracle.ablate(h, v_D), {8: ("set", 5.0, None)}), w_D, 1.0 + 0 * at
                )
            },
        ),
    )
