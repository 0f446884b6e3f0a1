"""Where taps sit in a model: known architectures, discovery, hook points and their self-check."""

from pilothouse.engine.hooks.decoder import Decoder
from pilothouse.engine.hooks.discovery import check_model, open_decoder
from pilothouse.engine.hooks.hook_point import SITE_ORDER, HookPoint
from pilothouse.engine.hooks.layouts import LAYOUTS, Layout, add_layout

__all__ = [
    "LAYOUTS",
    "SITE_ORDER",
    "Decoder",
    "HookPoint",
    "Layout",
    "add_layout",
    "check_model",
    "open_decoder",
]
