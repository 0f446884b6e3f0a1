"""From a loaded model to its decoder: by the table, or by structure.

Of unknown decoder blocks a tiny forward pass shows the layout. Names and types propose, numbers
decide: a part is taken for what attention or MLP add to the stream only if the stream behind the
block is the one before it plus these.

Shape suffixes: T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import TypeGuard

from torch import Tensor, nn
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.layers.linear import LinearBase

from pilothouse.engine.hooks.decoder import Decoder
from pilothouse.engine.hooks.hook_point import Values, read_point
from pilothouse.engine.hooks.hook_trial import Run, model_eps, second_value
from pilothouse.engine.hooks.layouts import LAYOUTS, Layout
from pilothouse.engine.hooks.self_check import check_hook_points
from pilothouse.engine.hooks.tiny_forward import tiny_forward
from pilothouse.engine.vllm.config_protocols import VllmConfig
from pilothouse.errors import EngineError
from pilothouse.types import Site


def open_decoder(model: nn.Module, vllm_config: VllmConfig) -> Decoder:
    """Return the decoder of a loaded model: its entry in the table, or else what is found in it.

    Inside a multimodal wrapper the language model is meant. Finding takes a few tiny passes.

    Raises:
        EngineError: no decoder blocks are found, or an entry's path leads nowhere.
    """
    model_config = vllm_config.model_config
    architecture: str = model_config.architecture
    config, d_model = model_config.hf_text_config, model_config.get_hidden_size()
    entry = _entry(model, architecture)
    if entry is not None:
        inner, name, layout = entry
        blocks = _blocks_at(inner, name, layout)
        return Decoder(
            architecture, blocks, [layout] * len(blocks), config, d_model, f"table entry {name}"
        )
    path, found = find_blocks(model, model_config.get_total_num_hidden_layers())
    decoder = Decoder(
        architecture, list(found), [], config, d_model, f"found by structure at {path}"
    )
    layouts = discover_layouts(decoder, partial(tiny_forward, model, vllm_config))
    return Decoder(architecture, decoder.blocks, layouts, config, d_model, decoder.origin)


def check_model(
    model: nn.Module, vllm_config: VllmConfig, decoder: Decoder, wanted: Iterable[tuple[int, Site]]
) -> None:
    """The self-check of a loaded model: `check_hook_points` with tiny passes through it."""
    check_hook_points(decoder, partial(tiny_forward, model, vllm_config), wanted)


def _entry(model: nn.Module, architecture: str) -> tuple[nn.Module, str, Layout] | None:
    """(the model that has the blocks, the entry's name, the entry), if the table has one."""
    inner = _language_model(model)
    for candidate, name in (
        (model, type(model).__name__),
        (model, architecture),
        (inner, type(inner).__name__),
    ):
        layout = LAYOUTS.get(name)
        is_transformers = type(candidate).__name__.startswith("Transformers")
        if layout is not None and layout.transformers == is_transformers:
            return candidate, name, layout
    return None


def _language_model(model: nn.Module) -> nn.Module:
    get = getattr(model, "get_language_model", None)
    inner = get() if callable(get) else getattr(model, "language_model", model)
    return inner if isinstance(inner, nn.Module) else model


def _blocks_at(model: nn.Module, name: str, layout: Layout) -> list[nn.Module]:
    try:
        return list(attrgetter(layout.blocks)(model))
    except AttributeError as error:
        raise EngineError(
            f"the entry {name} of LAYOUTS says that decoder blocks are at {layout.blocks}, but "
            f"{type(model).__name__} has no such modules: {error}"
        ) from error


ROUNDINGS = 8
STREAM_ONLY = Layout(
    attention_out=None, heads=None, mid=None, mlp_out=None, neurons=None, deferred=False
)


def discover_layouts(decoder: Decoder, run: Run) -> list[Layout]:
    """Return a layout for each block of this pipeline stage; parts that do not add up are left out.

    A few tiny passes. `decoder.layouts` is not looked at.

    Raises:
        EngineError: blocks hand on two tensors whose use cannot be told.
    """
    layers = decoder.local_layers()
    start = replace(decoder, layouts=[STREAM_ONLY] * len(decoder.blocks))
    deferred = second_value(start, layers[(len(layers) - 1) // 2], run) == "added"
    base = replace(STREAM_ONLY, deferred=deferred)
    layouts = [base] * len(decoder.blocks)
    start = replace(decoder, layouts=layouts)
    eps = model_eps(decoder)

    def infer(layer: int) -> Callable[[BlockPass], None]:
        def done(seen: BlockPass) -> None:
            layouts[layer] = infer_layout(seen, base)

        return done

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(observe(start, layer, eps, infer(layer)))
        run()
    return layouts


def infer_layout(seen: BlockPass, base: Layout) -> Layout:
    """Return the layout that the numbers of one pass allow; `base` where they allow none. Pure."""
    attention, mlp = _summands(seen)
    layout, width = base, seen.behind_TD.shape[-1]
    if attention is not None:
        mixer = next(part for part in seen.parts if holds_mixer(part.module))
        heads = None if _is_state_space(mixer.module) else _projection(mixer, width)
        layout = replace(layout, attention_out=attention.name, heads=heads)
    if mlp is not None:
        layout = replace(layout, mlp_out=mlp.name, neurons=_neurons(seen, mlp, width))
    if attention is not None and mlp is not None:
        layout = replace(layout, mid=_receiver(seen, attention, base.deferred))
    return layout


def _summands(seen: BlockPass) -> tuple[Part | None, Part | None]:
    """(what attention adds, what the MLP adds): the first parts whose sum is the difference."""
    mixers = [i for i, part in enumerate(seen.parts) if holds_mixer(part.module)]
    attention = seen.parts[mixers[0] :] if mixers else []
    for first in attention:
        for second in seen.parts:
            if second is not first and _adds_up(seen, first, second):
                return first, second
    for first in attention:
        if _adds_up(seen, first):
            return first, None
    for second in seen.parts if not mixers else []:
        if _adds_up(seen, second):
            return None, second
    return None, None


def _adds_up(seen: BlockPass, *parts: Part) -> bool:
    total_TD, size_TD = seen.before_TD, seen.before_TD.abs() + seen.behind_TD.abs()
    for part in parts:
        if part.gave_TD is None or part.gave_TD.shape != total_TD.shape:
            return False
        total_TD, size_TD = total_TD + part.gave_TD, size_TD + part.gave_TD.abs()
    return _close(seen.behind_TD, total_TD, size_TD, seen.eps)


def _receiver(seen: BlockPass, attention: Part, deferred: bool) -> str | None:
    """Return the part that is given the stream between attention and MLP, as one or two tensors."""
    assert attention.gave_TD is not None
    want_TD, count = seen.before_TD + attention.gave_TD, 2 if deferred else 1
    size_TD = seen.before_TD.abs() + attention.gave_TD.abs()
    for part in seen.parts[seen.parts.index(attention) + 1 :]:
        given = part.given[:count]
        if len(given) == count and all(each.shape == want_TD.shape for each in given):
            got_TD = sum(given[1:], given[0])
            if _close(got_TD, want_TD, 2 * size_TD, seen.eps):
                return part.name
    return None


def _neurons(seen: BlockPass, mlp: Part, width: int) -> str | None:
    """Return the projection of the MLP: in the part that is added, or in one before it."""
    for part in reversed(seen.parts[: seen.parts.index(mlp) + 1]):
        if holds_mixer(part.module) or _has_experts(part.module):
            return None
        name = _projection(part, width)
        if name is not None:
            return name
    return None


def _projection(part: Part, width: int) -> str | None:
    """Return the last projection back to the stream in a part; under LoRA its wrapper's name."""
    names = [name for name, module in part.module.named_modules() if _gives(module, width)]
    if not names:
        return None
    return f"{part.name}.{names[-1]}".rstrip(".").removesuffix(".base_layer")


def _gives(module: nn.Module, width: int) -> bool:
    linear = getattr(module, "base_layer", module)
    return isinstance(linear, LinearBase) and linear.output_size == width


def _has_experts(module: nn.Module) -> bool:
    return any("MoE" in type(each).__name__ for each in module.modules())


def _is_state_space(module: nn.Module) -> bool:
    return any(
        isinstance(each, AttentionLayerBase) and hasattr(each, "mamba_type")
        for each in module.modules()
    )


def _close(got_TD: Tensor, want_TD: Tensor, size_TD: Tensor, eps: float) -> bool:
    return bool(((got_TD - want_TD).abs() <= ROUNDINGS * eps * size_TD + 1e-30).all())


def find_blocks(model: nn.Module, num_layers: int) -> tuple[str, nn.ModuleList]:
    """Return the dotted path and the list of decoder blocks: as long as the text model has layers.

    Of several such lists those count whose blocks hold vLLM's attention (or state-space) layers,
    and of these the one with the most parameters.

    Raises:
        EngineError: there is none.
    """
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    decoders = [each for each in lists if holds_mixer(each[1])]
    if not decoders:
        raise EngineError(
            f"{type(model).__name__} has no list of {num_layers} decoder blocks with attention "
            f"layers; lists of that length: {[path for path, _ in lists]}"
        )
    return max(decoders, key=lambda each: sum(p.numel() for p in each[1].parameters()))


def holds_mixer(module: nn.Module) -> bool:
    """Tell whether an attention or state-space layer of vLLM's is inside."""
    return any(isinstance(each, AttentionLayerBase) for each in module.modules())


@dataclass
class Part:
    """A module of a block: the tensors it was given and what it gave, float32."""

    name: str
    module: nn.Module
    given: list[Tensor] = field(default_factory=list)
    gave_TD: Tensor | None = None


@dataclass
class BlockPass:
    """The stream before and behind a block, float32, and its parts in the order of their calls.

    `eps` is the relative rounding of the model's dtype.
    """

    before_TD: Tensor
    behind_TD: Tensor
    parts: list[Part]
    eps: float


def observe(
    decoder: Decoder, layer: int, eps: float, done: Callable[[BlockPass], None]
) -> Callable[[], None]:
    """Have `done` called when a block is through; returns what takes the hooks out again."""
    block, before = decoder.blocks[layer], decoder.point(layer, "resid_pre")
    behind = decoder.point(layer, "resid_post")
    parts: list[Part] = []
    entered: list[Tensor] = []

    def into(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        entered.append(_sum(*read_point(before, (args, kwargs))))

    def out(_: nn.Module, __: object, output: Values) -> None:
        behind_TD = _sum(*read_point(behind, output))
        done(BlockPass(entered.pop(), behind_TD, parts.copy(), eps))
        parts.clear()

    with ExitStack() as stack:
        stack.callback(block.register_forward_pre_hook(into, with_kwargs=True).remove)
        for name, module in _children(block):
            stack.callback(_observe_part(parts, name, module))
        stack.callback(block.register_forward_hook(out).remove)
        return stack.pop_all().close


def _observe_part(parts: list[Part], name: str, module: nn.Module) -> Callable[[], None]:
    given: list[Tensor] = []

    def into(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        given[:] = [_rows(each) for each in (*args, *kwargs.values()) if _is_stream(each)]

    def out(_: nn.Module, __: object, output: object) -> None:
        parts.append(Part(name, module, given.copy(), _value(output)))

    with ExitStack() as stack:
        stack.callback(module.register_forward_pre_hook(into, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(out).remove)
        return stack.pop_all().close


def _children(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in block.named_children():
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            yield from ((f"{name}.{inner}", each) for inner, each in module.named_children())
        else:
            yield name, module


def _value(output: object) -> Tensor | None:
    """Return what a part gives: its first tensor, with the bias that some leave to their caller."""
    if not isinstance(output, tuple | list):
        return _rows(output) if _is_stream(output) else None
    if not output or not _is_stream(output[0]):
        return None
    second = output[1] if len(output) == 2 else None
    bias = second if isinstance(second, Tensor) and second.ndim == 1 else 0.0
    return _rows(output[0]) + bias


def _is_stream(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.ndim >= 2 and value.is_floating_point()


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1]).float().clone()


def _sum(hidden_TD: Tensor, residual_TD: Tensor | None) -> Tensor:
    total_TD = hidden_TD.float().clone()
    return total_TD if residual_TD is None else total_TD + residual_TD.float()
