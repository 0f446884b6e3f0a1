"""The wrapped block hasher: same tokens and edits, same hashes; another edit, others."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.engine.scheduler.cache_key import FOREVER, Edit, EditedBlockHasher, Timeline

SIZE = 4
EDIT = Edit(6, FOREVER, "a", 1.0, "request")


def chained(request: SimpleNamespace) -> list[bytes]:
    """As vLLM's hasher: the blocks that became full, each hash over the one before it."""
    done = list(request.block_hashes)
    fresh = []
    while (len(done) + 1) * SIZE <= len(request.tokens):
        block = request.tokens[len(done) * SIZE : (len(done) + 1) * SIZE]
        seed = (done[-1] if done else request.salt) + bytes(block)
        done.append(hashlib.sha256(seed).digest())
        fresh.append(done[-1])
    return fresh


def hashes(tokens: list[int], edits: list[Edit], cuts: list[int], salt: bytes = b"") -> list[bytes]:
    """All hashes, asked for whenever the request has grown to one of the lengths in `cuts`."""
    timeline = Timeline()
    timeline.request(edits)
    hasher = EditedBlockHasher(chained, timeline, SIZE)
    request = SimpleNamespace(tokens=[], block_hashes=[], salt=salt)
    for cut in [*sorted(cuts), len(tokens)]:
        request.tokens = tokens[:cut]
        request.block_hashes.extend(hasher(request))
    return request.block_hashes


TOKENS = list(range(30))


def test_without_edits_the_hashes_are_vllms_own() -> None:
    assert hashes(TOKENS, [], []) == chained(
        SimpleNamespace(tokens=TOKENS, block_hashes=[], salt=b"")
    )


def test_blocks_before_the_first_edit_are_shared_and_all_after_it_are_not() -> None:
    plain, edited = hashes(TOKENS, [], []), hashes(TOKENS, [EDIT], [])
    assert edited[0] == plain[0]
    assert not set(edited[1:]) & set(plain)


def test_blocks_after_an_edit_that_ended_still_differ() -> None:
    ended = [Edit(0, 2, "a", 1.0, "request")]
    assert not set(hashes(TOKENS, ended, [])) & set(hashes(TOKENS, [], []))


def test_the_clients_salt_still_isolates() -> None:
    assert not set(hashes(TOKENS, [EDIT], [], b"x")) & set(hashes(TOKENS, [EDIT], [], b"y"))


@given(st.lists(st.integers(0, 30), max_size=8))
def test_one_call_or_many_give_the_same_hashes(cuts: list[int]) -> None:
    assert hashes(TOKENS, [EDIT], cuts) == hashes(TOKENS, [EDIT], [])


def test_the_clause_of_the_edit_changes_the_hashes_from_where_it_ends() -> None:
    prompt_only = [Edit(6, 10, "a", 1.0, "request")]
    ours, theirs = hashes(TOKENS, [EDIT], []), hashes(TOKENS, prompt_only, [])
    assert ours[:2] == theirs[:2]
    assert not set(ours[2:]) & set(theirs[2:])
