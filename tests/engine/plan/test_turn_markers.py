"""What opens turns is found in templates of every common family, with real tokenizers."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "demo"))

from pilothouse.cli.launch import plan_for
from pilothouse.config import load_config
from pilothouse.engine.plan.turn_markers import ASSISTANT, TurnMarkers, find_markers
from pilothouse.engine.scheduler.authorship import (
    Authorship,
    TurnReader,
    policy_messages,
    with_refused,
)
from pilothouse.engine.vllm.chat import turn_markers
from pilothouse.library import library_path
from pilothouse.policy.loader import load_policies
from sample import sample
from tests.support.models.chat_templates import FAMILIES, rendered, tokenizer_of

USER = {"role": "user", "content": "What is it?"}
SAID = {"role": "assistant", "content": "So be it."}
MESSAGES = ("I cannot help with that.", " No! ")
REFUSED = tuple({"role": "assistant", "content": each} for each in MESSAGES)


class Made:
    """A family's tokenizer and what was found in its template."""

    def __init__(self, name: str) -> None:
        self.family = FAMILIES[name]
        self.tokenizer = tokenizer_of(self.family)
        special = {*self.tokenizer.get_added_vocab().values()}
        self.markers = find_markers(
            self.render,
            blank=lambda each: each not in special and not self.tokenizer.decode([each]).strip(),
            own_tokens=special,
        )
        self.markers = with_refused(self.markers, self.render, MESSAGES)
        self.reader = TurnReader(self.markers)

    def render(self, messages, generate: bool) -> list[int]:
        return rendered(self.tokenizer, messages, generate)

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def cores(self, role: str) -> set[tuple[int, ...]]:
        return {each.token_ids[: each.core] for each in self.markers.openings if each.role == role}

    def read(self, ids: list[int]):
        return self.reader.read(ids, len(ids))


def turns_read(read: Authorship) -> int:
    """How many openings are read; positions of one stand close together."""
    return 1 + int(np.count_nonzero(np.diff(read.anchors_A) > 5))


@pytest.fixture(params=FAMILIES)
def made(request: pytest.FixtureRequest) -> Made:
    return Made(request.param)


def test_each_familys_openings_are_found_by_their_tokens(made: Made) -> None:
    family = made.family
    assert made.markers.missing == "" and made.markers.anchors
    assert made.cores(ASSISTANT) == {made.ids(family.core)}
    assert made.ids(family.opening) in {each.token_ids for each in made.markers.openings}
    assert made.cores("user") == {made.ids(family.user)}
    if family.system:
        assert made.cores("system") == {made.ids(family.system)}
    assert made.markers.heading == made.ids(family.heading)


def test_a_chat_prompt_is_anchored_at_its_last_token(made: Made) -> None:
    ids = rendered(made.tokenizer, [USER], True)
    read = made.read(ids)
    assert (read.anchors_A.tolist(), read.num_supplied) == ([len(ids) - 1], 0)


def test_a_given_answer_begins_where_its_turn_does_whatever_it_says(made: Made) -> None:
    """The template's own tokens in what some model said hide nothing that stands before them."""
    before = rendered(made.tokenizer, [USER, SAID, USER], True)

    def begins(*said: str) -> int:
        ids = [*before, *(each for text in said for each in made.ids(text))]
        return made.reader.read(ids, len(ids), answer_turn=1).answer_start

    plain = begins("So it is said.")
    assert plain <= len(before)
    for opening in (made.family.opening, made.family.core, made.family.user):
        assert begins("So it is", opening, "ok") == plain
        assert begins("So it is", opening, "ok", opening, "ok") == plain


def test_where_an_earlier_answer_opens_is_an_anchor_too(
    made: Made,
) -> None:
    ids = rendered(made.tokenizer, [USER, SAID, USER], True)
    first = len(rendered(made.tokenizer, [USER], True))
    read = made.read(ids)
    assert read.anchors_A[-1] == len(ids) - 1
    # An earlier answer's opening may hold more or less than the generation prompt.
    assert all(first - 6 < each < first + 6 for each in read.anchors_A[:-1])
    if ids[:first] == rendered(made.tokenizer, [USER], True):
        assert first - 1 in read.anchors_A, "what was read when it was asked is not read again"


@pytest.mark.parametrize("refused", REFUSED)
def test_a_question_that_a_policy_refused_is_not_asked_again(made: Made, refused) -> None:
    """The same number of tokens in both, so that the later openings stand alike."""
    for before in ([], [USER, SAID]):
        conversation = [*before, USER, refused, USER]
        read = made.read(rendered(made.tokenizer, conversation, True))
        opened = made.read(rendered(made.tokenizer, [*before, USER], True)).anchors_A[-1]
        whole = made.read(rendered(made.tokenizer, [*conversation, SAID, USER], True))
        assert (turns_read(read), turns_read(whole)) == (len(before) // 2 + 1, len(before) // 2 + 2)
        assert not {*range(opened - 5, opened + 1)} & {*read.anchors_A.tolist()}


@pytest.mark.parametrize("refused", REFUSED)
def test_a_refusal_with_anything_more_or_less_in_its_turn_is_an_answer(made: Made, refused) -> None:
    text = refused["content"].strip()
    for other in (f"{text} But:", f"But: {text}", text[:-1], text[:-1] + "x", f"{text}{text}"):
        said = refused | {"content": other}
        read = made.read(rendered(made.tokenizer, [USER, said, USER], True))
        assert turns_read(read) == 2, other


def test_a_refusal_that_nobody_asked_past_is_no_end_of_the_question(made: Made) -> None:
    """At the prompt's end, or before another turn of the assistant: the question still stands."""
    conversation = [USER, REFUSED[0]]
    opened = made.read(rendered(made.tokenizer, [USER], True)).anchors_A[-1]
    begun_ids = rendered(made.tokenizer, conversation, False)
    begun = made.read(begun_ids)
    assert begun.anchors_A[0] <= opened + 5 < len(begun_ids) - 5
    raw = begun_ids + list(made.ids(made.family.opening))
    assert made.read(raw).anchors_A[0] <= opened + 5


def test_messages_of_enforced_rules_that_end_are_what_policies_say() -> None:
    found = policy_messages(load_policies([library_path("policies")]))
    assert found == ("I cannot help with that request.",)


def test_assistant_text_at_the_end_is_supplied_and_is_no_anchor(made: Made) -> None:
    ids = [*rendered(made.tokenizer, [USER], True), *made.ids("So be it.")]
    read = made.read(ids)
    assert read.num_supplied == len(made.ids("So be it."))
    assert read.anchors_A.tolist() == [read.answer_start - 1]


def test_a_prompt_cut_before_its_opening_is_read_at_its_last_token(made: Made) -> None:
    whole = rendered(made.tokenizer, [USER], True)
    ids = whole[: len(whole) - len(made.ids(made.family.opening)) - 2]
    read = made.read(ids)
    assert (read.anchors_A.tolist(), read.num_supplied) == ([len(ids) - 1], 0)


def test_white_space_behind_an_opening_does_not_hide_it() -> None:
    for name in ("chatml", "llama3", "gemma", "phi"):
        made = Made(name)
        for varied in (" ", "\n\n\n", "\t", ""):
            ids = [*made.ids("x" + made.family.core + varied + "So be it.")]
            read = made.read(ids)
            assert read.anchors_A[0] >= len(made.ids("x" + made.family.core)) - 1, (name, varied)
            assert read.num_supplied >= len(made.ids("So be it.")), (name, varied)


def test_a_turn_of_a_role_nobody_knows_counts_as_the_assistants() -> None:
    made = Made("chatml")
    ids = made.ids("<|im_start|>user\nx<|im_end|>\n<|im_start|>Assistant\nSo be it.")
    read = made.read([*ids])
    heading = ids.index(made.markers.heading[0], 1)
    assert read.num_supplied == len(ids) - heading - 2
    assert read.anchors_A.tolist() == [heading + 1, heading + 2, heading + 3, heading + 4]


def test_the_output_is_anchored_where_an_opening_ends_whatever_the_border(made: Made) -> None:
    opening = made.ids(made.family.opening)
    ids = [*made.ids("x"), *opening, *made.ids("So")]
    read = made.read([*made.ids("x")])
    found = [
        position
        for position in range(1, len(ids))
        if made.reader.is_anchor(
            read, ids[max(0, position + 1 - made.reader.reach) : position + 1], position
        )
    ]
    core = len(made.ids(made.family.core))
    assert found == list(range(core, len(opening) + 1))
    assert {ids[each] for each in found} <= made.reader.telling


def test_the_demos_own_template_and_tokenizer_are_read_from_disk() -> None:
    folder = library_path("examples/demo") / "model"
    markers = turn_markers(Namespace(model=str(folder)))
    assert [(each.role, each.token_ids) for each in markers.openings] == [
        (ASSISTANT, (4,)),
        ("user", (3,)),
        ("system", (2,)),
    ]


def test_the_demos_plan_knows_what_its_policies_say_in_the_models_tokens() -> None:
    args = Namespace(model=str(library_path("examples/demo") / "model"))
    config = load_config(library_path("probes/demo") / "pilothouse.yaml")
    turns = plan_for(config, args).body.turns
    [refused] = turns.refused
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    assert tokenizer.decode(refused) == "i cannot help with that request.<|end|>"


@pytest.mark.parametrize(
    "kind", ["benign", "forbidden", "jailbroken", "near_miss", "wrapped_benign"]
)
def test_a_single_question_to_the_demo_is_read_where_its_probes_were_fitted(kind: str) -> None:
    """At the last token alone, so that every figure of their cards stands."""
    folder = library_path("examples/demo") / "model"
    reader = TurnReader(turn_markers(Namespace(model=str(folder))))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for record in sample("anchors", 100, kind, "test"):
        ids = rendered(tokenizer, [{"role": "user", "content": record.prompt}], True)
        assert reader.read(ids, len(ids)).anchors_A.tolist() == [len(ids) - 1]


def test_another_template_on_the_command_line_is_the_one_that_counts(tmp_path: Path) -> None:
    file = tmp_path / "other.jinja"
    file.write_text(FAMILIES["demo"].template.replace("'<|assistant|>'", "'<|system|>!'"))
    folder = library_path("examples/demo") / "model"
    markers = turn_markers(Namespace(model=str(folder), chat_template=str(file)))
    found = {each.token_ids[0] for each in markers.openings if each.role == ASSISTANT}
    assert found == {4, 2}


@pytest.mark.parametrize(
    ("render", "words"),
    [
        (lambda *_: (_ for _ in ()).throw(ValueError("no")), "refuses a user's"),
        (lambda *_: [1, 2], "shows nothing of"),
        (lambda messages, _: [len(messages[0]["content"])], "puts nothing between"),
    ],
)
def test_where_no_opening_is_found_the_reason_is_said(render, words: str) -> None:
    markers = find_markers(render, blank=lambda _: False, own_tokens=())
    assert not markers.anchors and words in markers.missing


def test_without_a_tokenizer_there_are_no_markers_and_the_last_token_is_read() -> None:
    markers = turn_markers(Namespace(model="x", skip_tokenizer_init=True))
    assert "--skip-tokenizer-init" in markers.missing
    assert "cannot be read" in turn_markers(Namespace(model="/nowhere")).missing
    read = TurnReader(TurnMarkers()).read([5, 6, 7], 3)
    assert (read.anchors_A.tolist(), read.num_supplied) == ([2], 0)
