"""Which policies hold for whom, and who is inside a roll-out."""

from __future__ import annotations

import pytest

from pilothouse.policy.matching import RequestFacts, applied_policies
from pilothouse.policy.schema import Policy
from tests.support.policies import rule_text, sample_policy


def facts(
    tenant: str = "acme-red", model: str = "llama", profile: str | None = None, key: str = "k"
) -> RequestFacts:
    return RequestFacts(tenant, model, profile, "chat", key)


def matching(match: str) -> Policy:
    return sample_policy(rule_text(), spec=(f"match: {{{match}}}",))


def rollout(percent: float, name: str = "sample") -> Policy:
    return sample_policy(
        rule_text(), name=name, spec=("mode: enforce", f"rollout_percent: {percent}")
    )


def enforced(policy: Policy, count: int = 4000) -> set[int]:
    """The callers, by number, for whom the policy is enforced."""
    return {
        caller
        for caller in range(count)
        if applied_policies([policy], facts(key=f"key-{caller}"))[0].enforced
    }


@pytest.mark.parametrize(
    ("match", "holds"),
    [
        ('tenants: ["*"]', True),
        ("tenants: [acme-*]", True),
        ("tenants: [other, acme-red]", True),
        ("tenants: [ACME-*]", False),
        ("tenants: [acme]", False),
        ("models: [llama]", True),
        ("models: [qwen*]", False),
        ('profiles: ["*"]', True),
        ('profiles: ["demo:*"]', False),
        ("endpoints: [chat]", True),
        ("endpoints: [completions]", False),
        ("tenants: [acme-*], models: [qwen]", False),
    ],
)
def test_all_four_patterns_must_match(match: str, holds: bool) -> None:
    assert bool(applied_policies([matching(match)], facts())) is holds


def test_a_profile_matches_by_its_whole_name() -> None:
    policy = matching('profiles: ["demo:*"]')
    assert applied_policies([policy], facts(profile="demo:cheerful"))


def test_policies_keep_their_order_and_say_their_names() -> None:
    policies = [sample_policy(name="two"), sample_policy(name="one")]
    assert [each.name for each in applied_policies(policies, facts())] == ["two", "one"]


def test_shadow_is_never_enforced() -> None:
    (applied,) = applied_policies([sample_policy()], facts())
    assert not applied.enforced


@pytest.mark.parametrize(("percent", "share"), [(0, 0.0), (1, 0.01), (10, 0.1), (100, 1.0)])
def test_a_rollout_enforces_about_its_share(percent: float, share: float) -> None:
    assert len(enforced(rollout(percent))) / 4000 == pytest.approx(share, abs=0.015 * (share < 1))


def test_whoever_is_enforced_stays_so_when_the_share_rises() -> None:
    few, more = enforced(rollout(10)), enforced(rollout(30))
    assert few and few < more


def test_two_rollouts_do_not_pick_the_same_callers() -> None:
    first, second = enforced(rollout(10)), enforced(rollout(10, name="another"))
    assert len(first & second) < len(first) / 2


def test_a_caller_gets_the_same_side_every_time_and_on_every_machine() -> None:
    assert sorted(enforced(rollout(10), count=40)) == [1, 3, 22, 24]
