"""Ways round enforced rules: each is told where it is open, and not where something closes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from pilothouse.aggregate import TRAITS
from pilothouse.artifacts.catalog import load_catalog, signals_of
from pilothouse.config import Auth, load_config
from pilothouse.policy.ending_rules import DoorName, OpenDoor, Surroundings
from pilothouse.policy.lint import has_findings, lint
from pilothouse.policy.loader import load_policies
from pilothouse.policy.open_doors import grouped, open_doors
from pilothouse.policy.resolve import Artefacts, resolve_policy
from pilothouse.policy.schema import Policy
from pilothouse.trusted_proxies import TrustedProxies
from pilothouse.types import Aggregate, AggregateKind, HeadKind, Scope, SignalSpec
from tests.policy.test_lint import write
from tests.support.policies import policy_text, rule_text, sample_policy

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = CHECKOUT / "docs" / "explanation" / "security.md"
ENFORCED = ("mode: enforce", "on_error: closed")


def spec(
    probe: str, readout: str, scope: Scope, kind: AggregateKind, head: HeadKind = "linear"
) -> SignalSpec:
    given = {name: each.example for name, each in TRAITS[kind].parameters.items()}
    aggregate = replace(Aggregate(kind), **given)
    return SignalSpec(f"{probe}/{readout}", probe, scope, aggregate, 1.0, 0.0, True, head=head)


KNOWN = (
    spec("misuse", "prompt", "prompt", "last"),
    spec("misuse", "prompt_mean", "prompt", "mean"),
    spec("misuse", "prompt_softmax", "prompt", "softmax_mean"),
    spec("misuse", "prompt_ema", "prompt", "ema_last"),
    spec("misuse", "prompt_window", "prompt", "sliding_mean"),
    spec("misuse", "prompt_cusum", "prompt", "cusum_last"),
    spec("misuse", "prompt_alarm", "prompt", "k_of_n"),
    spec("misuse", "prompt_peak", "prompt", "sliding_max"),
    spec("misuse", "prompt_top", "prompt", "top_k_mean"),
    spec("misuse", "prompt_any", "prompt", "noisy_or"),
    spec("misuse", "said_window", "output", "sliding_mean"),
    spec("misuse", "said_alarm", "output", "k_of_n"),
    spec("misuse", "said", "output", "max"),
    spec("misuse", "said_last", "answer", "last"),
    spec("other", "prompt", "prompt", "max"),
    spec("looks", "said", "answer", "last", "attention"),
    spec("peaks", "said", "answer", "last", "multimax"),
)
ARTEFACTS = Artefacts({each.key: each for each in KNOWN}, {}, None)
READS = {
    each.key: f"s: {{probe: {each.probe}, readout: {each.key.split('/')[1]}}}" for each in KNOWN
}
OTHER = "o: {probe: other, readout: prompt}"


def policy(
    *,
    name: str = "one",
    phase: str = "prompt",
    when: str = "s >= 0.5",
    read: str = "misuse/prompt",
    then: str = "{action: block}",
    more: tuple[str, ...] = (),
    spec: tuple[str, ...] = ENFORCED,
) -> Policy:
    signals = (READS[read], *((OTHER,) if " o " in f" {when} " else ()))
    return sample_policy(
        rule_text(when=when, then=then, phase=phase),
        name=name,
        signals=signals,
        spec=(*spec, *more),
    )


def doors(*policies: Policy, **around: Any) -> tuple[OpenDoor, ...]:
    specs = {each.name: resolve_policy(each, ARTEFACTS).signals for each in policies}
    return open_doors(policies, specs, Surroundings(**around))


def names(*policies: Policy, past: str = "one", **around: Any) -> set[str]:
    """Doors past the rules of one policy, without what only a rule over answers closes."""
    found = {each.name for each in doors(*policies, **around) if each.rule.startswith(past)}
    return found - {"own-words"}


HALF = policy(name="half", phase="output", read="misuse/said")
EVERYONE = policy(name="all")


def proxies(*cidrs: str) -> Auth:
    return Auth(trusted_proxies=TrustedProxies(cidrs=cidrs))


def match(**patterns: str) -> tuple[str, ...]:
    [(name, pattern)] = patterns.items()
    return (f"match: {{{name}: [{pattern}]}}",)


SCOPED = [
    ("endpoint", "warning", match(endpoints="chat"), {}),
    ("nobody", "warning", match(tenants="acme"), {"auth": Auth()}),
    ("tenant", "note", match(tenants="acme"), {"auth": proxies("10.0.0.0/8")}),
    ("tenant", "warning", match(tenants="acme"), {"auth": proxies("10.0.0.0/8", "0.0.0.0/0")}),
    ("tenant", "warning", match(tenants="acme"), {"auth": proxies("::/0")}),
    ("tenant", "note", match(tenants="acme"), {}),
    ("profile", "note", match(profiles="demo:*"), {"profiles": frozenset({"demo:a"})}),
    ("nobody", "warning", match(profiles="demo:*"), {"profiles": frozenset()}),
]


@pytest.mark.parametrize(("name", "severity", "more", "around"), SCOPED)
def test_a_scope_that_callers_can_leave_is_a_door_unless_the_rule_holds_for_all(
    name: str, severity: str, more: tuple[str, ...], around: dict[str, Any]
) -> None:
    scoped = policy(more=more)
    [door] = [each for each in doors(scoped, **around) if each.name != "own-words"]
    assert (door.name, door.severity, door.at[:2]) == (name, severity, ("spec", "match"))
    assert names(scoped, EVERYONE, **around) == set()
    assert names(policy(), **around) == set()


def test_a_rule_in_shadow_or_for_some_stands_in_for_none() -> None:
    scoped = policy(more=match(endpoints="chat"))
    shadow = policy(name="all", spec=("mode: shadow",))
    some = policy(name="all", more=("rollout_percent: 50",))
    elsewhere = policy(name="all", more=("match: {tenants: [acme], endpoints: [completions]}",))
    unlike = policy(name="all", read="other/prompt")
    for other in (shadow, some, elsewhere, unlike):
        assert "endpoint" in names(scoped, other)
    same = policy(name="all", more=match(endpoints="completions, responses"))
    assert names(scoped, same) == set()


def test_a_policy_for_a_name_that_is_not_served_holds_for_nobody() -> None:
    for_one = policy(more=match(models="llama"))
    assert names(for_one) == set()
    assert names(for_one, served_names=("llama", "alias")) == set()
    assert names(for_one, served_names=("demo",)) == {"nobody"}
    found = names(for_one, served_names=("demo",), adapters=("llama",))
    assert found == {"model", "adapters"}
    assert names(for_one, EVERYONE, served_names=("demo",)) == set()


@pytest.mark.parametrize(("keys", "severity"), [(False, "warning"), (True, "note"), (None, "note")])
def test_a_share_of_the_callers_can_be_chosen_where_it_is_drawn_by_address(
    keys: bool | None, severity: str
) -> None:
    some = policy(more=("rollout_percent: 50",))
    [door] = [each for each in doors(some, has_keys=keys) if each.name == "rollout"]
    assert door.severity == severity
    assert names(policy(), has_keys=keys) == set()


def test_scores_that_clients_see_are_a_door_past_every_rule() -> None:
    grant = Auth(client_scores=True)
    late = policy(name="late", phase="final", read="misuse/said")
    found = doors(policy(), late, auth=grant)
    assert {each.rule for each in found if each.name == "client-scores"} == {"one/r", "late/r"}
    assert names(policy(), auth=Auth()) == set()
    [told] = [each for each in grouped(found) if each["door"] == "client-scores"]
    assert told["rules"] == ["one/r", "late/r"] and "every client" in str(told["reason"])
    [here] = [
        each
        for each in doors(policy(), auth=grant, for_this_machine=True)
        if each.name == "client-scores"
    ]
    assert "callers on this machine" in here.reason


@pytest.mark.parametrize(
    ("name", "around"),
    [
        ("client-steering", {"auth": Auth(client_steering=True)}),
        ("no-template", {"renders_chats": False}),
    ],
)
def test_what_reaches_behind_the_prompt_is_closed_by_a_rule_over_answers(
    name: str, around: dict[str, Any]
) -> None:
    assert names(policy(), **around) == {name}
    assert names(policy(), HALF, **around) == set()
    prompt_again = policy(name="half", phase="output", read="misuse/prompt")
    assert name in names(policy(), prompt_again, **around)
    assert names(policy(phase="output", read="misuse/said"), **around) == set()
    assert names(policy(), renders_chats=True) == set()


def test_a_policy_that_scores_answers_is_its_own_other_half() -> None:
    scoring = policy(more=("score_answers: true",))
    assert doors(scoring, auth=Auth(client_steering=True)) == ()


def test_what_the_model_says_of_itself_is_read_or_told_to_be_unread() -> None:
    [door] = doors(policy())
    assert (door.name, door.severity) == ("own-words", "note")
    assert doors(policy(), HALF) == ()
    others = sample_policy(
        rule_text(when="s >= 0.5", then="{action: block}", phase="output"),
        name="half",
        signals=(READS["misuse/said"],),
        spec=ENFORCED,
    )
    about_else = others.model_copy(
        update={"metadata": others.metadata.model_copy(update={"category": "hallucination"})}
    )
    assert [each.name for each in doors(policy(), about_else)] == ["own-words"]


def test_the_prompt_read_in_a_later_phase_misses_what_a_client_writes() -> None:
    for phase in ("output", "final"):
        assert "prompt-read-late" in names(policy(phase=phase))
        assert names(policy(phase=phase), EVERYONE) == set()
    assert names(policy(phase="output", read="misuse/said")) == set()


def test_the_end_of_an_answer_is_the_clients_to_choose() -> None:
    last = policy(phase="final", read="misuse/said_last")
    assert names(last) == {"last-token"}
    assert names(last, HALF) == set()
    assert names(policy(phase="output", read="misuse/said_last")) == set()
    assert names(policy(phase="final", read="misuse/said")) == set()


def test_a_mean_is_lowered_by_text_around_it() -> None:
    for readout in ("prompt_mean", "prompt_softmax"):
        assert names(policy(read=f"misuse/{readout}")) == {"mean"}
    for readout in ("prompt_peak", "prompt_top", "prompt_any"):
        assert names(policy(read=f"misuse/{readout}")) == set()


def test_what_reads_the_end_of_a_prompt_is_lowered_by_text_there() -> None:
    for readout in ("prompt_ema", "prompt_window", "prompt_cusum", "prompt_alarm"):
        assert names(policy(read=f"misuse/{readout}")) == {"mean"}
    for readout in ("said_window", "said_alarm"):
        assert names(policy(phase="output", read=f"misuse/{readout}")) == set()
        assert names(policy(phase="final", read=f"misuse/{readout}")) == {"last-token"}


def test_a_head_that_pools_reads_more_than_the_end_and_attention_can_be_diluted() -> None:
    assert names(policy(phase="final", read="looks/said")) == {"mean"}
    assert names(policy(phase="final", read="peaks/said")) == set()


@pytest.mark.parametrize(
    ("when", "is_open"),
    [
        ("s >= 0.5 and o < 0.2", True),
        ("s >= 0.5 and not o >= 0.2", True),
        ("not (s < 0.5 or o > 0.9)", True),
        ("0.5 <= s < 0.9", True),
        ("s >= 0.5 and o >= 0.2", False),
        ("not (s < 0.5 and o < 0.2)", False),
        ("s > 0.5 or o > 0.2", False),
    ],
)
def test_a_rule_that_something_high_keeps_from_firing_can_be_kept_from_firing(
    when: str, is_open: bool
) -> None:
    assert ("exception" in names(policy(when=when))) == is_open


def test_a_rule_that_fails_open_is_told() -> None:
    opened = policy(spec=("mode: enforce", "on_error: open"))
    respond = policy(spec=("mode: enforce",), then="{action: respond, message: later}")
    assert names(opened) == names(respond) == {"on-error"}
    assert names(policy(spec=("mode: enforce",))) == set()


def test_what_the_model_takes_and_the_server_opens_is_told_where_it_is_known() -> None:
    assert names(policy(), takes_pictures=True) == {"pictures"}
    assert names(policy(), adapters=("tiny",)) == {"adapters"}
    assert names(policy(), has_metrics=True) == {"metrics"}
    assert names(policy(), opened=("/v1/load_lora_adapter",)) == {"gate-allow"}
    assert names(policy(), takes_pictures=False, has_metrics=False) == set()


EVERYTHING: dict[str, Any] = {
    "auth": Auth(client_scores=True, client_steering=True),
    "served_names": ("x",),
    "adapters": ("y",),
    "renders_chats": False,
    "takes_pictures": True,
    "has_metrics": True,
    "opened": ("/sleep",),
}


def test_what_ends_nothing_has_no_way_round() -> None:
    logs = policy(spec=("mode: enforce",), then="{action: log}")
    shadow = policy(spec=("mode: shadow",), more=match(endpoints="chat"))
    nothing = policy(more=("rollout_percent: 0",))
    assert doors(logs, shadow, nothing, **EVERYTHING) == ()


def test_the_page_lists_every_kind_of_door_and_no_other() -> None:
    rows = PAGE.read_text(encoding="utf-8").split("## Doors that stay open")[1].split("\n## ")[0]
    listed = [row.split("`")[1] for row in rows.splitlines() if row.startswith("| `")]
    assert sorted(listed) == sorted(get_args(DoorName))


def test_lint_warns_at_the_field_that_leaves_the_door_open(tmp_path: Path) -> None:
    text = policy_text(
        rule_text(then="{action: block}"), spec=(*ENFORCED, "match: {endpoints: [chat]}")
    )
    write(tmp_path, text)
    [found] = [each for each in lint([tmp_path]) if each.severity == "warning"]
    assert (found.line, found.field) == (12, "spec.match.endpoints")
    assert "can be walked round (endpoint)" in found.text


def test_a_grant_of_the_server_is_a_finding_of_lint_and_none_without_it() -> None:
    baseline = CHECKOUT / "policies" / "baseline"
    quiet = lint([baseline], None, Surroundings(auth=Auth()))
    assert not has_findings(quiet)
    [found] = [
        each
        for each in lint([baseline], None, Surroundings(auth=Auth(client_scores=True)))
        if each.severity == "warning"
    ]
    assert "client-scores" in found.text and found.field == "spec.rules[0]"


def test_the_demos_own_configuration_leaves_open_just_what_no_setting_closes() -> None:
    config = load_config(CHECKOUT / "probes" / "demo" / "pilothouse.yaml")
    known = {
        spec.key: spec
        for probe in load_catalog(config).probes.values()
        for spec in signals_of(probe)
    }
    policies = load_policies(config.policies)
    artefacts = Artefacts(known, {}, None)
    specs = {each.name: resolve_policy(each, artefacts).signals for each in policies}

    def told(**around: Any) -> list[tuple[str, str]]:
        found = open_doors(policies, specs, Surroundings(**around))
        return [(each.name, each.rule) for each in found]

    rule = "no-misuse/block-misuse"
    served = {"renders_chats": True, "has_metrics": True, "served_names": ("demo",)}
    assert told(auth=config.auth, **served) == [("own-words", rule), ("metrics", rule)]
    demo = Auth(client_steering=True, client_scores=True)
    assert told(auth=demo, **served) == [
        ("client-scores", rule),
        ("client-steering", rule),
        ("own-words", rule),
        ("metrics", rule),
    ]
