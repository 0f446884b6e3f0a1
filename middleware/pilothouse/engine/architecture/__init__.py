"""Where taps sit in a model: known architectures, discovery, hook points and their self-check."""

from pilothouse.engine.architecture.decoder import Decoder
from pilothouse.engine.architecture.layout import Layout
from pilothouse.engine.architecture.opening import check_model, open_decoder
from pilothouse.engine.architecture.point import SITE_ORDER, HookPoint
from pilothouse.engine.architecture.table import LAYOUTS, add_layout

__all__ = [
    "LAYOUTS", "SITE_ORDER", "Decoder", "HookPoint", "Layout", "add_layout", "check_model",
    "open_decoder",
]  # fmt: skip
