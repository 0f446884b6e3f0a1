"""In which numbers a model runs where nobody says it: those that the processor multiplies fast.

vLLM's own choice on a CPU is the checkpoint's, mostly bfloat16, also where the processor has no
instructions for it. There float32 is several times faster.
"""

from __future__ import annotations

import platform
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from pilothouse.engine.plan.model_facts import read_configuration

VLLMS_OWN = "auto"
CPUINFO = Path("/proc/cpuinfo")


class UsualDtype(NamedTuple):
    """A value of vLLM's `--dtype`, and why it is the one."""

    name: str
    why: str


def usual_dtype(args: Namespace) -> UsualDtype:
    """Return what `--dtype` should be for a model on this machine, where it was not given.

    Args:
        args: vLLM's arguments; `model` names the model, whose configuration is read.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    missing = missing_bfloat16()
    if missing is None:
        return UsualDtype(VLLMS_OWN, "the checkpoint's own, which this machine computes in")
    asked = getattr(args, "quantization", None)
    if asked or getattr(read_configuration(args), "quantization_config", None) is not None:
        return UsualDtype(VLLMS_OWN, "the checkpoint is quantised, and its kernels say in what")
    return UsualDtype("float32", f"{missing}, so that bfloat16 would be several times slower")


def missing_bfloat16() -> str | None:
    """Return what the processor lacks for bfloat16, in words; None with bfloat16 or a GPU."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return None
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        import torch

        # The names are torch's own private ones; vLLM chooses its kernels by them, too.
        if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
            return None
        return "this processor has neither AVX512-BF16 nor AMX"
    if machine in ("aarch64", "arm64") and CPUINFO.is_file():
        features = {
            word
            for line in CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
            if line.startswith("Features")
            for word in line.split()
        }
        return None if "bf16" in features else "this processor has no FEAT_BF16"
    return None
