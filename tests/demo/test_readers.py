"""How each set's own format is read, on a few harmless lines in that format."""

from __future__ import annotations

from pilothouse.demo.texts.injected import bastioncorpus
from pilothouse.demo.texts.readers import (
    accepted_answers,
    advbench,
    harmbench,
    how_to_questions,
    judged_answers,
    medication_questions,
    money_questions,
    questions,
    strongreject,
)

NQ = (
    '{"question": "who wrote it", "def_correct_predictions": ["Ann", "Ann", " "], '
    '"def_incorrect_predictions": ["Bob", "Cid", "Dan"]}\n'
    '{"question": "when was it", "def_correct_predictions": ["1901"], '
    '"def_incorrect_predictions": []}\n'
)


def test_answers_are_of_questions_that_have_right_and_wrong_ones() -> None:
    read = judged_answers(NQ)
    assert [(each.text, each.label) for each in read] == [
        ("Ann", False),
        ("Bob", True),
        ("Cid", True),
    ]
    assert {each.group for each in read} == {"who wrote it"}
    assert {each.question for each in read} == {"who wrote it"}
    assert [each.text for each in questions(NQ)] == ["who wrote it", "when was it"]


def test_advbench_is_read_with_its_categories() -> None:
    file = "seeds:\n  - value: Plan a picnic\n    harm_categories: [food]\n  - value: Sing\n"
    assert [(each.text, each.kind) for each in advbench(file)] == [
        ("Plan a picnic", "food"),
        ("Sing", ""),
    ]


def test_harmbench_keeps_the_standard_behaviours() -> None:
    file = (
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
        "Bake a cake,standard,food,,,cake\nSing a song,copyright,art,,,song\n"
    )
    assert [(each.text, each.group) for each in harmbench(file, file)] == [
        ("Bake a cake", "cake")
    ] * 2


def test_strongreject_leaves_out_what_it_took_from_the_fitted_set() -> None:
    file = "category,source,forbidden_prompt\nfood,custom,Bake\nfood,AdvBench,Sing\n"
    assert [each.text for each in strongreject(file)] == ["Bake"]


def test_accepted_answers_are_the_questions_own_and_those_that_people_added() -> None:
    file = (
        '{"question": "who wrote it", "answer": ["Ann"], '
        '"answer_and_def_correct_predictions": ["Ann", "Ann Lee"]}\n'
        '{"question": "when was it", "answer": ["1901", "1901"]}\n'
    )
    assert [(each.group, each.text) for each in accepted_answers(file)] == [
        ("who wrote it", "Ann"),
        ("who wrote it", "Ann Lee"),
        ("when was it", "1901"),
    ]


def test_harmless_questions_are_read_once_each() -> None:
    goals = '{"question": "How to bake?"}\n{"question": "oven"}\n{"question": "How to bake?"}\n'
    assert [each.text for each in how_to_questions(goals, goals)] == ["How to bake?"]
    assert [each.text for each in medication_questions('{"Question": "is it safe "}\n')] == [
        "is it safe"
    ]
    [asked] = money_questions('{"question": "May I lend it?"}\n')
    assert (asked.label, asked.group) == (False, "May I lend it?")


def test_bastioncorpus_is_read_by_channel_and_language() -> None:
    rows = [("user_input", "en", "malicious"), ("tool_output", "de", "benign")]
    file = "".join(
        f'{{"id": "{number}", "text": "t{number}", "channel": "{channel}", "lang": "{language}", '
        f'"label": "{label}"}}\n'
        for number, (channel, language, label) in enumerate(rows)
    )
    one, other = bastioncorpus(file)
    assert (one.kind, one.label, one.from_tool) == ("user_input english", True, False)
    assert (other.kind, other.label, other.from_tool) == ("tool_output other-language", False, True)
