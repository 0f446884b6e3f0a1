"""Interventions as rows of numbers. Pure maths; nothing of vLLM or torch."""
