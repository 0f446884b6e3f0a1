"""Parts of the gate around the tiny house's plan, without an engine."""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pilothouse.cli.launch import config_of, plan_for
from pilothouse.engine.plan.plan import Plan
from pilothouse.policy.endpoint_names import EndpointName
from pilothouse.record import Decision, Record
from pilothouse.server.admission import Admission, Admitted
from pilothouse.server.auth import Caller
from pilothouse.server.endpoints.base import Answer, StreamRewriter
from pilothouse.server.endpoints.registry import ENDPOINTS
from pilothouse.server.response.decisions import FinalDecision, RequestDecisions
from tests.support.servers.tiny_deployment import SERVED_NAME, make_tiny_house

RECORDED = Path(__file__).parents[2] / "server" / "recorded"
KEY = b"k" * 32


@cache
def tiny_plan() -> Plan:
    """The plan of the tiny house, resolved once."""
    config = config_of(make_tiny_house(Path(mkdtemp(prefix="tiny-house-"))))
    model = config.vectors["nudge"].path.parents[1] / "model"
    args = argparse.Namespace(
        model=str(model), revision=None, trust_remote_code=False, hf_overrides=None
    )
    return plan_for(config, args)


def caller(**changes: Any) -> Caller:
    """A caller on this machine with every grant."""
    fields: dict[str, Any] = {
        "tenant": "",
        "loopback": True,
        "authenticated": False,
        "may_steer": True,
        "may_see_scores": True,
        "rollout_key": "127.0.0.1",
    }
    return Caller(**(fields | changes))


def admission(plan: Plan | None = None) -> Admission:
    """The tiny house's admission."""
    return Admission(plan or tiny_plan(), (SERVED_NAME,), KEY)


def admitted(policy: str | None, endpoint: EndpointName = "chat", **changes: Any) -> Admitted:
    """A request under the profile of one policy, or under none."""
    name = SERVED_NAME if policy is None else f"{SERVED_NAME}:{policy}"
    return admit(body_of(endpoint) | {"model": name} | changes, endpoint)


def admit(
    body: dict[str, Any],
    endpoint: EndpointName = "chat",
    door: Admission | None = None,
    **changes: Any,
) -> Admitted:
    """Admit a body, which is changed in place, as the gate does.

    Args:
        changes: what is different about the caller.
    """
    read = ENDPOINTS[endpoint].read
    return (door or admission()).admit(body, endpoint, caller(**changes), read)


def stream_of(
    endpoint: EndpointName,
    request: Admitted,
    entry: RequestDecisions,
    counted: list[Decision] | None = None,
) -> StreamRewriter:
    """What rewrites the stream of a request."""
    return ENDPOINTS[endpoint].stream(Answer(request, entry, settler(counted)))


def body_of(endpoint: EndpointName) -> dict[str, Any]:
    """A small valid body."""
    first: dict[EndpointName, dict[str, Any]] = {
        "chat": {"messages": [{"role": "user", "content": "the tide"}]},
        "completions": {"prompt": "the tide"},
        "responses": {"input": "the tide"},
    }
    return {"model": SERVED_NAME} | first[endpoint]


def settler(counted: list[Decision] | None = None) -> FinalDecision:
    """Counts final outcomes into a list."""
    sink = [] if counted is None else counted
    return FinalDecision(tiny_plan().rulebook, sink.extend)


def verdict(policy: str) -> Decision:
    """The verdict that the engine would give for one of the tiny house's policies."""
    rule = next(rule for rule in tiny_plan().rulebook.rules if rule.policy == policy)
    result = "responded" if rule.kind == "respond" else "blocked"
    return rule.decision("enforce", result)


def entry_with(*records: tuple[tuple[int, int], Record]) -> RequestDecisions:
    """A ledger entry that has taken in these records, by choice."""
    entry = RequestDecisions()
    for choice, record in records:
        record.choice = choice
        entry.add(record)
    return entry


def record(policy: str | None = None, **values: float) -> Record:
    """A record, with the verdict of one policy."""
    given = {name.replace("__", "/"): value for name, value in values.items()}
    made = Record("d", tiny_plan().revision, values=given, prompt_done=True)
    made.verdict = verdict(policy) if policy is not None else None
    return made


def recorded_events(name: str) -> list[bytes]:
    """A stream that a plain vLLM server made, event by event."""
    raw = (RECORDED / f"{name}.sse").read_bytes()
    return [event + b"\n\n" for event in raw.split(b"\n\n") if event]


def recorded_body(name: str) -> dict[str, Any]:
    """A body that a plain vLLM server made."""
    body: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_bytes())
    return body


def chunks_of(events: list[bytes]) -> list[dict[str, Any]]:
    """The JSON of the events that have any."""
    texts = [event.decode().removeprefix("data: ").strip() for event in events]
    return [json.loads(text) for text in texts if text.startswith("{")]
