"""A program: the self-check on a tiny random model of every architecture of vLLM's registry.

`python -m tests.support.engines.registry_walk [NAMES] [--multimodal] [--json FILE]`. Each
architecture has a process of its own, forked from one that has imported everything: what crashes or
hangs is counted and the walk goes on.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pilothouse.errors import EngineError

SECONDS = 180
Status = Literal["passed", "refused", "not run", "not built"]


@dataclass(frozen=True)
class Visit:
    """What became of one architecture.

    passed: the self-check holds for every site that the decoder offers. refused: the model runs,
    and our check or discovery says no. not run: it does not run on a prompt of text without its
    caches. not built: no configuration, or vLLM does not build the model from it here.
    """

    architecture: str
    status: Status
    reason: str
    config: str = ""
    origin: str = ""
    sites: tuple[str, ...] = ()


def walk(names: Iterable[str]) -> Iterator[Visit]:
    """Visit architectures one after another, each in a process of its own."""
    for name in names:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _in_child(name, writer)
        os.close(writer)
        yield _result(name, child, reader)


def architectures(*, multimodal: bool) -> list[str]:
    """The text-generating architectures of vLLM's registry, or those that take images or sound."""
    from vllm.model_executor.models import registry

    if multimodal:
        return list(registry._MULTIMODAL_MODELS)
    causal = [
        name
        for name, (_, served_by) in registry._TRANSFORMERS_TESTED_MODELS.items()
        if "MultiModal" not in served_by
    ]
    return [*registry._TEXT_GENERATION_MODELS, *causal]


def visit(name: str) -> Visit:
    """Build a tiny model in this process and check it. Needs a process that does nothing else."""
    from pilothouse.engine.hooks import check_model, open_decoder
    from tests.support.models.small_config import small_config

    source = ""
    try:
        config, source = small_config(name, _sibling(name))
        model, vllm_config = _build_with_aliases(config)
    except Exception as error:
        return Visit(name, "not built", _line(error), source)
    origin = ""
    try:
        _run_with_aliases(model, vllm_config)
        decoder = open_decoder(model, vllm_config)
        origin = decoder.origin
        wanted = [(layer, s) for layer in decoder.local_layers() for s in decoder.sites(layer)]
        check_model(model, vllm_config, decoder, wanted)
    except EngineError as error:
        status: Status = "not run" if "cannot be checked" in str(error) else "refused"
        return Visit(name, status, _line(error), source, origin)
    offered = sorted({site for _, site in wanted})
    return Visit(name, "passed", "", source, origin, tuple(offered))


def _build_with_aliases(config: Any) -> tuple[torch.nn.Module, Any]:
    """Models ask for names that transformers' class does not have; some are known."""
    from tests.support.models.small_config import ALIASES

    for _ in range(20):
        try:
            return _build(config)
        except AttributeError as error:
            missing = error.name
            if missing not in ALIASES or hasattr(config, missing):
                raise
            setattr(config, missing, ALIASES[missing])
    return _build(config)


def _run_with_aliases(model: torch.nn.Module, vllm_config: Any) -> None:
    """The same for names that only a forward pass asks for."""
    from pilothouse.engine.hooks.tiny_forward import tiny_forward
    from tests.support.models.small_config import ALIASES

    for _ in range(20):
        try:
            tiny_forward(model, vllm_config)
        except EngineError as error:
            missing = getattr(error.__cause__, "name", None)
            if missing not in ALIASES:
                raise
            setattr(vllm_config.model_config.hf_text_config, missing, ALIASES[missing])
        else:
            return


def _build(config: Any) -> tuple[torch.nn.Module, Any]:
    from vllm.config import set_current_vllm_config
    from vllm.distributed import (
        destroy_model_parallel,
        init_distributed_environment,
        initialize_model_parallel,
    )
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import dummy_loader, get_model
    from vllm.model_executor.models import registry
    from vllm.v1.worker import cpu_model_runner

    registry._LazyRegisteredModel.inspect_model_cls = _inspect_here
    dummy_loader.DummyModelLoader.load_weights = _random_weights
    cpu_model_runner._set_torch_accelerator_to_noop()
    folder = tempfile.mkdtemp()
    config.save_pretrained(folder)
    vllm_config = EngineArgs(
        model=folder,
        load_format="dummy",
        dtype="float32",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=256,
        max_num_batched_tokens=256,
        distributed_executor_backend="uni",
        language_model_only=True,
    ).create_engine_config()
    with set_current_vllm_config(vllm_config):
        if not torch.distributed.is_initialized():
            init_distributed_environment(1, 0, f"file://{Path(folder) / 'store'}", 0, "gloo")
        destroy_model_parallel()
        initialize_model_parallel()
        return get_model(vllm_config=vllm_config), vllm_config


def _inspect_here(self: Any) -> Any:
    """vLLM looks at model classes in a new process each, which takes ten seconds."""
    from vllm.model_executor.models.registry import _ModelInfo

    return _ModelInfo.from_model_cls(self.load_model_cls())


def _random_weights(_: Any, model: torch.nn.Module, __: Any) -> None:
    """Weights that matter: vLLM's own stand-ins are so small that no block changes anything."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point():
            draw = torch.randn(tensor.shape, generator=generator)
            is_norm = tensor.ndim == 1 and name.endswith("weight")
            tensor.data.copy_(1.0 + 0.1 * draw if is_norm else 0.1 * draw)


def _sibling(name: str) -> str | None:
    """An architecture of another name that vLLM serves by the same class."""
    from vllm.model_executor.models import registry

    served = registry._VLLM_MODELS.get(name)
    if served is None or served[0] == "transformers":
        return None
    return next((n for n, s in registry._VLLM_MODELS.items() if s == served and n != name), None)


def _line(error: BaseException) -> str:
    while isinstance(error, EngineError) and error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}".split())[-500:] + f" ({where})"


def _in_child(name: str, writer: int) -> None:
    """Visit, write the result, and end without the parent's clean-up."""
    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        found = visit(name)
    except BaseException as error:
        found = Visit(name, "not run", _line(error))
    os.write(writer, json.dumps(asdict(found)).encode())
    os._exit(0)


def _result(name: str, child: int, reader: int) -> Visit:
    ready, _, _ = select.select([reader], [], [], SECONDS)
    if not ready:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    if not text:
        reason = "the process ended" if ready else f"nothing after {SECONDS} s"
        return Visit(name, "not built", reason)
    return Visit(**json.loads(text))


def prepare() -> None:
    """Import what every visit needs, before the first fork."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    import transformers  # noqa: F401
    import vllm.engine.arg_utils
    import vllm.model_executor.model_loader
    import vllm.v1.worker.cpu_model_runner  # noqa: F401

    import pilothouse.engine.hooks  # noqa: F401


def summary(visits: Iterable[Visit]) -> str:
    """Counts, and the reasons of what did not pass."""
    visits = list(visits)
    counts = collections.Counter(each.status for each in visits)
    lines = [f"{len(visits)} architectures: {dict(counts)}"]
    lines += [
        f"  {each.status:10} {each.architecture}: {each.reason[:160]}"
        for each in sorted(visits, key=lambda each: each.status)
        if each.status != "passed"
    ]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--multimodal", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    prepare()
    visits = []
    for each in walk(args.names or architectures(multimodal=args.multimodal)):
        visits.append(each)
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {each.status:10} {each.architecture} ")
        sys.stdout.write(f"{','.join(each.sites)}{each.reason[:200]}\n")
        sys.stdout.flush()
    sys.stdout.write(summary(visits) + "\n")
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(each) for each in visits], indent=1))


if __name__ == "__main__":
    main()
