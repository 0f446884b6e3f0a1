"""A revision as an API process uses it: plan, authenticator and admission, exchanged as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pilothouse.engine.plan.plan import Plan
from pilothouse.server.admission import Admission
from pilothouse.server.auth import Authenticator


@dataclass(frozen=True, slots=True)
class PlanSnapshot:
    """One request is looked at by one plan snapshot from its first check to its last."""

    plan: Plan
    authenticator: Authenticator
    admission: Admission


class PlanSnapshots:
    """The newest plan snapshot, and how many requests of this process are under which revision."""

    def __init__(self, first: PlanSnapshot) -> None:
        self.newest = first
        self._num_requests: Counter[str] = Counter()
        self._on_unused: Callable[[str], None] = lambda _: None

    def on_unused(self, call: Callable[[str], None]) -> None:
        """Have `call(revision)` run when no request can carry an older revision any more."""
        self._on_unused = call

    @contextmanager
    def admitting(self) -> Iterator[PlanSnapshot]:
        """The newest plan snapshot, kept for as long as the request under it lives."""
        plan_snapshot = self.newest
        revision = plan_snapshot.plan.revision
        self._num_requests[revision] += 1
        try:
            yield plan_snapshot
        finally:
            self._num_requests[revision] -= 1
            self._tell_if_unused(revision)

    def switch(self, plan_snapshot: PlanSnapshot) -> None:
        """From now on requests are admitted under this one."""
        before, self.newest = self.newest, plan_snapshot
        self._tell_if_unused(before.plan.revision)

    def unused(self, revision: str) -> bool:
        """No request is under it, and none will be."""
        return revision != self.newest.plan.revision and not self._num_requests[revision]

    def _tell_if_unused(self, revision: str) -> None:
        if self.unused(revision):
            del self._num_requests[revision]
            self._on_unused(revision)
