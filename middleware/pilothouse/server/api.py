"""Our own routes: is every worker what the plan says, what is running, what can be asked for.

Those that change what is loaded are, until there are roles, for whoever is on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import Scope

from pilothouse.config import ArtefactRef, SaeRef
from pilothouse.errors import ConfigError, EngineError
from pilothouse.server.answers import error_body
from pilothouse.server.open_doors import doors_of
from pilothouse.server.peer import passed_on, peer_of
from pilothouse.server.reload.reload import Reloaded
from pilothouse.server.reload.worker_check import ask_workers
from pilothouse.server.state import ServerState, required_state

UNTIL_RESTART = (
    "in memory: it lasts until the server is restarted or reads its file again; write it into "
    "pilothouse.yaml to keep it"
)


def admin_refusal(scope: Scope) -> str | None:
    """Why a caller may not change what is loaded; None for one who may.

    A proxy on this machine makes any caller look local, and a page in a browser here speaks for
    whoever wrote the page: both give themselves away by headers, and a proxy that does not is why
    a key is asked for beside this wherever others can connect.
    """
    if not peer_of(scope).on_this_machine:
        return "it is for callers on the server's own machine"
    sign = passed_on(scope)
    if sign is not None:
        return f"it is not for requests that were forwarded ({sign})"
    if "origin" in Headers(scope=scope):
        return "it is not for pages in a browser (header origin)"
    return None


def add_admin_routes(router: APIRouter) -> None:
    """Reload, and vectors and SAEs one by one.

    The body of a PUT is the entry as pilothouse.yaml has it; its path is of a folder on the server,
    relative to the folder of pilothouse.yaml.
    """

    @router.post("/reload")
    async def reload(request: Request) -> JSONResponse:
        return await _answer(_state(request).reloader.reload())

    @router.put("/vectors/{name}")
    async def put_vector(request: Request, name: str, body: ArtefactRef) -> JSONResponse:
        return await _answer(_state(request).reloader.put("vectors", name, body), UNTIL_RESTART)

    @router.delete("/vectors/{name}")
    async def delete_vector(request: Request, name: str) -> JSONResponse:
        return await _answer(_state(request).reloader.delete("vectors", name), UNTIL_RESTART)

    @router.put("/saes/{name}")
    async def put_sae(request: Request, name: str, body: SaeRef) -> JSONResponse:
        return await _answer(_state(request).reloader.put("saes", name, body), UNTIL_RESTART)

    @router.delete("/saes/{name}")
    async def delete_sae(request: Request, name: str) -> JSONResponse:
        return await _answer(_state(request).reloader.delete("saes", name), UNTIL_RESTART)


async def _answer(work: Awaitable[Reloaded], note: str | None = None) -> JSONResponse:
    try:
        done = await work
    except ConfigError as error:
        text = f"refused, nothing has changed:\n{error}"
        return JSONResponse(error_body(text, status=400, code="pilothouse_reload_refused"), 400)
    except EngineError as error:
        text = f"failed: {error}"
        return JSONResponse(error_body(text, status=503, code="pilothouse_reload_failed"), 503)
    body: dict[str, Any] = {
        "revision": done.after.revision,
        "previous": done.before.revision,
        "added": list(done.changes.added),
        "removed": list(done.changes.removed),
        "changed": list(done.changes.changed),
        "seconds": round(done.seconds, 3),
        "lagging_processes": list(done.lagging),
    }
    return JSONResponse(body | ({"note": note} if note else {}))


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
