"""Earlier turns of a conversation that one of our own policies answered, as token ids.

A question that was refused is in the history of the next one, and so is the opening behind it. The
value there is what it was, so that a rule which fired on it would fire on every later turn of the
conversation. Such a turn is known by what stands in it: a message of the policies and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pilothouse.engine.plan.turn_markers import Ids, Render, TurnMarkers
from pilothouse.engine.scheduler.authorship import TurnReader
from pilothouse.policy.schema import Block, Policy, Respond


def policy_messages(policies: Sequence[Policy]) -> tuple[str, ...]:
    """What enforced rules say in place of an answer."""
    actions = [
        rule.then
        for policy in policies
        if policy.spec.mode == "enforce"
        for rule in policy.spec.rules
    ]
    messages = [each.message for each in actions if isinstance(each, Block | Respond)]
    return tuple(dict.fromkeys(messages))


def with_refused(markers: TurnMarkers, render: Render, messages: Sequence[str]) -> TurnMarkers:
    """The markers, with the turns of a template in which policies speak."""
    if not markers.anchors:
        return markers
    reader = TurnReader(markers)
    turns = [turn for message in messages for turn in _turns_of(message, reader, render)]
    return markers.model_copy(update={"refused": tuple(dict.fromkeys(turns))})


def _turns_of(message: str, reader: TurnReader, render: Render) -> Iterator[Ids]:
    """The turn of a message between a user's two; none where the template shows no such turns."""
    conversation = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": message},
        {"role": "user", "content": "two"},
    ]
    try:
        ids = list(render(conversation, True))
    except Exception:  # whatever a template raises that takes no such conversation
        return
    turns = reader.turns(np.array(ids, np.int64))
    ours = np.flatnonzero(turns.is_ours_H)
    if len(ours) and ours[0] + 1 < len(turns.starts_H) and not turns.is_ours_H[ours[0] + 1]:
        yield tuple(ids[turns.bodies_H[ours[0]] : turns.starts_H[ours[0] + 1]])
