"""Foreign vector files, read without executing anything; importing this registers every format.

Only the offline verb `pilothouse vector import` comes here: what is served is our own artefact.
"""

from pilothouse.artifacts.vectors import (
    act,
    angular,
    austeer,
    gguf,
    loreft,
    numpy_file,
    refusal_direction,
    safetensors_file,
    snmf,
    steering_vectors,
    svec,
)
from pilothouse.artifacts.vectors.registry import FORMATS, Format, read_foreign, register

__all__ = [
    "FORMATS",
    "Format",
    "act",
    "angular",
    "austeer",
    "gguf",
    "loreft",
    "numpy_file",
    "read_foreign",
    "refusal_direction",
    "register",
    "safetensors_file",
    "snmf",
    "steering_vectors",
    "svec",
]
