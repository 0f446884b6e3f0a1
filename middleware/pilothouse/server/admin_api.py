"""Routes that change what is loaded. Until there are roles: for whoever is on this machine."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import Scope

from pilothouse.config import ArtefactRef, SaeRef
from pilothouse.errors import ConfigError, EngineError
from pilothouse.server.openai_errors import error_body
from pilothouse.server.peer import passed_on, peer_of
from pilothouse.server.reload.reload import Reloaded
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


def _state(request: Request) -> ServerState:
    return required_state(request.app.state)
