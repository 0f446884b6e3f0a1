"""Who wrote each position of a request, and where an assistant's turn opens.

A prompt's positions belong to the role whose turn they stand in; what stands before every turn is
the client's text and counts as a user's. Positions of the output are sampled by the model, or
forced by what the client asked for (`engine.constraint`).

Shape suffixes: T tokens of a prompt, H turns that open in it, A anchors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.engine.turn_markers import ASSISTANT, Ids, TurnMarkers

Author = Literal["system", "user", "tool", "supplied", "sampled", "forced"]
"""`supplied` is an assistant's text that came with the prompt."""
AUTHORS: tuple[Author, ...] = ("system", "user", "tool", "supplied")
ROLES = ("system", "user", "tool", ASSISTANT)
OURS = ROLES.index(ASSISTANT)
UNKNOWN_ROLE_ANCHORS = 4
"""Behind the heading of a turn whose role nobody knows, where the role's name may end."""

Positions = NDArray[np.int64]


class Run(NamedTuple):
    """Positions [start, stop) of one author."""

    start: int
    stop: int
    author: Author


@dataclass(slots=True)
class Authorship:
    """Of one request.

    `anchors_A` are the positions at which a readout of one position reads the prompt: the last
    token of each opening of an assistant's turn, and the prompt's last token if no such turn is
    open there. `answer_start` is the first position of the answer: behind the last opening where
    the prompt ends in an assistant's turn, else the first position of the output.
    """

    num_prompt_tokens: int
    anchors_A: Positions
    answer_start: int
    starts_H: Positions
    roles_H: Positions
    forced: list[tuple[int, int]] = field(default_factory=list)
    """Runs [start, stop) of forced output positions."""
    heading_until: int = -1
    """In the output, the last position at which the name of a role may end that nobody knows."""

    @classmethod
    def unmarked(cls, num_prompt_tokens: int) -> Authorship:
        """Of a prompt that shows no turns."""
        nothing = np.zeros(0, np.int64)
        last = np.array([max(num_prompt_tokens - 1, 0)], np.int64)
        return cls(num_prompt_tokens, last, num_prompt_tokens, nothing, nothing)

    @property
    def num_supplied(self) -> int:
        """Positions at the prompt's end that are the assistant's and that the client wrote."""
        return self.num_prompt_tokens - self.answer_start

    def add_forced(self, position: int) -> None:
        """The next position of the output was forced."""
        if self.forced and self.forced[-1][1] == position:
            self.forced[-1] = self.forced[-1][0], position + 1
        else:
            self.forced.append((position, position + 1))

    def runs(self, num_tokens: int) -> list[Run]:
        """Who wrote which of the first positions, in order."""
        prompt = self.num_prompt_tokens
        starts = [0, *self.starts_H.tolist()]
        authors: list[Author] = ["user", *(AUTHORS[role] for role in self.roles_H.tolist())]
        runs = [
            Run(start, stop, author)
            for start, stop, author in zip(starts, [*starts[1:], prompt], authors, strict=True)
        ]
        at = prompt
        for start, stop in [*self.forced, (num_tokens, num_tokens)]:
            runs += [Run(at, start, "sampled"), Run(start, stop, "forced")]
            at = stop
        cut = (Run(start, min(stop, num_tokens), author) for start, stop, author in runs)
        return _joined(run for run in cut if run.start < run.stop)


class TurnReader:
    """Finds turns in token ids by a model's markers."""

    def __init__(self, markers: TurnMarkers) -> None:
        ours = [each for each in markers.openings if each.role == ASSISTANT]
        self._openings = markers.openings
        self._heading = markers.heading
        self._cores = {each.token_ids[: each.core] for each in markers.openings}
        self._name_ids = max((each.core for each in ours), default=0)
        self._ends: set[Ids] = {
            each.token_ids[:count]
            for each in ours
            for count in range(each.core, len(each.token_ids) + 1)
        }
        self._lengths = sorted({len(each) for each in self._ends})
        longest = [*self._lengths, self._name_ids + UNKNOWN_ROLE_ANCHORS + 1, 1]
        self.reach = max(longest + [len(each) for each in self._cores])
        """How many tokens, the newest included, tell whether it is an anchor."""
        self.telling = frozenset(each[-1] for each in self._ends) | frozenset(self._heading[-1:])
        """Tokens of the output that are worth a look; all others are no anchors, except up to
        `Authorship.heading_until`."""

    def read(self, prompt_token_ids: Sequence[int] | None, num_prompt_tokens: int) -> Authorship:
        """Of a prompt; one of embeddings has no tokens, and shows no turns."""
        if not self._openings or not prompt_token_ids:
            return Authorship.unmarked(num_prompt_tokens)
        ids_T = np.array(prompt_token_ids, np.int64)
        starts_H, stops_H, roles_H, unknown_H = self._turns(ids_T)
        anchors = [stops_H[roles_H == OURS] - 1, self._behind(stops_H, starts_H, unknown_H, ids_T)]
        answer_start = num_prompt_tokens
        if len(roles_H) and roles_H[-1] == OURS:
            answer_start = min(int(stops_H[-1]), num_prompt_tokens)
        else:
            anchors.append(np.array([num_prompt_tokens - 1], np.int64))
        return Authorship(
            num_prompt_tokens, np.unique(np.concatenate(anchors)), answer_start, starts_H, roles_H
        )

    def is_anchor(self, authorship: Authorship, ids: Sequence[int], position: int) -> bool:
        """Whether an assistant's turn opens with the newest of a request's tokens.

        Only the core of an opening can be told from what comes behind it when it has come, so
        each token from there to the end of the whole opening counts.

        Args:
            ids: at least the last `reach` of the tokens up to it.
            position: where it stands in the request.
        """
        if any(tuple(ids[-count:]) in self._ends for count in self._lengths):
            return True
        if not self._heading:
            return False
        count = len(self._heading)
        if tuple(ids[-count:]) == self._heading:
            last = self._name_ids + UNKNOWN_ROLE_ANCHORS - count - 1
            authorship.heading_until = max(authorship.heading_until, position + last)
        return any(
            tuple(ids[-back:][:count]) == self._heading and not self._known(ids[-back:])
            for back in range(self._name_ids, self._name_ids + UNKNOWN_ROLE_ANCHORS)
            if back <= len(ids)
        )

    def _known(self, ids: Sequence[int]) -> bool:
        return any(tuple(ids[: len(core)]) == core for core in self._cores)

    def _turns(self, ids_T: Positions) -> tuple[Positions, Positions, Positions, Positions]:
        """(Where each turn opens, where its opening ends, its role, whether that is unknown)."""
        found = [
            self._matches(ids_T, each.token_ids, each.core, each.role) for each in self._openings
        ]
        starts = np.concatenate([starts for starts, _, _ in found])
        stops = np.concatenate([stops for _, stops, _ in found])
        roles = np.concatenate([roles for _, _, roles in found])
        order = np.lexsort((-stops, starts))
        first = np.append(True, np.diff(starts[order]) > 0)[: len(order)]
        starts_H, stops_H, roles_H = (each[order][first] for each in (starts, stops, roles))
        unknown_H = np.zeros(len(starts_H), np.int64)
        if self._heading:
            headed = np.setdiff1d(_places(ids_T, self._heading), starts_H)
            starts_H = np.concatenate([starts_H, headed])
            ends = np.minimum(headed + self._name_ids, len(ids_T))
            stops_H = np.concatenate([stops_H, ends])
            roles_H = np.concatenate([roles_H, np.full(len(headed), OURS)])
            unknown_H = np.concatenate([unknown_H, np.ones(len(headed), np.int64)])
            order = np.argsort(starts_H, kind="stable")
            starts_H, stops_H = starts_H[order], stops_H[order]
            roles_H, unknown_H = roles_H[order], unknown_H[order]
        return starts_H, stops_H, roles_H, unknown_H

    @staticmethod
    def _behind(
        stops_H: Positions, starts_H: Positions, unknown_H: Positions, ids_T: Positions
    ) -> Positions:
        """Further anchors of turns whose role is unknown, as far as the next turn."""
        limits_H = np.append(starts_H[1:], len(ids_T))[: len(starts_H)]
        chosen = unknown_H == 1
        more = stops_H[chosen, None] + np.arange(UNKNOWN_ROLE_ANCHORS - 1)
        return more[more < limits_H[chosen, None]]

    @staticmethod
    def _matches(
        ids_T: Positions, token_ids: Ids, core: int, role: str
    ) -> tuple[Positions, Positions, Positions]:
        """Every place of an opening's core: (start, end of as much of the opening as is there)."""
        starts = _places(ids_T, token_ids[:core])
        stops = starts + core
        whole = np.ones(len(starts), bool)
        for offset in range(core, len(token_ids)):
            at = starts + offset
            whole &= at < len(ids_T)
            whole[whole] = ids_T[at[whole]] == token_ids[offset]
            stops += whole
        return starts, stops, np.full(len(starts), ROLES.index(role))


def _places(ids_T: Positions, wanted: Ids) -> Positions:
    """Where a sequence of ids begins."""
    places = np.flatnonzero(ids_T[: max(len(ids_T) - len(wanted) + 1, 0)] == wanted[0])
    for offset, each in enumerate(wanted[1:], start=1):
        places = places[ids_T[places + offset] == each]
    return places


def _joined(runs: Iterable[Run]) -> list[Run]:
    """Runs of one author that touch made one."""
    joined: list[Run] = []
    for run in runs:
        if joined and joined[-1].author == run.author:
            joined[-1] = joined[-1]._replace(stop=run.stop)
        else:
            joined.append(run)
    return joined
