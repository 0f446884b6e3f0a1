"""The slow oracle of conditions: one row at a time, Kleene's three values spelled out."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping

from pilothouse.policy.expression import And, AtFpr, Comparison, Node, Not, Or

ORDERS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


def truth(node: Node, row: Mapping[str, float]) -> bool | None:
    """True, False, or None where a missing signal leaves it open."""
    match node:
        case Comparison(signal, order, value):
            return None if math.isnan(row[signal]) else ORDERS[order](row[signal], value)
        case Not(operand):
            inner = truth(operand, row)
            return None if inner is None else not inner
        case And(parts):
            found = [truth(part, row) for part in parts]
            return False if False in found else None if None in found else True
        case Or(parts):
            found = [truth(part, row) for part in parts]
            return True if True in found else None if None in found else False
        case AtFpr():
            raise AssertionError("the oracle wants thresholds resolved")
