"""What is asked of a capture, and when two captures are one."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.capture.order import SHARD_BYTES, CaptureOrder, capture_order, prompts_of
from pilothouse.errors import ConfigError
from pilothouse.types import Tap

ASKED: dict[str, Any] = {
    "layers": [0, 3],
    "sites": ["resid_post", "attn_out"],
    "positions": "all",
    "max_tokens": 5,
    "steer": (),
    "profile": None,
    "dtype": "float32",
    "rows_per_shard": None,
    "options": {},
    "num_layers": 4,
    "d_model": 64,
    "widths": {"mlp_neurons": 256},
}


def order(prompts: list[Any] | None = None, **changes: Any) -> CaptureOrder:
    return capture_order(prompts or ["a", "b"], **(ASKED | changes))


def test_places_are_every_layer_at_every_site_in_the_order_of_the_model() -> None:
    assert order().places == (
        Tap(0, "attn_out"),
        Tap(0, "resid_post"),
        Tap(3, "attn_out"),
        Tap(3, "resid_post"),
    )
    assert order(layers=[3, 0, 3]).places == order().places


@pytest.mark.parametrize(
    ("positions", "span"),
    [("prompt", (0, 10)), ("last_prompt", (9, 10)), ("output", (10, 14)), ("all", (0, 14))],
)
def test_spans_leave_out_the_last_sampled_token(positions: str, span: tuple[int, int]) -> None:
    max_tokens = 5 if positions in ("output", "all") else None
    assert order(positions=positions, max_tokens=max_tokens).span(10) == span


def test_a_file_has_about_256_mib_whatever_is_captured() -> None:
    for layers in ([0], [0, 1, 2, 3]):
        for dtype, size in (("float32", 4), ("bfloat16", 2)):
            made = order(layers=layers, dtype=dtype)
            row = len(made.places) * 64 * size
            assert SHARD_BYTES - row < made.rows_per_shard * row <= SHARD_BYTES
    wide = order(layers=[0], sites=["mlp_neurons", "attn_out"], dtype="float32")
    assert wide.rows_per_shard == SHARD_BYTES // (4 * (256 + 64))
    assert order(d_model=1 << 40).rows_per_shard == 1


def test_every_wrong_argument_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        order(layers=[True], sites=[], positions="x", dtype=None, rows_per_shard=1.5)
    assert [line.split(":")[0] for line in str(raised.value).splitlines()] == [
        "layers",
        "sites",
        "positions",
        "dtype",
        "rows_per_shard",
        "max_tokens",
    ]


def test_other_prompts_or_options_are_another_capture() -> None:
    orders = [order(), order(["b", "a"]), order(["a", "b", ""]), order(options={"priority": 1})]
    assert len({each.model_dump_json() for each in orders}) == 4
    assert order(["a", "b"]) == order(["a", "b"])


def test_prompts_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"prompts: number 1: .*not JSON serializable"):
        order(["a", {"prompt": "b", "multi_modal_data": object()}])


MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("given", "prompts", "chat"),
    [
        ("a", ["a"], False),
        (["a", "b"], ["a", "b"], False),
        ([1, 2], [{"prompt_token_ids": [1, 2]}], False),
        ([[1, 2], [3]], [{"prompt_token_ids": [1, 2]}, {"prompt_token_ids": [3]}], False),
        ({"prompt": "a"}, [{"prompt": "a"}], False),
        (MESSAGES, [MESSAGES], True),
        ([MESSAGES, MESSAGES], [MESSAGES, MESSAGES], True),
        ([], [], False),
    ],
)
def test_forms_of_prompts_are_told_apart(given: Any, prompts: list[Any], chat: bool) -> None:
    assert prompts_of(given) == (prompts, chat)


@pytest.mark.parametrize("given", [None, 3, [None], ["a", []], [MESSAGES, "a"], [[True]]])
def test_other_forms_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"^prompts: "):
        prompts_of(given)
