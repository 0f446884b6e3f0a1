"""Model classes of transformers that no engine of this process has touched.

vLLM's Transformers backend decorates a model's class for compilation, for good: after that the
class cannot be built or run outside an engine. So classes come from a second import of their file.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PretrainedConfig


def causal_class(config: PretrainedConfig) -> Any:
    """The causal language model class of a configuration, as transformers wrote it."""
    known = AutoModelForCausalLM._model_mapping[type(config)]
    original = sys.modules[known.__module__]
    package, _, name = known.__module__.rpartition(".")
    plain = f"{package}.plain_{name}"
    if plain not in sys.modules:
        assert original.__file__ is not None
        spec = importlib.util.spec_from_file_location(plain, Path(original.__file__))
        assert spec is not None and spec.loader is not None
        sys.modules[plain] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[plain])
    return getattr(sys.modules[plain], known.__name__)
