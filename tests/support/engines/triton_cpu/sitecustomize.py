"""A stand-in for Triton's CPU backend, so that vLLM's second model runner starts without a GPU.

Put this folder on PYTHONPATH with PILOTHOUSE_TRITON_INTERPRET=1 and VLLM_USE_V2_MODEL_RUNNER=1; the
worker takes the stand-in out again before the compiler looks for a target.
"""

import os

if os.environ.get("PILOTHOUSE_TRITON_INTERPRET"):
    os.environ["TRITON_INTERPRET"] = "1"
    import types

    import triton.backends as backends

    class Driver:
        """Says that it is there."""

        @staticmethod
        def is_active() -> bool:
            """Always."""
            return True

    backends.backends["cpu"] = types.SimpleNamespace(driver=Driver, compiler=None)
