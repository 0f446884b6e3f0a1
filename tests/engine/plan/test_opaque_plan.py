"""Whatever vLLM prints, dumps or hashes of its configuration, of a plan it sees a digest."""

from __future__ import annotations

import copy
import json
import pickle
import pprint
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from pydantic import TypeAdapter
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.serve.utils.api_utils import log_non_default_args
from vllm.logging_utils.dump_input import prepare_object_to_dump
from vllm.v1.core.sched.output import SchedulerOutput

from pilothouse.artifacts.catalog import Catalog
from pilothouse.edits.program import compile_program
from pilothouse.engine.plan.opaque_plan import HEAD, OpaquePlan
from pilothouse.engine.plan.plan import ADDITIONAL_KEY, Plan
from pilothouse.engine.scheduler.messages import STEP_ATTRIBUTE, Emissions, StepPlan, Upload
from pilothouse.errors import EngineError
from pilothouse.term import SteerTerm
from tests.support.engines.catalogs import vector
from tests.support.engines.harness import make_plan
from tests.support.engines.plan_text import numbers_in


def plan_of(seed: int = 1) -> Plan:
    return make_plan(Catalog(vectors={"v": vector("v", (0, 2), seed=seed)}))


PLAN = plan_of()
HIDDEN = PLAN.to_additional_config()[ADDITIONAL_KEY]


def test_the_check_finds_the_numbers_of_a_plan_in_a_text() -> None:
    wire = PLAN.to_wire()["tensors"]
    assert numbers_in(wire, PLAN.tensors) and numbers_in(wire[200:400], PLAN.tensors)
    assert numbers_in(repr(PLAN.tensors), PLAN.tensors)
    assert numbers_in(repr(PLAN.body), PLAN.tensors) == []


SHOWN = {
    "str": str,
    "repr": repr,
    "format": lambda value: f"{value}",
    "json": json.dumps,
    "pprint": pprint.pformat,
    "vLLM's dump": prepare_object_to_dump,
    "namespace": lambda value: repr(Namespace(additional_config=value)),
    "pydantic": lambda value: str(TypeAdapter(dict[str, Any]).dump_json({"a": value})),
}


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize("value", [HIDDEN, PLAN.to_additional_config()], ids=["value", "whole"])
def test_nothing_that_shows_a_configuration_shows_more_than_a_digest(
    name: str, value: object
) -> None:
    shown = SHOWN[name](value)
    assert HEAD in shown and len(shown) < 400
    assert numbers_in(shown, PLAN.tensors) == []


@pytest.mark.parametrize("show", [str, repr, pprint.pformat])
def test_a_plan_itself_is_shown_by_its_revision(show: Callable[[object], str]) -> None:
    assert show(PLAN) == f"Plan({PLAN.revision})"


COPIED = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "cloudpickle": lambda value: pickle.loads(cloudpickle.dumps(value)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pydantic": TypeAdapter(dict | list).validate_python,
}


@pytest.mark.parametrize("name", COPIED)
def test_what_carries_a_configuration_to_a_process_carries_the_plan(name: str) -> None:
    back = Plan.from_additional_config(COPIED[name]({"theirs": 1} | PLAN.to_additional_config()))
    assert back.body == PLAN.body
    assert all(np.array_equal(back.tensors[each], PLAN.tensors[each]) for each in PLAN.tensors)


def test_a_plan_that_came_as_text_is_said_to_be_lost() -> None:
    lost = json.loads(json.dumps(PLAN.to_additional_config()))
    with pytest.raises(EngineError, match="digest alone"):
        Plan.from_additional_config(lost)


def test_two_plans_have_two_compile_caches_and_one_plan_has_one() -> None:
    def digest(plan: Plan) -> str:
        return VllmConfig(additional_config=plan.to_additional_config()).compute_hash()

    wire = PLAN.to_wire()
    elsewhere = OpaquePlan(wire | {"config": wire["config"].replace("{", '{"folder":"/a",', 1)})
    assert digest(PLAN) == digest(plan_of())
    assert elsewhere == HIDDEN
    assert digest(PLAN) != digest(plan_of(seed=2))
    assert digest(PLAN) != VllmConfig(additional_config={}).compute_hash()
    assert OpaquePlan(wire | {"tensors": plan_of(seed=2).to_wire()["tensors"]}) != HIDDEN
    assert OpaquePlan(wire | {"body": wire["body"].replace("4", "5", 1)}) != HIDDEN


def test_arguments_of_the_engine_are_logged_without_the_plan(
    monkeypatch: pytest.MonkeyPatch, qwen3: Path
) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        "vllm.entrypoints.serve.utils.api_utils.logger.info",
        lambda message, *parts: said.append(message % parts),
    )
    args = EngineArgs(model=str(qwen3), additional_config=PLAN.to_additional_config())
    log_non_default_args(args)
    [line] = said
    assert HEAD in line and numbers_in(line, PLAN.tensors) == []


def test_a_step_that_vllm_dumps_when_an_engine_fails_shows_no_numbers() -> None:
    program = compile_program((SteerTerm(vector="v", scale=1.0),), PLAN.sources)
    assert program is not None
    step = StepPlan(uploads=[Upload(slot=1, layers=program.layers)])
    scheduled = SchedulerOutput.make_empty()
    setattr(scheduled, STEP_ATTRIBUTE, step)
    shown = prepare_object_to_dump(scheduled)
    assert "Upload(slot=1" in shown and numbers_in(shown, PLAN.tensors) == []
    rows_TE = np.stack([PLAN.tensors["vector/v/directions"][0]])
    assert numbers_in(repr(Emissions(("a",), (0,), (1,), rows_TE)), PLAN.tensors) == []
