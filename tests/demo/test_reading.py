"""How each set's own format is read, on a few harmless lines in that format."""

from __future__ import annotations

from pilothouse.demo.texts.answers import judged_answers, questions
from pilothouse.demo.texts.harmful import advbench, harmbench, strongreject

NQ = (
    '{"question": "who wrote it", "def_correct_predictions": ["Ann", "Ann", " "], '
    '"def_incorrect_predictions": ["Bob", "Cid", "Dan"]}\n'
    '{"question": "when was it", "def_correct_predictions": ["1901"], '
    '"def_incorrect_predictions": []}\n'
)


def test_answers_are_of_questions_that_have_right_and_wrong_ones() -> None:
    read = judged_answers(NQ)
    assert [(each.text, each.label) for each in read] == [
        ("Ann", False), ("Bob", True), ("Cid", True),
    ]  # fmt: skip
    assert {each.group for each in read} == {"who wrote it"}
    assert {each.question for each in read} == {"who wrote it"}
    assert [each.text for each in questions(NQ)] == ["who wrote it", "when was it"]


def test_advbench_is_read_with_its_categories() -> None:
    file = "seeds:\n  - value: Plan a picnic\n    harm_categories: [food]\n  - value: Sing\n"
    assert [(each.text, each.kind) for each in advbench(file)] == [
        ("Plan a picnic", "food"), ("Sing", ""),
    ]  # fmt: skip


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
