"""Vectors out of contrastive pairs: pairs, methods, controls, figures, the card. No vLLM here."""
