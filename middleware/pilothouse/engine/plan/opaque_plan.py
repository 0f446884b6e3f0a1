"""A plan on its way through vLLM's configuration, which vLLM prints, dumps and hashes as it likes.

vLLM logs its arguments and, when an engine fails, what it was doing; it hashes the configuration as
JSON into the names of compile caches; and it pickles it for each process. So the plan goes there as
a string: its characters, which are all that a log or a hash can see, are a digest. Only pickling
and copying carry the content along.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

HEAD = "pilothouse-plan-sha256:"
PRINTED = ("body", "tensors")
"""The parts that the digest is over: what is served. The configuration beside them is that of the
start, with the paths of one machine, and must not part the caches of two."""


class OpaquePlan(str):
    """The digest of a plan, with its parts as text in `wire`."""

    __slots__ = ("wire",)
    wire: Mapping[str, str]

    def __new__(cls, wire: Mapping[str, str]) -> OpaquePlan:
        """Hide a plan's parts behind their digest."""
        content = json.dumps([wire[name] for name in PRINTED]).encode()
        made = super().__new__(cls, HEAD + hashlib.sha256(content).hexdigest())
        made.wire = dict(wire)
        return made

    def __reduce__(self) -> tuple[type[OpaquePlan], tuple[Mapping[str, str]]]:
        """Pickle and copy the plan with its parts."""
        return type(self), (self.wire,)
