"""Models that `pilothouse demo` serves: a real one, and the invented world."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pilothouse.demo.cache import Tell
from pilothouse.demo.memory import GIB, available_bytes
from pilothouse.demo.smol import smol_folder
from pilothouse.demo.wheels import IndexUnreachable
from pilothouse.errors import ConfigError
from pilothouse.library import Shelf, library_path

WORLD_NAME: Final = "demo"
SMOL_NAME: Final = "smol"

COMMON_FLAGS: Final = (
    "--dtype",
    "float32",
    "--enforce-eager",
    "--disable-uvicorn-access-log",
    "--uvicorn-log-level",
    "warning",
    "--distributed-executor-backend",
    "uni",
    "--no-use-tqdm-on-load",
)
"""Float32 because CPUs without bf16 arithmetic emulate it; eager because compiling takes longer
than most demos last."""
ENVIRONMENT: Final[Mapping[str, str]] = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
    "VLLM_NO_USAGE_STATS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Variables that are set where the user has not."""
MAX_THREADS: Final = 8
"""More threads have nothing to do in steps of so small a model."""


def one_process_environment() -> dict[str, str]:
    """Return what has vLLM run engine and worker in one process on a CPU.

    Each process imports vLLM after the one that starts it, and holds a copy of it. vLLM turns
    `uni` into a process for the worker unless this is off, and then counts no threads: one core is
    left to the server, as in a process of the worker's own.
    """
    threads = min(MAX_THREADS, max(1, len(os.sched_getaffinity(0)) - 1))
    return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": str(threads)}


@dataclass(frozen=True, slots=True)
class Served:
    """A model with all that is loaded for it."""

    name: str
    """The model's name at the server."""
    about: str
    shelf: Shelf
    """The library's shelf that holds its pilothouse.yaml."""
    model: Path
    flags: tuple[str, ...]
    environment: Mapping[str, str]
    memory_gib: float
    """Memory of all the server's processes, with as many requests as it takes at once."""

    @property
    def config(self) -> Path:
        """Its pilothouse.yaml."""
        return library_path(self.shelf) / "pilothouse.yaml"


def world() -> Served:
    """Return the invented world, whose model comes with the package.

    Raises:
        ConfigError: the library holds no model.
    """
    model = library_path("examples/demo") / "model"
    if not (model / "config.json").is_file():
        raise ConfigError(f"{model}: holds no model; reinstall pilothouse")
    return Served(
        WORLD_NAME,
        "an invented world of three million parameters",
        "probes/demo",
        model,
        (*COMMON_FLAGS, "--max-num-seqs", "32"),
        ENVIRONMENT,
        WORLD_GIB,
    )


def smol(tell: Tell) -> Served:
    """Return the real model, made ready first where it is not.

    Raises:
        IndexUnreachable: it is not there and cannot be fetched.
        ConfigError: it cannot be made.
    """
    limits = ("--max-model-len", str(SMOL_CONTEXT), "--max-num-seqs", str(SMOL_REQUESTS))
    return Served(
        SMOL_NAME,
        "SmolLM2-135M-Instruct, Q4_1 weights dequantised",
        "probes/smol",
        smol_folder(tell),
        (*COMMON_FLAGS, *limits),
        {**ENVIRONMENT, **one_process_environment()},
        SMOL_GIB,
    )


WORLD_GIB: Final = 2.5
SMOL_GIB: Final = 4.0
SMOL_CONTEXT: Final = 4096
SMOL_REQUESTS: Final = 8
"""A GiB of KV cache holds 23,000 of its tokens: five answers of full length, or many short ones."""


def real_or_world(tell: Tell) -> Served:
    """Return the real model where it can be had, else the invented world, and say so.

    Raises:
        ConfigError: it cannot be made, though it can be had.
    """
    try:
        return smol(tell)
    except IndexUnreachable as error:
        tell(f"{error}. Serving the invented world instead, as `--world` does.")
        return world()


def check_memory(served: Served) -> None:
    """Refuse to start where the server would not fit.

    Raises:
        ConfigError: less memory can be had than it takes.
    """
    found_gib = available_bytes() / GIB
    if found_gib < served.memory_gib:
        raise ConfigError(
            where="memory",
            got=f"{found_gib:.1f} GiB that can be had",
            want=f"{served.memory_gib:.1f} GiB for {served.name}",
            fix="stop other programs, or raise the container's limit",
        )
