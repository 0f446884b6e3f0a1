"""Everything that touches vLLM: plan, taps, worker, scheduler, cache identity, outputs."""
