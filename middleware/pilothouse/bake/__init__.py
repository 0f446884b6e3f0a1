"""Programs written into weights: which can be, where in a model they go, and the files."""

from __future__ import annotations

from pilothouse.bake.bake_program import (
    Comparison,
    Steering,
    bake,
    steering_of_profile,
    steering_of_vector,
)

__all__ = ["Comparison", "Steering", "bake", "steering_of_profile", "steering_of_vector"]
