"""Our own routes: is every worker what the plan says, what is running, what can be asked for."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from pilothouse.errors import EngineError
from pilothouse.server.admin_api import add_admin_routes
from pilothouse.server.open_doors import doors_of
from pilothouse.server.reload.worker_check import ask_workers
from pilothouse.server.state import ServerState, required_state


def make_router() -> APIRouter:
    """The routes under /pilothouse/v1."""
    router = APIRouter(prefix="/pilothouse/v1", tags=["pilothouse"])

    @router.get("/ready")
    async def ready(request: Request) -> JSONResponse:
        state = _state(request)
        problems, workers = await ask_workers(state.engine_client, state.plan)
        body = {
            "ready": not problems,
            "revision": state.plan.revision,
            "workers": workers,
            "problems": problems,
        }
        return JSONResponse(body, 200 if not problems else 503)

    @router.get("/status")
    async def status(request: Request) -> JSONResponse:
        state = _state(request)
        try:
            engine = await state.plan_watcher.told()
        except EngineError as error:
            engine = {"error": str(error)}
        return JSONResponse(_status(state) | {"engine": engine})

    @router.get("/catalogue")
    async def catalog(request: Request) -> JSONResponse:
        return JSONResponse(_catalog(_state(request)))

    add_admin_routes(router)
    return router


def _state(request: Request) -> ServerState:
    return required_state(request.app.state)


def _status(state: ServerState) -> dict[str, Any]:
    body = state.plan.body
    return {
        "version": version("pilothouse"),
        "revision": state.plan.revision,
        "config_digest": body.config_digest,
        "demo": body.demo,
        "uptime_seconds": round(time.time() - state.started_at, 1),
        "model": {"id": body.model.model_id, "served_names": list(state.served_names)},
        "taps": [
            {
                "layer": tap.layer,
                "site": tap.site,
                "read_rows": tap.read_stop - tap.read_start,
                "edits": None if tap.edits is None else tap.edits.model_dump(mode="json"),
            }
            for tap in body.taps
        ],
        "live_requests": len(state.decision_store),
        "client_steering": body.auth.client_steering,
        "client_scores": body.auth.client_scores,
        "limits": state.plan_snapshots.newest.admission.limits.model_dump(),
        "routes": [
            {
                "path": each.path,
                "methods": list(each.methods),
                "verdict": each.kind,
                "reason": each.reason,
            }
            for each in state.routes
        ],
        "open_doors": doors_of(state.plan, state.surroundings),
    }


def _catalog(state: ServerState) -> dict[str, Any]:
    body = state.plan.body
    return {
        "vectors": {
            name: {
                "form": each.form,
                "site": each.site,
                "layers": list(each.layers),
                "digest": each.digest,
            }
            for name, each in body.vectors.items()
        },
        "saes": {
            name: {
                "form": each.form,
                "site": each.site,
                "layers": list(each.layers),
                "features": each.num_features,
                "labels": each.num_labels,
                "max_act": each.has_max_act,
                "average_norm": each.average_norm,
                "digest": each.digest,
            }
            for name, each in body.saes.items()
        },
        "operators": list(body.operators),
        "probes": {
            name: {
                "layers": list(each.layers),
                "readouts": list(each.readouts),
                "default_readout": each.default_readout,
                "digest": each.digest,
            }
            for name, each in body.probes.items()
        },
        "profiles": {
            name: [term.model_dump(mode="json") for term in each.steer]
            for name, each in body.profiles.items()
        },
        "policies": {
            policy.name: {
                "mode": policy.spec.mode,
                "title": policy.metadata.title,
                "rules": [rule.id for rule in policy.spec.rules],
            }
            for policy in state.plan.policies
        },
        "limits": body.limits.model_dump(mode="json"),
    }
