"""Whether a baked model does what steering does: both run, and their last stream is compared.

What the last block gives decides everything behind it, and every edit is in front of it or at it.

Shape suffixes: N tokens, D width of the stream.
"""

from __future__ import annotations

import gc
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from pilothouse.config import PilothouseConfig
from pilothouse.errors import EngineError, PilothouseError
from pilothouse.offline_env import set_offline_env
from pilothouse.types import FloatArray

RANKS = (8, 16, 32, 64, 128, 256)


class Parity(NamedTuple):
    """The largest difference in the last stream, also as a share of its largest number.

    `moved` is how far steering moves that stream at most.
    """

    difference: float
    share: float
    moved: float
    num_tokens: int


def check_parity(
    model: Path,
    baked: Path,
    rank: int | None,
    config: PilothouseConfig,
    texts: list[str],
    dtype: str,
) -> Parity:
    """Run the model steered and plain, and baked: an adapter of a rank, or a checkpoint.

    Raises:
        EngineError: steering changed nothing, so that nothing can be told.
    """
    set_offline_env(in_process=False)
    # One engine for both, so that they differ by the steering alone.
    steered_ND, plain_ND = _streams(str(model), texts, dtype, config, ["bake:program", None])
    if rank is None:
        [baked_ND] = _streams(str(baked), texts, dtype, None, [None])
    else:
        [baked_ND] = _streams(str(model), texts, dtype, None, [None], adapter=baked, rank=rank)
    moved = float(np.abs(steered_ND - plain_ND).max())
    if moved == 0.0:
        raise EngineError("bake: steering changes nothing on these prompts: give others")
    difference = float(np.abs(steered_ND - baked_ND).max())
    largest = float(np.abs(steered_ND).max())
    return Parity(difference, difference / largest, moved, len(steered_ND))


def _streams(
    model: str,
    texts: list[str],
    dtype: str,
    config: PilothouseConfig | None,
    profiles: list[str | None],
    adapter: Path | None = None,
    rank: int = 0,
) -> list[FloatArray]:
    from pilothouse.engine.plan.model_facts import model_facts
    from pilothouse.engine.vllm.rpc import shut_down
    from pilothouse.llm import LLM  # vLLM takes seconds to import

    settings: dict[str, Any] = {}
    more: dict[str, Any] = {}
    if adapter is not None:
        from vllm.lora.request import LoRARequest

        room = next(each for each in RANKS if each >= rank)
        settings = {"enable_lora": True, "max_lora_rank": room}
        more = {"lora_request": LoRARequest("baked", 1, str(adapter))}
    name = model if adapter is None else f"{model} with {adapter}"
    last = model_facts(Namespace(model=model)).num_layers - 1
    llm = LLM(model, pilothouse_config=config, dtype=dtype, enforce_eager=True, **settings)
    found = []
    try:
        for profile in profiles:
            with TemporaryDirectory(ignore_cleanup_errors=True) as place:
                reader = llm.capture(
                    texts, [last], out=place, profile=profile, progress=False, **more
                )
                found.append(reader.layer(last)[0])
    except PilothouseError:
        raise
    # What an engine that died raises is vLLM's to say.
    except Exception as error:
        raise EngineError(f"bake: {name} could not be run: {error}") from error
    finally:
        shut_down(llm)
        del llm
        gc.collect()
    return found
