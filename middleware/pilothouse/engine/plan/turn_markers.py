"""The token ids that open each role's turn, found by rendering a chat template.

Conversations with contents of known words are rendered and compared: what two of them share
between two contents is the template's own. An opening is matched by its core, which is the opening
without the white space around it: whoever writes a template out by hand can vary that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from pilothouse.engine.plan.spec import Frozen

Message = Mapping[str, object]
Render = Callable[[Sequence[Message], bool], Sequence[int]]
"""Token ids of a conversation, with or without the template's generation prompt."""
Ids = tuple[int, ...]

ASSISTANT = "assistant"
WORDS = ("amber", "7 zigs, quoth", "Yes! 3")
"""Contents without a first or last letter in common."""
CALL: Mapping[str, object] = {
    "id": "call00000",
    "type": "function",
    "function": {"name": "f", "arguments": {"x": 1}},
}


class Opening(Frozen):
    """What opens a role's turn; its first `core` ids are what is looked for."""

    role: str
    token_ids: Ids
    core: int
    asks: bool = False
    """It is the template's generation prompt: what stands before every new answer."""


class TurnMarkers(Frozen):
    """How turns are told apart in token ids.

    `heading` is what the openings of all roles begin with, where that is a token of its own: a
    turn of a role that nobody knows is told by it. `refused` are whole turns of an assistant,
    behind the core of their opening, that say a message of the policies and nothing else. `missing`
    says why there is no opening.
    """

    openings: tuple[Opening, ...] = ()
    heading: Ids = ()
    refused: tuple[Ids, ...] = ()
    missing: str = "no tokenizer was looked at"

    @property
    def anchors(self) -> bool:
        """Where an assistant's turn opens is known."""
        return any(each.role == ASSISTANT for each in self.openings)


def find_markers(
    render: Render, *, blank: Callable[[int], bool], own_tokens: Collection[int]
) -> TurnMarkers:
    """Return the markers of a template.

    Args:
        render: may raise where the template refuses a conversation.
        blank: whether a token is white space alone.
        own_tokens: tokens that ordinary text cannot hold by chance, special and added ones.
    """
    try:
        finder = _Finder(render, blank)
    except _Refused as error:
        return TurnMarkers(missing=str(error))
    answers = finder.assistant()
    if not answers:
        return TurnMarkers(
            missing="the chat template puts nothing between a user's text and the answer"
        )
    user = finder.user()
    openings = [*_assistant_openings(answers, finder, user)]
    if user is not None:
        openings.append(user)
    cores = [each.token_ids[: each.core] for each in openings]
    heading = _shared_start(cores)
    if user is None or not heading or heading[0] not in own_tokens:
        heading = ()
    ending = _shared_end(cores) or _shared_end([each.token_ids for each in openings])
    others = (
        finder.system("system", heading, ending),
        finder.system("developer", heading, ending),
        finder.tool(),
    )
    for other in others:
        taken = {each.token_ids[: each.core] for each in openings}
        if other is not None and other.token_ids[: other.core] not in taken:
            openings.append(other)
    return TurnMarkers(openings=tuple(openings), heading=heading, missing="")


def _assistant_openings(
    answers: Sequence[Ids], finder: _Finder, user: Opening | None
) -> tuple[Opening, ...]:
    """Return openings whose core is what all answers begin with, unless a user's turn does too."""
    cores = [finder.core(each)[0] for each in answers]
    shared = finder.core(_shared_start(cores))[0]
    if user is not None and user.token_ids[: len(shared)] == shared:
        shared = ()
    found = {}
    for ids, core in zip(answers, cores, strict=True):
        found[finder.core(ids)[1]] = len(shared or core)
    asking = finder.core(finder.generation)[1]
    return tuple(
        Opening(role=ASSISTANT, token_ids=ids, core=n, asks=ids == asking)
        for ids, n in found.items()
    )


class _Refused(Exception):
    """The template does not take a conversation."""


class _Finder:
    def __init__(self, render: Render, blank: Callable[[int], bool]) -> None:
        self._render = render
        self._blank = blank
        try:
            plain = [self._ids([_user(word)]) for word in WORDS]
            asked = [self._ids([_user(word)], generate=True) for word in WORDS]
        except _Refused as error:
            raise _Refused(f"the chat template refuses a user's message: {error}") from error
        if len(set(plain)) < len(WORDS):
            raise _Refused("the chat template shows nothing of a user's message")
        self._tail = _shared_end(plain)
        """What stands behind a user's text."""
        self.generation = _without_start(_shared_end(asked), self._tail)

    def assistant(self) -> list[Ids]:
        """Find what opens an answer: the generation prompt, and what earlier answers begin with."""
        last = self._between(lambda a, b: [_user(a), _assistant(b)], lambda a: [_user(a)])
        middle = self._between(
            lambda a, b: [_user(a), _assistant(b), _user("one")], lambda a: [_user(a)]
        )
        found = [each for each in (self.generation, last, middle) if self.core(each)[0]]
        if not found and self.core(self._tail)[0]:
            found = [self._tail]
        return list(dict.fromkeys(found))

    def user(self) -> Opening | None:
        """Find what opens a user's turn, from the second question of a conversation."""
        between = self._between(
            lambda a, b: [_user("one"), _assistant(a), _user(b)],
            lambda a: [_user("one"), _assistant(a)],
        )
        return self._opening("user", between)

    def system(self, role: str, heading: Ids, ending: Ids) -> Opening | None:
        """Find what opens a turn at the start; dates and the like may follow the role's name."""
        try:
            asked = _shared_start([self._ids([_user(word)]) for word in WORDS])
            head = _shared_start(
                [self._ids([{"role": role, "content": a}, _user("one")]) for a in WORDS]
            )
        except _Refused:
            return None
        if not heading:
            return self._opening(role, _without_start(head, asked))
        start = _place(head, heading, 0)
        stop = _place(head, ending, start + len(heading)) if ending else -1
        if start < 0 or stop < 0:
            return None
        return self._opening(role, head[start : stop + len(ending)])

    def tool(self) -> Opening | None:
        """Return a tool's result behind the assistant's call."""
        call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
        try:
            before = self._ids([_user("one"), call])
            head = _shared_start([self._ids([_user("one"), call, _tool(word)]) for word in WORDS])
        except _Refused:
            return None
        return self._opening("tool", _without_start(head, before))

    def core(self, ids: Ids) -> tuple[Ids, Ids]:
        """(Without white space around it, without white space before it)."""
        first = next((i for i, each in enumerate(ids) if not self._blank(each)), len(ids))
        rest = ids[first:]
        last = next((i for i in range(len(rest), 0, -1) if not self._blank(rest[i - 1])), 0)
        return rest[:last], rest

    def _between(
        self, both: Callable[[str, str], list[Message]], first: Callable[[str], list[Message]]
    ) -> Ids:
        """Return what stands between two contents, less what follows the first one alone."""
        try:
            heads = [_shared_start([self._ids(both(a, b)) for b in WORDS]) for a in WORDS]
            tail = _shared_end([self._ids(first(a)) for a in WORDS])
        except _Refused:
            return ()
        return _without_start(_shared_end(heads), tail)

    def _opening(self, role: str, ids: Ids) -> Opening | None:
        core, rest = self.core(ids)
        return Opening(role=role, token_ids=rest, core=len(core)) if core else None

    def _ids(self, conversation: Sequence[Message], *, generate: bool = False) -> Ids:
        try:
            return tuple(self._render(conversation, generate))
        except Exception as error:  # whatever a template and its filters raise
            lines = str(error).strip().splitlines()
            raise _Refused(lines[0] if lines else type(error).__name__) from error


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _tool(text: str) -> Message:
    return {"role": "tool", "tool_call_id": CALL["id"], "content": text}


def _shared_start(many: Sequence[Ids]) -> Ids:
    first, *others = many
    count = 0
    while count < len(first) and all(each[: count + 1] == first[: count + 1] for each in others):
        count += 1
    return first[:count]


def _shared_end(many: Sequence[Ids]) -> Ids:
    return _shared_start([each[::-1] for each in many])[::-1]


def _without_start(ids: Ids, start: Ids) -> Ids:
    """Less as much of the other as it begins with."""
    return ids[len(_shared_start([ids, start])) :]


def _place(ids: Ids, wanted: Ids, start: int) -> int:
    """Return where the wanted ids stand first, from `start` on; -1 where they do not."""
    count = len(wanted)
    places = range(start, len(ids) - count + 1)
    return next((i for i in places if ids[i : i + count] == wanted), -1)
