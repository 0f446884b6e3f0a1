"""What the scheduler said of each live request, by decision id. One per API process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pilothouse.record import CHECK_ID, Decision, Record, TokenScores

ChoiceKey = tuple[int, int]
"""(prompt index, n index)."""


@dataclass(slots=True)
class ChoiceLog:
    """The records of one choice so far: the newest, and what must not be lost from older ones."""

    newest: Record
    verdict: Decision | None = None
    token_scores: list[TokenScores] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Take in a record; the first verdict stays."""
        self.newest = record
        self.verdict = self.verdict or record.verdict
        self.token_scores += record.token_scores


@dataclass(slots=True)
class RequestDecisions:
    """One request."""

    choices: dict[ChoiceKey, ChoiceLog] = field(default_factory=dict)
    error: str | None = None
    prompt_verdicts: dict[int, Decision] = field(default_factory=dict)
    """By prompt: what was concluded of text that the engine's own record of it does not cover."""

    def add(self, record: Record) -> None:
        """Take in a record of any choice; of a choice that nobody waits for, its error alone."""
        self.error = self.error or record.error
        if record.choice is None:
            return  # Its choice has been answered already, or never was one.
        log = self.choices.get(record.choice)
        if log is None:
            imposed = self.prompt_verdicts.get(record.choice[0])
            log = self.choices[record.choice] = ChoiceLog(record, imposed)
        log.add(record)

    def impose(self, key: ChoiceKey, verdict: Decision) -> None:
        """End a choice by a verdict that did not come from the engine, unless it has one."""
        log = self.choices.get(key)
        if log is not None and log.verdict is None:
            log.verdict = verdict

    def verdicts(self) -> Iterator[Decision]:
        """Decisions so far."""
        return (log.verdict for log in self.choices.values() if log.verdict is not None)

    @property
    def prompt_settled(self) -> bool:
        """No choice heard of so far can still get a prompt verdict."""
        return bool(self.choices) and all(
            log.newest.prompt_done or log.verdict is not None for log in self.choices.values()
        )


class DecisionStore:
    """Live requests of this process. Records of others (answered, aborted) pass by."""

    def __init__(self) -> None:
        self._entries: dict[str, RequestDecisions] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def has_requests(self) -> bool:
        """Some live entry is a request of a client's, and not a text that is only scored."""
        return any(not each.startswith(CHECK_ID) for each in self._entries)

    def open(self, decision_id: str) -> RequestDecisions:
        """Start listening for a request."""
        entry = self._entries[decision_id] = RequestDecisions()
        return entry

    def close(self, decision_id: str) -> None:
        """Stop listening."""
        self._entries.pop(decision_id, None)

    def receive(self, record: Record) -> None:
        """Called for every record that reaches this process, before the tokens it rides with."""
        entry = self._entries.get(record.decision_id)
        if entry is not None:
            entry.add(record)
