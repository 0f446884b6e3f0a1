"""Our own routes: is every worker what the plan says, what is running, what can be asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from pilothouse.engine.plan import Plan
from pilothouse.server.state import GateState, state_of

INSTALLED_CALL = "pilothouse_installed"
READY_SECONDS = 10.0


def make_router() -> APIRouter:
    """The routes under /pilothouse/v1."""
    router = APIRouter(prefix="/pilothouse/v1", tags=["pilothouse"])

    @router.get("/ready")
    async def ready(request: Request) -> JSONResponse:
        problems, workers = await _installed(_state(request))
        body = {
            "ready": not problems,
            "revision": _state(request).plan.revision,
            "workers": len(workers),
            "problems": problems,
        }
        return JSONResponse(body, 200 if not problems else 503)

    @router.get("/status")
    async def status(request: Request) -> JSONResponse:
        return JSONResponse(_status(_state(request)))

    @router.get("/catalogue")
    async def catalogue(request: Request) -> JSONResponse:
        return JSONResponse(_catalogue(_state(request)))

    return router


def _state(request: Request) -> GateState:
    state = state_of(request.app.state)
    if state is None:  # the gate has let the request through, so it is there
        raise RuntimeError("the gate's state is missing")
    return state


async def _installed(state: GateState) -> tuple[list[str], list[Any]]:
    """Ask every worker what it installed, and compare with the plan."""
    try:
        workers = await state.engine_client.collective_rpc(INSTALLED_CALL, timeout=READY_SECONDS)
    except Exception as error:
        return [f"the workers did not answer: {type(error).__name__}: {error}"], []
    return installation_problems(state.plan, workers), workers


def installation_problems(plan: Plan, workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with what workers say they installed; each has the taps of its own layers."""
    problems = [] if workers else ["no worker answered"]
    reached: set[int] = set()
    for rank, told in enumerate(workers):
        if told.get("revision") != plan.revision:
            problems.append(
                f"worker {rank}: has revision {told.get('revision')}, want {plan.revision}"
            )
        layers = told.get("layers", ())
        reached |= set(layers)
        want = sum(tap.layer in layers for tap in plan.body.taps)
        if len(told.get("taps", ())) != want:
            problems.append(f"worker {rank}: has {len(told.get('taps', ()))} taps, want {want}")
    missing = sorted({tap.layer for tap in plan.body.taps} - reached)
    if workers and missing:
        problems.append(f"no worker has layers {missing}, which are tapped")
    return problems


def _status(state: GateState) -> dict[str, Any]:
    body = state.plan.body
    return {
        "version": version("pilothouse"),
        "revision": state.plan.revision,
        "config_digest": body.config_digest,
        "demo": body.demo,
        "uptime_seconds": round(time.time() - state.started_at, 1),
        "model": {"id": body.model.model_id, "served_names": list(state.served_names)},
        "taps": [
            {"layer": tap.layer, "site": tap.site, "read_rows": tap.read_stop - tap.read_start,
             "edits": None if tap.edits is None else tap.edits.model_dump(mode="json")}
            for tap in body.taps
        ],
        "live_requests": len(state.ledger),
        "client_steering": body.auth.client_steering,
        "client_scores": body.auth.client_scores,
        "routes": [
            {"path": each.path, "methods": list(each.methods), "verdict": each.kind,
             "reason": each.reason}
            for each in state.routes
        ],
    }  # fmt: skip


def _catalogue(state: GateState) -> dict[str, Any]:
    body = state.plan.body
    return {
        "vectors": {
            name: {"form": each.form, "site": each.site, "layers": list(each.layers),
                   "digest": each.digest}
            for name, each in body.vectors.items()
        },
        "operators": list(body.operators),
        "probes": {
            name: {"layers": list(each.layers), "readouts": list(each.readouts),
                   "default_readout": each.default_readout, "digest": each.digest}
            for name, each in body.probes.items()
        },
        "profiles": {
            name: [term.model_dump(mode="json") for term in each.steer]
            for name, each in body.profiles.items()
        },
        "policies": {
            policy.name: {"mode": policy.spec.mode, "title": policy.metadata.title,
                          "rules": [rule.id for rule in policy.spec.rules]}
            for policy in state.plan.policies
        },
        "limits": body.limits.model_dump(mode="json"),
    }  # fmt: skip
