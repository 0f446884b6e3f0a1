"""The self-check at load: what a tap reads is what the model goes on with.

Shape suffixes: T tokens, D width of the tensor on this rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from pilothouse.engine.hooks.decoder import Decoder
from pilothouse.engine.hooks.hook_point import HookPoint
from pilothouse.engine.hooks.hook_trial import (
    LEAST_EFFECT,
    Run,
    Seen,
    Trial,
    distance,
    run_trial,
    second_value,
)
from pilothouse.errors import EngineError
from pilothouse.types import Site

ROUNDINGS = 8
"""How many roundings of the model's dtype a sum of a few terms may be off by."""
PROJECTION_ROUNDINGS = 64
"""The same for a projection called a second time."""
SUMMANDS: tuple[Site, ...] = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
ADVICE = (
    "Add a line for this architecture to LAYOUTS in pilothouse/engine/hooks/layouts.py (a "
    "Layout names the modules of one decoder block; docs/reference/architectures.md has an "
    "example), or take this site out of the configuration"
)


def check_hook_points(decoder: Decoder, run: Run, wanted: Iterable[tuple[int, Site]]) -> None:
    """Prove the hook points of `wanted` on this pipeline stage by tiny forward passes.

    Shown for every layer: what `resid_post` reads, plus a known edit, is what the next block
    receives; and a second value behind a block is used as the layout says. For layers with
    `attn_out`, `resid_mid` or `mlp_out` wanted: the stream behind the block is the one before it
    plus these, each with its edit. For `attn_heads` and `mlp_neurons`: the projection of what was
    read plus the edit is what the projection gave. Every point is passed exactly once.

    `run` is a forward pass of the loaded model, the same each time (`forward.tiny_forward`).

    Raises:
        EngineError: a point is not what it should be; says what to do.
    """
    here = [(layer, site) for layer, site in wanted if decoder.is_here(layer)]
    try:
        _check_second_value(decoder, run)
        trial = run_trial(decoder, _points(decoder, here), run)
        _check_handover(decoder, trial)
        for layer in sorted({layer for layer, site in here if site in SUMMANDS[1:4]}):
            _check_sums(trial, layer)
        for layer, site in trial.projected:
            _check_projection(trial, decoder.point(layer, site))
        _check_effect(decoder, run(), trial.final_TD)
    except EngineError as error:
        raise EngineError(
            f"self-check of {decoder.architecture} ({decoder.origin}) failed: {error}. {ADVICE}"
        ) from error


def _points(decoder: Decoder, wanted: Iterable[tuple[int, Site]]) -> list[HookPoint]:
    keys: set[tuple[int, Site]] = set()
    for layer in decoder.local_layers():
        keys |= {(layer, "resid_pre"), (layer, "resid_post")}
    for layer, site in wanted:
        keys |= {(layer, site)} - {(layer, "embed")}
        if site in SUMMANDS[1:4]:
            keys |= {(layer, each) for each in SUMMANDS if each in decoder.sites(layer)}
    return [decoder.point(layer, site) for layer, site in keys]


def _check_second_value(decoder: Decoder, run: Run) -> None:
    layers = decoder.local_layers()
    layer = layers[(len(layers) - 1) // 2]
    found = second_value(decoder, layer, run)
    deferred = decoder.layouts[layer].deferred
    if deferred != (found == "added"):
        raise EngineError(
            f"the layout says deferred={deferred}, but the second value behind layer {layer} is "
            + {"none": "absent", "added": "added to the first", "unused": "not used"}[found]
        )


def _check_handover(decoder: Decoder, trial: Trial) -> None:
    layers = decoder.local_layers()
    for layer, following in pairwise(layers):
        behind, received = trial.seen[layer, "resid_post"], trial.seen[following, "resid_pre"]
        size_TD = behind.size_TD + received.size_TD
        what = f"layer {following} does not receive resid_post of layer {layer} and its edit"
        _compare(trial, what, received.value_TD, behind.after_TD, size_TD)


def _check_sums(trial: Trial, layer: int) -> None:
    seen = {site: trial.seen[layer, site] for site in SUMMANDS if (layer, site) in trial.seen}
    total_TD, size_TD = seen["resid_pre"].after_TD, seen["resid_pre"].size_TD
    if "attn_out" in seen:
        total_TD, size_TD = _add(total_TD, size_TD, seen["attn_out"])
    if "resid_mid" in seen:
        mid = seen["resid_mid"]
        what = f"resid_mid of layer {layer} is not its input plus attn_out"
        _compare(trial, what, mid.value_TD, total_TD, size_TD + mid.size_TD)
        total_TD, size_TD = total_TD + mid.edit_TD, size_TD + mid.size_TD
        if layer in trial.witnessed:
            what = f"what follows resid_mid of layer {layer} does not receive it"
            _compare(trial, what, trial.witnessed[layer], total_TD, size_TD)
    if "mlp_out" in seen:
        total_TD, size_TD = _add(total_TD, size_TD, seen["mlp_out"])
    what = f"resid_post of layer {layer} is not its input plus attn_out and mlp_out"
    _compare(trial, what, seen["resid_post"].value_TD, total_TD, size_TD)


def _add(total_TD: Tensor, size_TD: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
    return total_TD + seen.after_TD, size_TD + seen.size_TD


def _check_projection(trial: Trial, point: HookPoint) -> None:
    key = (point.layer, point.site)
    given_TD = trial.projected[key]
    with torch.inference_mode():
        again = type(point.module).forward(
            point.module, trial.seen[key].after_TD.to(trial.seen[key].dtype)
        )
    again_TD = (again if isinstance(again, Tensor) else again[0]).float()
    error = distance(again_TD.reshape(given_TD.shape), given_TD)
    if error > PROJECTION_ROUNDINGS * trial.eps:
        raise EngineError(
            f"{point.site} of layer {point.layer}: {type(point.module).__name__} of what was read, "
            f"plus the edit, differs from its output by {error:.1e} of its length"
        )


def _check_effect(decoder: Decoder, plain_TD: Tensor, edited_TD: Tensor) -> None:
    effect = distance(edited_TD, plain_TD)
    if effect < LEAST_EFFECT:
        raise EngineError(
            f"edits at every layer of {decoder.architecture} move its result by {effect:.1e} of "
            "its length only"
        )


def _compare(trial: Trial, what: str, got_TD: Tensor, want_TD: Tensor, size_TD: Tensor) -> None:
    if got_TD.shape != want_TD.shape:
        raise EngineError(f"{what}: shapes {tuple(got_TD.shape)} and {tuple(want_TD.shape)}")
    error_TD = (got_TD - want_TD).abs()
    if bool((error_TD > ROUNDINGS * trial.eps * size_TD + 1e-30).any()):
        raise EngineError(
            f"{what}: they differ by up to {float(error_TD.max()):.1e}, where rounding explains "
            f"{float((ROUNDINGS * trial.eps * size_TD).max()):.1e}"
        )
