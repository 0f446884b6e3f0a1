"""What of a prompt is whose: where assistant's turns open in it, and where the answer begins.

An answer may begin before the output does: assistant's text at the end of a prompt was written by
the client, and belongs to the answer as what no model chose. Outputs may open turns, too: those
positions are found, and marked, before the tokens that do so are fed.

Earlier turns that one of our own policies answered are known by what stands in them: a message of
the policies and nothing else. A question that was refused is in the history of the next one, and
so is the opening behind it. The value there is what it was, so that a rule which fired on it would
fire on every later turn of the conversation.

Shape suffixes: T tokens of a prompt, H turns that open in it, A anchors, C rows of the score table,
W the window of marks, S positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.engine.plan.turn_markers import ASSISTANT, Ids, Opening, Render, TurnMarkers
from pilothouse.engine.vllm.protocols import EngineCoreOutput
from pilothouse.policy.schema import Block, Policy, Respond
from pilothouse.types import BoolArray, IntArray

if TYPE_CHECKING:
    from pilothouse.engine.scheduler.request_state import RequestState


UNKNOWN_ROLE_ANCHORS = 4
"""Behind the heading of a turn whose role nobody knows, where the role's name may end."""

Positions = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(slots=True)
class Authorship:
    """Of one request.

    `anchors_A` are the positions at which a readout of one position reads the prompt: the last
    token of each opening of an assistant's turn, that of a generation prompt within it, and the
    prompt's last token if no such turn is open there. `answer_start` is the first position of the
    answer: behind the last opening where the prompt ends in an assistant's turn, else the first
    position of the output.
    """

    num_prompt_tokens: int
    anchors_A: Positions
    answer_start: int
    heading_until: int = -1
    """In the output, the last position at which the name of a role may end that nobody knows."""

    @classmethod
    def unmarked(cls, num_prompt_tokens: int) -> Authorship:
        """Of a prompt that shows no turns."""
        last = np.array([max(num_prompt_tokens - 1, 0)], np.int64)
        return cls(num_prompt_tokens, last, num_prompt_tokens)

    @property
    def num_supplied(self) -> int:
        """Positions at the prompt's end that are the assistant's and that the client wrote."""
        return self.num_prompt_tokens - self.answer_start


class Turns(NamedTuple):
    """Turns of a prompt, in order of where they open."""

    starts_H: Positions
    bodies_H: Positions
    """Behind the core of each opening."""
    stops_H: Positions
    """Behind as much of the whole opening as is there."""
    is_ours_H: Flags
    """An assistant's, or of a role that nobody knows."""
    is_unknown_H: Flags


class TurnReader:
    """Finds turns in token ids by a model's markers."""

    def __init__(self, markers: TurnMarkers) -> None:
        ours = [each for each in markers.openings if each.role == ASSISTANT]
        self._openings = markers.openings
        self._heading = markers.heading
        self._cores = {each.token_ids[: each.core] for each in markers.openings}
        self._name_ids = max((each.core for each in ours), default=0)
        self._refused = {np.array(each, np.int64).tobytes() for each in markers.refused}
        self._refused_lengths = np.array([len(each) for each in markers.refused], np.int64)
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

    def read(
        self,
        prompt_token_ids: Sequence[int] | None,
        num_prompt_tokens: int,
        *,
        answer_turn: int | None = None,
    ) -> Authorship:
        """Of a prompt; one of embeddings has no tokens, and shows no turns.

        Args:
            prompt_token_ids: all of it.
            num_prompt_tokens: how many these are.
            answer_turn: of a given answer, how many of the assistant's turns stand before it. Then
                it begins behind that opening, whatever turns its own text opens: what somebody
                else's model said may hold the template's tokens, and they hide nothing.
        """
        if not self._openings or not prompt_token_ids:
            return Authorship.unmarked(num_prompt_tokens)
        ids_T = np.array(prompt_token_ids, np.int64)
        turns = self.turns(ids_T)
        refused_H = self._is_refused(ids_T, turns)
        anchors = [
            turns.stops_H[turns.is_ours_H & ~refused_H] - 1,
            self._where_asked(ids_T, turns.starts_H[refused_H]),
            _behind_headings(turns, len(ids_T)),
        ]
        answer_start = num_prompt_tokens
        if turns.is_ours_H[-1:].any():
            answer_start = min(int(turns.stops_H[-1]), num_prompt_tokens)
        else:
            anchors.append(np.array([num_prompt_tokens - 1], np.int64))
        if answer_turn is not None:
            own_stops = turns.stops_H[turns.is_ours_H & ~turns.is_unknown_H]
            if len(own_stops):
                chosen = own_stops[min(answer_turn, len(own_stops) - 1)]
                answer_start = min(int(chosen), num_prompt_tokens)
        return Authorship(num_prompt_tokens, np.unique(np.concatenate(anchors)), answer_start)

    def is_anchor(self, authorship: Authorship, ids: Sequence[int], position: int) -> bool:
        """Whether an assistant's turn opens with the newest of a request's tokens.

        Only the core of an opening can be told from what comes behind it when it has come, so
        each token from there to the end of the whole opening counts.

        Args:
            authorship: of the request.
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

    def turns(self, ids_T: Positions) -> Turns:
        """Every turn that opens in a prompt; of openings that begin alike, the longest."""
        found = [_matches(ids_T, each) for each in self._openings]
        if self._heading:
            heads = _places(ids_T, self._heading)
            ends = np.minimum(heads + self._name_ids, len(ids_T))
            yes = np.ones(len(heads), bool)
            # Where it counts as ending at once, every known opening of the place is longer.
            found.append(Turns(heads, ends, heads, yes, yes))
        columns = zip(*found, strict=True)
        starts, bodies, stops, ours, unknown = (np.concatenate(each) for each in columns)
        order = np.lexsort((-stops, starts))
        first = np.append(True, np.diff(starts[order]) > 0)[: len(order)]
        kept = order[first]
        stops = np.where(unknown, bodies, stops)
        return Turns(starts[kept], bodies[kept], stops[kept], ours[kept], unknown[kept])

    def _is_refused(self, ids_T: Positions, turns: Turns) -> Flags:
        """Which turns hold a message of the policies and nothing else, and end with another's turn.

        What was asked before one was not answered, and is not asked again by what follows.
        """
        refused_H = np.zeros(len(turns.starts_H), bool)
        begins, ends = turns.bodies_H[:-1], turns.starts_H[1:]
        ours_H = turns.is_ours_H
        chosen = ours_H[:-1] & ~turns.is_unknown_H[:-1] & ~ours_H[1:]
        chosen &= np.isin(ends - begins, self._refused_lengths)
        for h in np.flatnonzero(chosen).tolist():
            refused_H[h] = ids_T[begins[h] : ends[h]].tobytes() in self._refused
        return refused_H

    def _where_asked(self, ids_T: Positions, refused_starts: Positions) -> Positions:
        """Where generation prompts end; more of an earlier turn than that may look like opening."""
        ends = [np.zeros(0, np.int64)]
        for each in self._openings:
            if each.asks:
                starts = np.setdiff1d(_places(ids_T, each.token_ids), refused_starts)
                ends.append(starts + len(each.token_ids) - 1)
        return np.concatenate(ends)

    def _known(self, ids: Sequence[int]) -> bool:
        return any(tuple(ids[: len(core)]) == core for core in self._cores)


def _behind_headings(turns: Turns, stop: int) -> Positions:
    """Further anchors of turns whose role is unknown, as far as the next turn."""
    limits_H = np.append(turns.starts_H[1:], stop)[: len(turns.starts_H)]
    chosen_H = turns.is_unknown_H
    more = turns.stops_H[chosen_H, None] + np.arange(UNKNOWN_ROLE_ANCHORS - 1)
    behind: Positions = more[more < limits_H[chosen_H, None]]
    return behind


def _matches(ids_T: Positions, opening: Opening) -> Turns:
    """Every place of an opening's core, with as much of the whole opening as is there."""
    starts = _places(ids_T, opening.token_ids[: opening.core])
    stops = starts + opening.core
    whole = np.ones(len(starts), bool)
    for offset in range(opening.core, len(opening.token_ids)):
        at = starts + offset
        whole &= at < len(ids_T)
        whole[whole] = ids_T[at[whole]] == opening.token_ids[offset]
        stops += whole
    ours = np.full(len(starts), opening.role == ASSISTANT)
    return Turns(starts, starts + opening.core, stops, ours, np.zeros(len(starts), bool))


def _places(ids_T: Positions, wanted: Ids) -> Positions:
    """Where a sequence of ids begins."""
    places = np.flatnonzero(ids_T[: max(len(ids_T) - len(wanted) + 1, 0)] == wanted[0])
    for offset, each in enumerate(wanted[1:], start=1):
        places = places[ids_T[places + offset] == each]
    return places


OutputOpening = tuple[str, int]
"""A request's id and a position of its output with which an assistant's turn opens."""


class OutputOpenings:
    """Looks at the tokens that each step brings.

    Args:
        reader: which tokens open whose turn.
        request_states: by request id; those with an authorship are looked at.
    """

    def __init__(self, reader: TurnReader, request_states: Mapping[str, RequestState]) -> None:
        self._reader = reader
        self._request_states = request_states

    def find(self, outputs: Sequence[EngineCoreOutput]) -> Iterator[OutputOpening]:
        """Yield openings among the tokens that vLLM has appended in this step."""
        telling = self._reader.telling
        for output in outputs:
            state = self._request_states.get(output.request_id)
            if state is None or state.authorship is None:
                continue
            count = len(output.new_token_ids)
            for i, token_id in enumerate(output.new_token_ids):
                if (token_id in telling or state.in_turn_heading) and self._opens(
                    state, i - count, ()
                ):
                    yield output.request_id, state.request.num_tokens + i - count

    def find_drafted(self, sampled_ids: Mapping[str, Sequence[int]]) -> Iterator[OutputOpening]:
        """Yield openings among accepted drafts, which are fed in the step that tells of them.

        Args:
            sampled_ids: what the step sampled for each request with drafts.
        """
        telling = self._reader.telling
        for request_id, sampled in sampled_ids.items():
            state = self._request_states.get(request_id)
            if state is None or state.authorship is None:
                continue
            for i, token_id in enumerate(sampled):
                if (token_id in telling or state.in_turn_heading) and self._opens(
                    state, i, sampled[: i + 1]
                ):
                    yield request_id, state.request.num_tokens + i

    def _opens(self, state: RequestState, offset: int, unappended: Sequence[int]) -> bool:
        """Tell whether a position of a request is an anchor.

        Args:
            state: whose position it is; it has an authorship.
            offset: where it stands, from the first position that vLLM has not appended yet.
            unappended: tokens up to it that are not appended.
        """
        authorship = state.authorship
        assert authorship is not None
        position = state.request.num_tokens + offset
        stop = position + 1 - len(unappended)
        start = max(0, stop - self._reader.reach)
        ids = [*state.request.all_token_ids[start:stop], *unappended]
        opens = self._reader.is_anchor(authorship, ids, position)
        state.in_turn_heading = position < authorship.heading_until
        return opens


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


MARKED_AHEAD = 1024
"""How far ahead of what is folded a position can be marked; more than drafts of one step."""


class AnchorMarks:
    """A window of marks for each row."""

    def __init__(self) -> None:
        self._marks_CW: NDArray[np.bool_] = np.zeros((0, MARKED_AHEAD), bool)
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def grow(self, more: int) -> None:
        """So many more rows."""
        added = np.zeros((more, MARKED_AHEAD), bool)
        self._marks_CW = np.concatenate([self._marks_CW, added])

    def add(self, row: int, position: int) -> None:
        """Mark a position."""
        self._count += not self._marks_CW[row, position % MARKED_AHEAD]
        self._marks_CW[row, position % MARKED_AHEAD] = True

    def take(self, rows_S: IntArray, at_S: IntArray) -> BoolArray:
        """Which positions are marked; their marks go."""
        marked_S: BoolArray = self._marks_CW[rows_S, at_S % MARKED_AHEAD]
        self._marks_CW[rows_S, at_S % MARKED_AHEAD] = False
        self._count -= int(np.count_nonzero(marked_S))
        return marked_S

    def clear(self, row: int) -> None:
        """All marks of a row go."""
        self._count -= int(np.count_nonzero(self._marks_CW[row]))
        self._marks_CW[row] = False
