"""An edit as one affine map: the same numbers as the edit itself, or a word on why it is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.artifacts.transform import build_transform
from pilothouse.artifacts.vector import build_vector
from pilothouse.edits.layer import Affine, LayerEdit, affine_of
from pilothouse.edits.program import compile_program
from pilothouse.edits.sources import Sources
from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import Tap

WIDTH = 12
DRAW = np.random.default_rng(5)


def draw(*shape: int) -> Any:
    return DRAW.normal(size=shape).astype(np.float32)


def sources() -> Sources:
    about: dict[str, Any] = {
        "model_id": "demo",
        "layers": (1,),
        "created_by": "a test",
        "residual_norms_L": np.array([3.0], np.float32),
    }
    edits: dict[str, Any] = {
        name: build_vector(name, directions_LD=draw(1, WIDTH), **about) for name in ("a", "b")
    }
    orthonormal, _ = np.linalg.qr(draw(WIDTH, 3))
    edits["space"] = build_transform(
        "space", form="subspace", arrays={"basis": orthonormal.T[None].astype(np.float32)}, **about
    )
    edits["plane"] = build_transform(
        "plane", form="plane", arrays={"basis": orthonormal.T[None, :2].astype(np.float32)}, **about
    )
    low = {"read": draw(1, 2, WIDTH), "write": draw(1, 2, WIDTH), "bias": draw(1, 2)}
    edits["low"] = build_transform("low", form="lowrank", arrays=low, **about)
    names = ("weight", "bias")
    diagonal = {name: draw(1, WIDTH) for name in names}
    diagonal |= {"low": np.full((1, WIDTH), -1e30), "high": np.full((1, WIDTH), 1e30)}
    diagonal = {name: each.astype(np.float32) for name, each in diagonal.items()}
    edits["diagonal"] = build_transform("diagonal", form="diagonal", arrays=diagonal, **about)
    return Sources(edits, num_layers=4)


SOURCES = sources()
LINEAR: list[dict[str, Any]] = [
    {"vector": "a", "scale": 1.5},
    {"vector": "b", "scale": -2.0, "unit": "residual"},
    {"vector": "a", "op": "ablate"},
    {"vector": "b", "op": "ablate", "scale": 0.4},
    {"vector": "a", "op": "reflect"},
    {"vector": "b", "op": "set", "value": 2.0},
    {"vector": "a", "op": "affine", "scale": 0.3, "value": -1.0},
    {"vector": "space", "op": "ablate"},
    {"vector": "low"},
    {"vector": "low", "scale": 0.5},
]


def compiled(*terms: dict[str, Any]) -> tuple[LayerEdit, float]:
    program = compile_program([SteerTerm.model_validate(each) for each in terms], SOURCES)
    assert program is not None
    return program.layers[Tap(1, "resid_post")], program.coefficient


@given(chosen=st.lists(st.sampled_from(LINEAR), min_size=1, max_size=3))
def test_the_map_is_the_edit(chosen: list[dict[str, Any]]) -> None:
    projected = [each["vector"] for each in chosen if each.get("op", "add") != "add"]
    if len(set(projected)) != len(projected):
        with pytest.raises(RequestError, match="parallel"):
            compiled(*chosen)
        return
    edit, coefficient = compiled(*chosen)
    affine = affine_of(edit, coefficient)
    assert isinstance(affine, Affine)
    h_TD = 3.0 * draw(20, WIDTH)
    got_TD = h_TD + (h_TD @ affine.right_RD.T) @ affine.left_DR.T + affine.constant_D
    assert np.allclose(got_TD, edit.apply(h_TD, coefficient), atol=1e-5)


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ({"vector": "a", "op": "floor", "value": 1.0}, "a gate"),
        ({"vector": "a", "op": "cap", "value": 1.0}, "a gate"),
        ({"vector": "a", "op": "add_below", "scale": 1.0, "value": 0.0}, "a gate"),
        ({"vector": "a", "op": "slerp", "scale": 0.3}, "slerp"),
        ({"vector": "a", "scale": 0.3, "unit": "token"}, "token's own length"),
        ({"vector": "a", "scale": 0.3, "restore_norm": True}, "looks at the token"),
        ({"vector": "plane", "value": 30.0}, "a turn in a plane"),
        ({"vector": "diagonal"}, "of full rank"),
        ({"vector": "a", "op": "replace"}, "of full rank"),
    ],
)
def test_what_looks_at_the_token_is_no_map(term: dict[str, Any], said: str) -> None:
    told = affine_of(*compiled(term))
    assert isinstance(told, str)
    assert said in told
