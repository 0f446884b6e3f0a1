"""Plans by revision in the scheduler: who still needs which, and what API processes are told.

An API process holds a revision from the moment it is handed out until it says that none of its
requests can carry it any more. A plan goes when it is not the newest, nobody holds it, and its last
request has ended. So a process that lags is right: what it seals is accepted until it has switched.

Plans are read by a thread of their own, since one can be large and requests must not wait for it.
The thread adds plans and holders; all else is done by the engine's own thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from pilothouse.edits.program import forget_programs
from pilothouse.engine.plan.plan import Plan, Wire
from pilothouse.errors import PilothouseError, RequestError

Push = Callable[[int, str], None]
"""Tell an API process, by its index, of a newer revision."""


@dataclass(slots=True)
class _Kept:
    plan: Plan
    holders: set[int] = field(default_factory=set)
    num_requests: int = 0


class PlanRegistry:
    """The newest plan, those prepared to follow it, and older ones that are still needed."""

    def __init__(self, plan: Plan, push: Push) -> None:
        self._kept = {plan.revision: _Kept(plan)}
        self._lock = Lock()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="pilothouse-plans")
        self._wanted: set[tuple[int, str]] = set()
        """(API process, revision) of plans that are being read."""
        self._push = push
        self._serving: dict[int, str] = {}
        """API process -> the revision that it gives new requests."""
        self.newest = plan
        self._calls: dict[str, Callable[..., Any]] = {
            "newest": self._newest,
            "prepare": self._prepare,
            "activate": self._activate,
            "release": self._release,
            "told": self._told,
        }

    def handle_rpc(self, order: str, arguments: Sequence[Any]) -> Any:
        """Carry out a call of an API process; the answer is made of builtins, or will be."""
        return self._calls[order](*arguments)

    def plan(self, revision: str) -> Plan:
        """The plan that a request was signed under.

        Raises:
            RequestError: it is not known, or gone.
        """
        known = self._kept.get(revision)
        if known is None:
            raise RequestError(f"sealed for revision {revision}", status=403)
        return known.plan

    def add_request(self, revision: str) -> None:
        """Count a request of this revision that was let in."""
        self._kept[revision].num_requests += 1

    def remove_request(self, revision: str) -> None:
        """Count one that has ended."""
        self._kept[revision].num_requests -= 1
        self._retire(revision)

    def _newest(self, client: int, known: str) -> Wire | None:
        """None where the process has the newest plan, else that plan, which it then holds."""
        revision = self.newest.revision
        with self._lock:
            self._kept[revision].holders.add(client)
        if known == revision:
            self._serving[client] = revision
            return None
        return self.newest.to_wire()

    def _prepare(self, client: int, revision: str, wire: Wire) -> Future[str]:
        """Why the plan cannot follow; empty where requests may now come under it."""
        self._wanted.add((client, revision))
        return self._reader.submit(self._read, client, revision, wire)

    def _read(self, client: int, revision: str, wire: Wire) -> str:
        try:
            plan = Plan.from_wire(wire)
        except (PilothouseError, ValueError, KeyError) as error:
            return f"the plan cannot be read: {error}"
        if plan.revision != revision:
            return f"the plan is of revision {plan.revision}, want {revision}"
        if plan.installation != self.newest.installation:
            return (
                f"revision {plan.revision} needs another installation than runs here "
                f"({plan.installation}, not {self.newest.installation})"
            )
        _ = plan.sources  # made here, and not by the first request
        with self._lock:
            if (client, revision) in self._wanted:
                self._wanted.remove((client, revision))
                self._kept.setdefault(revision, _Kept(plan)).holders.add(client)
        return ""

    def _activate(self, client: int, base: str, revision: str) -> bool:
        """Make a prepared plan the newest, unless another one got there before."""
        if self.newest.revision != base or revision not in self._kept:
            return False
        self.newest = self._kept[revision].plan
        for other in self._serving:
            if other != client:
                self._push(other, revision)
        self._retire(base)
        return True

    def _release(self, client: int, revision: str) -> None:
        """No request of this process can carry the revision any more."""
        with self._lock:
            self._wanted.discard((client, revision))
            if revision in self._kept:
                self._kept[revision].holders.discard(client)
        self._retire(revision)

    def _told(self) -> dict[str, Any]:
        """What `/pilothouse/v1/status` shows."""
        return {
            "newest": self.newest.revision,
            "processes": {str(client): each for client, each in sorted(self._serving.items())},
            "requests": {name: each.num_requests for name, each in list(self._kept.items())},
        }

    def _retire(self, revision: str) -> None:
        with self._lock:
            kept = self._kept.get(revision)
            if kept is None or revision == self.newest.revision:
                return
            if kept.holders or kept.num_requests:
                return
            del self._kept[revision]
        forget_programs()
