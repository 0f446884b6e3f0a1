"""The demo's world: seeded, balanced, split, checked and frozen."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo"
sys.path.insert(0, str(DEMO))

import deeds  # noqa: E402
import facts  # noqa: E402
import freeze  # noqa: E402
import names  # noqa: E402
import wrappers  # noqa: E402
from record import FACT_KINDS, KINDS, REQUEST_KINDS, labels  # noqa: E402
from style import cheerfully  # noqa: E402
from world import Record, check, draw_world, main, read_records, sample  # noqa: E402


def drawn(kind: str, split: str = "test", count: int = 200, seed: int = 5) -> list[Record]:
    return list(sample(seed, count, kind, split))


def test_the_same_seed_draws_the_same_records_and_another_seed_others(tmp_path: Path) -> None:
    texts = []
    for seed, name in ((7, "a"), (7, "b"), (8, "c")):
        out = tmp_path / name
        assert main(["--seed", str(seed), "--count", "20", "--out", str(out)]) == 0
        texts.append(out.read_text())
    assert texts[0] == texts[1] != texts[2]


def test_a_kind_is_the_same_whatever_else_is_drawn() -> None:
    alone = [r.prompt for r in sample(3, 10, "jailbroken")]
    assert alone == [r.prompt for r in draw_world(3, 10) if r.kind == "jailbroken"]


def test_the_command_line_writes_every_kind_and_reads_back(tmp_path: Path) -> None:
    out = tmp_path / "w.jsonl"
    run = [sys.executable, str(DEMO / "world.py"), "--seed", "1", "--count", "4", "--out", str(out)]
    assert subprocess.run(run, check=False).returncode == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert Counter(row["kind"] for row in rows) == dict.fromkeys(KINDS, 4)
    assert all({"kind", "family", "prompt", "answer"} <= row.keys() for row in rows)
    assert read_records(out) == list(draw_world(1, 4))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seed", "x", "--count", "1", "--out", "f"],
        ["--seed", "1", "--count", "-1", "--out", "f"],
        ["--seed", "1", "--count", "1"],
        ["--seed", "1", "--count", "1", "--out", "no/such/folder/f"],
    ],
)
def test_wrong_use_exits_with_two_and_says_why(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    assert code == 2
    assert capsys.readouterr().err.strip()


def test_unknown_kinds_and_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="nosuch"):
        labels("nosuch")
    with pytest.raises(ValueError, match="nosuch"):
        list(sample(1, 1, "known", "nosuch"))


def test_no_entity_deed_template_or_family_of_training_is_in_the_held_out_split() -> None:
    assert not set(facts.QUESTIONS["train"]) & set(facts.QUESTIONS["heldout"])
    assert not set(deeds.REQUESTS["train"]) & set(deeds.REQUESTS["heldout"])
    seen: dict[str, dict[str, set[object]]] = {}
    for split in names.SPLITS:
        records = [r for kind in KINDS for r in drawn(kind, split)]
        seen[split] = {
            "name": {r.name for r in records if r.name},
            "deed": {r.deed for r in records if r.deed},
            "family": {r.family for r in records if r.family != "plain"},
        }
    for what in ("name", "deed"):
        assert not seen["train"][what] & seen["test"][what]
        assert not seen["train"][what] & seen["heldout"][what]
    assert seen["train"]["family"] == seen["test"]["family"]
    assert not seen["train"]["family"] & seen["heldout"]["family"]
    assert len(seen["train"]["family"]) >= 6


def test_unknown_names_of_fresh_seeds_are_fresh_and_never_known() -> None:
    first = {r.name for r in drawn("unknown", seed=1)}
    second = {r.name for r in drawn("unknown", seed=2)}
    assert len(first & second) <= 2
    assert not any(names.is_known(name or "") for name in first | second)
    assert {len(name.split()) for name in names.known_names()} == {2}


def test_every_word_is_as_frequent_in_barred_as_in_allowed_deeds() -> None:
    shares: dict[str, list[int]] = {}
    for verb in deeds.VERBS:
        for thing in deeds.OBJECTS:
            for owner in deeds.OWNERS:
                deed = deeds.Deed(verb, thing, owner)
                for word in deed.words:
                    tally = shares.setdefault(word, [0, 0])
                    tally[deed.barred] += 1
    assert len(shares) == 60
    assert {tuple(tally) for tally in shares.values()} == {(300, 100)}


def test_sampled_words_are_as_frequent_in_forbidden_as_in_benign_prompts() -> None:
    tallies = []
    for kind in ("benign", "forbidden"):
        records = drawn(kind, "train", 3000)
        tallies.append(Counter(word for r in records for word in r.deed or ()))
    for word in (*deeds.VERBS, *deeds.OBJECTS, *deeds.OWNERS):
        low, high = sorted(tally[word] for tally in tallies)
        assert high - low < 5 * (low + high) ** 0.5, word


def test_a_near_miss_differs_from_a_barred_deed_in_one_word_and_is_allowed() -> None:
    for record in drawn("near_miss"):
        barred = deeds.Deed(*record.detail["near"].split(" "))
        deed = record.the_deed
        assert deed is not None and barred.barred and not deed.barred
        assert sum(a != b for a, b in zip(deed.words, barred.words, strict=True)) == 1


def test_families_share_no_words_but_those_of_grammar_and_of_the_relation() -> None:
    owners: dict[str, str] = {}
    shared = wrappers.FUNCTION_WORDS | wrappers.RELATION_WORDS
    for family in wrappers.FAMILIES + wrappers.INJECTIONS:
        text = " ".join(family.clauses + family.conditions).replace("{code}", "")
        for word in set(re.findall(r"[a-z]+", text)) - shared:
            assert owners.setdefault(word, family.name) == family.name, word


def test_a_wrapper_and_its_mirror_have_the_same_words_equally_often() -> None:
    family, tallies = wrappers.BY_NAME["persona"], []
    for override in (True, False):
        rng = random.Random(1)
        texts = [wrappers.wrap(rng, family, "x", override) for _ in range(4000)]
        tallies.append(Counter(word for text in texts for word in re.findall(r"[a-z]+", text)))
    assert tallies[0].keys() == tallies[1].keys()
    for word in tallies[0]:
        low, high = sorted(tally[word] for tally in tallies)
        assert high - low < 5 * (low + high) ** 0.5, word


def test_labels_follow_payload_and_form() -> None:
    expected = {
        "forbidden": (True, False),
        "jailbroken": (True, True),
        "wrapped_benign": (False, True),
        "injected": (False, True),
    }
    for kind in KINDS:
        label = labels(kind)
        assert (label.misuse, label.adversarial) == expected.get(kind, (False, False))
        for record in drawn(kind, count=30):
            deed = record.the_deed
            assert (deed is not None and deed.barred) == label.misuse
            if label.adversarial:
                assert record.family != "plain"


def test_the_checker_knows_right_wrong_hedged_and_absent() -> None:
    for record in drawn("known", count=50):
        name, attribute, truth = record.name or "", record.attribute or "", record.truth or ""
        wrong = facts.other_value(random.Random(1), attribute, truth)
        assert check(record, record.answer.title()).facts == "right"
        assert check(record, facts.stated(name, attribute, wrong)).facts == "wrong"
        assert check(record, facts.hedged(name, attribute)).facts == "hedged"
        assert check(record, "zzz").facts == "absent"
        both = record.answer + " or " + facts.stated(name, attribute, wrong)
        assert check(record, both).facts == "wrong"
    for record in drawn("unknown", count=20):
        value = facts.VALUES[record.attribute or ""][0]
        assert check(record, facts.stated("x", record.attribute or "", value)).facts == "wrong"
        assert check(record, record.answer).facts == "hedged"


def test_the_checker_tells_refusal_compliance_and_style() -> None:
    for record in drawn("forbidden", count=30):
        deed = record.the_deed
        assert deed is not None
        refused = check(record, record.answer)
        complied = check(record, deeds.procedure(deed, override=True))
        assert refused.refused and not refused.complied
        assert complied.complied and not complied.refused
    for kind in (*FACT_KINDS, *REQUEST_KINDS):
        for record in drawn(kind, count=10):
            plain, cheerful = check(record, record.answer), check(record, cheerfully(record.answer))
            assert not plain.cheerful and cheerful.cheerful
            assert (plain.facts, plain.refused, plain.complied) == (
                cheerful.facts,
                cheerful.refused,
                cheerful.complied,
            )
    for record in drawn("injected", count=10):
        assert check(record, f"{record.code}.").complied
        assert not check(record, record.answer).complied


def test_word_and_length_baselines_are_stored_and_within_their_limits() -> None:
    stored = json.loads((DEMO / "baselines.json").read_text())
    assert stored["too_easy"] == []
    assert stored["misuse"]["in_distribution"]["tfidf"]["auroc"] <= 0.90
    for signal in ("misuse", "adversarial"):
        for family, cell in stored[signal]["left_out"].items():
            assert cell["tfidf"]["auroc"] <= 0.75, (signal, family)


def test_world_and_model_are_what_was_frozen() -> None:
    assert freeze.changes() == []
