"""The seam: every access to what is private to vLLM, and to what lies in `vllm.v1`.

No other file of the package imports `vllm.v1`, reaches a private name of one of its objects or
replaces one of its functions; `tests/engine/vllm/test_seam.py` holds that. What is relied on is
written down once, in `relied_on` and the Protocols that it names: `check` compares it with the vLLM
that is installed as each process of a server starts, and `make compat` with another release.

`version` says which releases were tested and is the one place that chooses between the modules
`v0_31`, `v0_32` and `v0_33`, which hold what differs between them.
"""
