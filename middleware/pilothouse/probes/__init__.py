"""Probes: how token logits become calibrated values, and how probes are fitted and judged.

`aggregators` and `calibration.apply` run beside the engine and need numpy alone; fitting and
evaluating need the extra `train`.
"""
