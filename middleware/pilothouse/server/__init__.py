"""The gate: what stands between a client and vLLM's own HTTP handlers."""
