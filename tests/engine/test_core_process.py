"""The engine core is a fork where that is safe, and nowhere else."""

from __future__ import annotations

import multiprocessing
from argparse import Namespace
from typing import Any

import pytest
from vllm.platforms import current_platform
from vllm.v1.engine import utils

from pilothouse.engine.compat import core_process
from pilothouse.engine.compat.core_process import METHOD, fork_the_core, may_fork


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(METHOD, raising=False)


def args(**changes: Any) -> Namespace:
    return Namespace(numa_bind=False, distributed_executor_backend=None, **changes)


def test_on_a_cpu_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    assert may_fork(args())
    assert may_fork(args(data_parallel_backend="mp"))
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda _: False)
    assert not may_fork(args())


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_method_that_the_user_chose_holds(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(METHOD, method)
    assert not may_fork(args())


@pytest.mark.parametrize(
    "changes",
    [
        {"numa_bind": True},
        {"distributed_executor_backend": "ray"},
        {"data_parallel_backend": "ray"},
    ],
)
def test_what_begins_a_process_in_another_way_is_left(changes: dict[str, Any]) -> None:
    assert not may_fork(Namespace(**(vars(args()) | changes)))


def test_elsewhere_than_on_linux_it_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_process.sys, "platform", "darwin")
    assert not may_fork(args())


def test_cores_are_forked_and_workers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.executor import multiproc_executor

    monkeypatch.setenv(METHOD, "spawn")
    monkeypatch.setattr(utils, "get_mp_context", utils.get_mp_context)
    monkeypatch.setattr(core_process.os, "register_at_fork", lambda **_: None)
    fork_the_core()
    assert utils.get_mp_context().get_start_method() == "fork"
    assert multiproc_executor.get_mp_context() is multiprocessing.get_context("spawn")
