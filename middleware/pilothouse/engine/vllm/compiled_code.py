"""Compiled code is kept between starts on a CPU, where vLLM by itself compiles at every start.

On a CPU vLLM (0.31, 0.32) has Inductor compile a model in one piece (its mode DYNAMO_TRACE_ONCE).
With VLLM_USE_AOT_COMPILE, its default, the compiled function is written to disk and cannot be read
back: the loader calls `finalize_loading`, which only functions of vLLM's other backend have, logs
"Compiling model again due to a load failure", and compiles. That goes past Inductor's own cache,
for torch's `aot_compile` bundles its results instead of looking there. With the setting off, Dynamo
traces the model at each start and Inductor finds its code by what the graph contains.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pilothouse.engine.vllm.version import is_cpu_build

WRITES_WHOLE_FUNCTIONS: Final = "VLLM_USE_AOT_COMPILE"
KEEPS_NOTHING: Final = "VLLM_DISABLE_COMPILE_CACHE"
FOLDER: Final = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled_code() -> None:
    """Set what finds compiled code again, where the user has not said otherwise.

    It must run before torch is imported, which fills in a folder of its own. That would lie below
    the folder for temporary files; this one lies where vLLM keeps the rest.
    """
    said = os.environ.get(WRITES_WHOLE_FUNCTIONS)
    keeps_nothing = os.environ.get(KEEPS_NOTHING, "0") != "0"
    if said not in (None, "0") or keeps_nothing or not is_cpu_build():
        return
    os.environ[WRITES_WHOLE_FUNCTIONS] = "0"
    if FOLDER in os.environ:
        return
    folder = _vllm_cache() / "torch_compile_cache" / "inductor"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written: torch's own folder serves until it is emptied
        return
    if os.access(folder, os.W_OK):
        os.environ[FOLDER] = str(folder)


def kept_in() -> str | None:
    """Return the folder in which a start looks for compiled code, None where it will not look."""
    if os.environ.get(WRITES_WHOLE_FUNCTIONS) != "0" or not is_cpu_build():
        return None
    return os.environ.get(FOLDER)


def _vllm_cache() -> Path:
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    named = os.environ.get("VLLM_CACHE_ROOT")
    return Path(named).expanduser() if named else Path(shared) / "vllm"
