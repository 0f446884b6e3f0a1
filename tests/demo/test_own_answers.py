"""The model's own answers: what policies leave of them, and that none is asked for twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pilothouse.config import PilothouseConfig
from pilothouse.demo.hedge import PROBE_NAME, enforced_for_chats
from pilothouse.demo.own_answers import OwnAnswers
from pilothouse.errors import EngineError
from pilothouse.progress import progress

CHECKOUT = Path(__file__).resolve().parents[2]
PROBE = CHECKOUT / "probes" / "smol" / "probes" / PROBE_NAME
POLICY = CHECKOUT / "examples" / "smol" / "policies" / "smol-hedge" / "policy.yaml"
QUESTIONS = ("What is the capital of France?", "Who wrote Hamlet?", "When did the war end?")

pytestmark = [pytest.mark.full, pytest.mark.engine, pytest.mark.timeout(900)]


def test_a_policy_replaces_the_doubtful_answers_and_leaves_the_others(
    smol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = enforced_for_chats(yaml.safe_load(POLICY.read_text()))
    policy, store = tmp_path / "policy.yaml", tmp_path / "answers.sqlite"

    def config(threshold: float) -> PilothouseConfig:
        [rule] = document["spec"]["rules"]
        rules = [rule | {"when": f"doubt >= {threshold:g}"}]
        policy.write_text(yaml.safe_dump(document | {"spec": document["spec"] | {"rules": rules}}))
        return PilothouseConfig.model_validate(
            {
                "version": 1,
                "model_id": smol.name,
                "probes": {PROBE_NAME: {"path": PROBE}},
                "policies": [policy],
            }
        )

    with OwnAnswers(smol, config(0.5), PROBE_NAME, store) as model, progress(shown=False) as phase:
        plain = model.plain(QUESTIONS, phase, "plain")
        governed = model.governed(QUESTIONS, phase, "governed")
    message = document["spec"]["rules"][0]["then"]["message"]
    for one, other in zip(plain, governed, strict=True):
        assert one.value is not None and one.mean_log_probability is not None
        assert other.text == (message if one.value >= 0.5 else one.text)
        assert other.action == ("respond" if one.value >= 0.5 else "allow")

    with OwnAnswers(smol, config(0.5), PROBE_NAME, store) as model, progress(shown=False) as phase:
        monkeypatch.setattr(OwnAnswers, "_engine", never)
        assert model.plain(QUESTIONS, phase, "plain") == plain
        assert model.governed(QUESTIONS, phase, "governed") == governed
    with OwnAnswers(smol, config(0.6), PROBE_NAME, store) as model, progress(shown=False) as phase:
        with pytest.raises(EngineError, match="asked again"):
            model.governed(QUESTIONS, phase, "governed")
        assert model.plain(QUESTIONS, phase, "plain") == plain


def never(_: OwnAnswers) -> None:
    raise EngineError("asked again")
