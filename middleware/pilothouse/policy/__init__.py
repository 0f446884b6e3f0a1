"""Rules over signals: read from YAML, compiled, evaluated, decided. No torch, vllm or fastapi."""
