"""Rules that log features: what they tell is what the SAE makes of the very stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pilothouse.artifacts.catalog import load_catalog
from pilothouse.config import PilothouseConfig, load_config
from pilothouse.edits.sae import FeatureRead
from pilothouse.edits.sae_codes import encode
from pilothouse.edits.statistic import Statistic
from pilothouse.engine.plan.build import resolve_plan
from pilothouse.engine.plan.feature_log import LoggedFeature, logged_sae
from pilothouse.engine.plan.spec import LoggedSae, ModelFacts
from pilothouse.engine.scheduler.feature_pool import FeaturePool
from pilothouse.errors import ConfigError, PolicyError
from pilothouse.llm import LLM
from pilothouse.policy.loader import load_policies
from tests.support.artifacts.tiny_sae import LABEL
from tests.support.engines.offline_llm import offline_llm
from tests.support.models.tiny_model import D_MODEL
from tests.support.servers.tiny_deployment import VECTOR_LAYER, make_tiny_house

PROMPTS = [list(range(5, 5 + n)) for n in (3, 17, 40)]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_house(tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def llm(house: Path) -> Any:
    with offline_llm(house.parent / "model", load_config(house), max_num_batched_tokens=24) as made:
        yield made


def params(llm: LLM) -> Any:
    asked = llm.get_default_sampling_params()
    asked.temperature, asked.max_tokens, asked.ignore_eos = 0.0, 6, True
    return asked


def rule_of(output: Any, policy: str) -> dict[str, Any]:
    rules = output.outputs[0].pilothouse["rules"]
    found: dict[str, Any] = next(each for each in rules if each["policy"] == policy)
    return found


def test_codes_are_the_largest_of_the_whole_request(llm: LLM, house: Path, tmp_path: Path) -> None:
    prompts = [{"prompt_token_ids": each} for each in PROMPTS]
    asked = {"profile": "small:logs", "use_tqdm": False}
    outputs = llm.generate(prompts, params(llm), **asked)
    fed = [
        [*prompt, *output.outputs[0].token_ids[:-1]]
        for prompt, output in zip(PROMPTS, outputs, strict=True)
    ]
    reader = llm.capture(
        [{"prompt_token_ids": each} for each in fed],
        [VECTOR_LAYER],
        positions="all",
        out=tmp_path,
        progress=False,
    )
    (hidden_ND, labels) = reader.layer(VECTOR_LAYER)
    sae = load_catalog(load_config(house)).saes["topics"]
    codes_NM = encode(sae, hidden_ND.astype(np.float64))
    for number, output in enumerate(outputs):
        largest_M = codes_NM[(labels.prompt_R == number) & ~labels.is_output_R].max(axis=0)
        best = np.argsort(-largest_M)[:4]
        told = rule_of(output, "logs")["features"]
        assert [each["feature"] for each in told] == best.tolist()
        np.testing.assert_allclose([e["code"] for e in told], largest_M[best], rtol=1e-4)
    assert len({str(rule_of(each, "logs")["features"]) for each in outputs}) == len(outputs)


def test_a_prompt_in_the_prefix_cache_is_told_whole(llm: LLM) -> None:
    prompt = [{"prompt_token_ids": PROMPTS[2]}]
    plain = [llm.generate(prompt, params(llm), use_tqdm=False)[0] for _ in range(2)]
    assert plain[1].num_cached_tokens >= 32
    told = [
        rule_of(llm.generate(prompt, params(llm), profile="small:logs", use_tqdm=False)[0], "logs")
        for _ in range(2)
    ]
    assert told[0] == told[1]


def test_without_a_list_the_features_with_labels_are_told(llm: LLM) -> None:
    prompt = [{"prompt_token_ids": PROMPTS[2]}]
    every = llm.generate(prompt, params(llm), profile="small:logs", use_tqdm=False)
    late = llm.generate(prompt, params(llm), profile="small:logs-late", use_tqdm=False)
    told = rule_of(late[0], "logs-late")["features"]
    assert {each["label"] for each in told} <= {LABEL, "tides", "boats"}
    assert "features" not in rule_of(every[0], "watch")


def planned(house: Path, features: dict[str, Any], saes: dict[str, Any] | None = None) -> Any:
    raw = yaml.safe_load(house.read_text())
    config = load_config(house)
    if saes is not None:
        config = PilothouseConfig.model_validate(config.model_dump() | {"saes": saes})
    place = house.parent / "other" / "policy.yaml"
    place.parent.mkdir(exist_ok=True)
    policy = yaml.safe_load((house.parent / "policies/logs/policy.yaml").read_text())
    policy["spec"]["rules"][0]["then"]["features"] = features
    place.write_text(yaml.safe_dump(policy))
    facts = ModelFacts(model_id=raw["model_id"], num_layers=6, d_model=D_MODEL)
    return resolve_plan(config, load_catalog(config), load_policies([place]), facts)


def test_each_feature_is_read_once_whatever_rules_log_it(house: Path) -> None:
    plan = planned(house, {"sae": "topics", "of": [3, LABEL, 7]})
    (logged,) = plan.body.logged
    assert (logged.features, logged.labels) == ((3, 7), (None, LABEL))
    assert len(set(logged.columns)) == 2


def test_a_feature_that_can_never_be_on_is_logged_as_off() -> None:
    never = FeatureRead(np.zeros(D_MODEL), 0.0, float("inf"), Statistic.NONE)
    facts = logged_sae("topics", [LoggedFeature(3, None, never)], [0])
    read_back = LoggedSae.model_validate_json(facts.model_dump_json())
    pool = FeaturePool([read_back])
    pool.grow(1)
    pool.take(np.array([0]), np.array([0]), np.full((1, 1), 1e30, np.float32))
    assert pool.top(0, "topics", (3,), 1) == []


@pytest.mark.parametrize(
    ("features", "kind", "told"),
    [
        ({"sae": "topic"}, PolicyError, "policy.yaml:"),
        ({"sae": "topics", "of": [48]}, ConfigError, "got feature 48, want 0 to 47"),
        ({"sae": "topics", "of": ["boats"]}, ConfigError, "label 'boats' is of features"),
        ({"sae": "topics", "of": ["tidez"]}, ConfigError, "near are"),
        ({"sae": "topics", "of": []}, PolicyError, "of"),
        ({"sae": "topics", "top": 0}, PolicyError, "top"),
    ],
)
def test_features_that_cannot_be_logged_stop_the_start(
    house: Path, features: dict[str, Any], kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind) as caught:
        planned(house, features)
    assert told in str(caught.value)
