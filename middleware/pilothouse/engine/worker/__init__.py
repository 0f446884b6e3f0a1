"""What runs in vLLM's workers: taps, their tables and buffers, and what is read back."""
