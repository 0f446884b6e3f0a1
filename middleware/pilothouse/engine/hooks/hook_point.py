"""A place in the model where a tap can read and edit: a module's input or its output.

Shape suffixes: T tokens, D width of the tensor on this rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from torch import Tensor, nn

from pilothouse.errors import EngineError
from pilothouse.types import Site, Tap

Call = Callable[[Tensor, Tensor | None], Tensor | None]
"""(hidden_TD, residual_TD or None) -> the new hidden_TD, or None for no edit."""

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""A module's arguments as a pre-hook gets them: positional, by keyword."""
Values = Inputs | Tensor | Sequence[Any]
"""A module's arguments, or its output."""

SITE_ORDER: tuple[Site, ...] = tuple(site for site in get_args(Site) if site != "logits")
"""The order in which hooks of one block are registered; two sites may share a module."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A parameter of a module's forward, by place and by name."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class HookPoint:
    """Where the tap of one (layer, site) sits.

    The true value is `scale * hidden + residual`; edits are added to `hidden`. With `side`
    "input" `hidden` and `residual` are arguments of the module, else elements of its output.
    `bias`: a residual counts only if it is a vector, which the module leaves its caller to add.
    `stream` is set where the stream exists only inside the block: the value is then the block's
    input, taken there, plus what this point reads.
    `width` is the last dimension on this rank: elements [start, start + width) of `total`.
    """

    layer: int
    site: Site
    module: nn.Module
    side: Literal["input", "output"]
    width: int
    start: int
    total: int
    hidden: Argument = Argument(0, "hidden_states")
    residual: Argument | None = None
    bias: bool = False
    scale: float = 1.0
    stream: HookPoint | None = None

    @property
    def order(self) -> tuple[int, int]:
        """Sorts points into the order of registration."""
        return Tap(self.layer, self.site).depth

    @property
    def is_sharded(self) -> bool:
        """Whether each tensor-parallel rank has its own part of a token."""
        return self.width < self.total

    @property
    def part(self) -> slice:
        """The elements that this rank has."""
        return slice(self.start, self.start + self.width)

    def register(self, call: Call) -> Callable[[], None]:
        """Have `call` see, and perhaps replace, the value of each forward pass.

        Plain hooks, which torch.compile traces into the graph: register before the first
        compiled pass, points of one block in `SITE_ORDER`. `hidden` is already scaled.

        Returns:
            What takes the hooks out again.
        """
        if self.stream is None:
            return self._hook(call)
        carried = _Carried()

        def take(hidden_TD: Tensor, residual_TD: Tensor | None) -> None:
            carried.value = hidden_TD if residual_TD is None else hidden_TD + residual_TD

        def joined(hidden_TD: Tensor, residual_TD: Tensor | None) -> Tensor | None:
            stream_TD, carried.value = carried.value, None
            assert stream_TD is not None
            return call(hidden_TD, stream_TD if residual_TD is None else stream_TD + residual_TD)

        with ExitStack() as stack:
            stack.callback(self.stream._hook(take))
            stack.callback(self._hook(joined))
            return stack.pop_all().close

    def _hook(self, call: Call) -> Callable[[], None]:
        if self.side == "output":

            def after(_: nn.Module, __: object, output: Values) -> Values | None:
                return edited(self, output, call)

            return self.module.register_forward_hook(after).remove

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs | None:
            return cast(Inputs | None, edited(self, (args, kwargs), call))

        return self.module.register_forward_pre_hook(before, with_kwargs=True).remove


class _Carried:
    """The block's input on its way to a later hook of the same block; empty between passes."""

    def __init__(self) -> None:
        self.value: Tensor | None = None


def edited(point: HookPoint, values: Values, call: Call) -> Values | None:
    """Return values with what `call` makes of them, None where it leaves them alone.

    An edit of zero gives back the same bits at any scale.
    """
    hidden_TD, residual_TD = read_point(point, values)
    if point.scale == 1.0:
        new_TD = call(hidden_TD, residual_TD)
        return None if new_TD is None else replace_hidden(point, values, new_TD)
    scaled_TD = hidden_TD * point.scale
    new_TD = call(scaled_TD, residual_TD)
    if new_TD is None:
        return None
    return replace_hidden(point, values, hidden_TD + (new_TD - scaled_TD) / point.scale)


def read_point(point: HookPoint, values: Values) -> tuple[Tensor, Tensor | None]:
    """(hidden_TD, residual_TD or None) of a module's inputs or its output; not scaled. Pure.

    A leading dimension of one, which the Transformers backend adds, is dropped; a bias is expanded.

    Raises:
        EngineError: there is no tensor of the expected width.
    """
    hidden = _get(point, values, point.hidden)
    if not isinstance(hidden, Tensor) or hidden.shape[-1] != point.width:
        got = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
        raise EngineError(
            f"{point.site} of layer {point.layer}: {point.side} {point.hidden.index} of "
            f"{type(point.module).__name__} is {got}, wanted a tensor of width {point.width}"
        )
    residual = None if point.residual is None else _get(point, values, point.residual)
    if point.bias:
        if not isinstance(residual, Tensor) or residual.ndim != 1:
            return _rows(hidden), None
        residual = residual.expand_as(hidden)
    return _rows(hidden), None if residual is None else _rows(residual)


def replace_hidden(point: HookPoint, values: Values, new_TD: Tensor) -> Values:
    """Return the same values with another `hidden`. Pure."""
    if point.side == "output" and isinstance(values, Tensor):
        return new_TD.reshape(values.shape)
    index, name = point.hidden.index, point.hidden.name
    if point.side == "output":
        output = cast(Sequence[Any], values)
        return _with(output, index, new_TD.reshape(output[index].shape))
    args, kwargs = cast(Inputs, values)
    if name in kwargs:
        return args, {**kwargs, name: new_TD.reshape(kwargs[name].shape)}
    return _with(args, index, new_TD.reshape(args[index].shape)), kwargs


def _with(values: Sequence[Any], index: int, value: Tensor) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 2 else tensor.reshape(-1, tensor.shape[-1])


def _get(point: HookPoint, values: Values, argument: Argument) -> Any:
    if point.side == "input":
        args, kwargs = cast(Inputs, values)
        if argument.name in kwargs:
            return kwargs[argument.name]
        return args[argument.index] if argument.index < len(args) else None
    if isinstance(values, Tensor):
        return values if argument.index == 0 else None
    return values[argument.index] if argument.index < len(values) else None
