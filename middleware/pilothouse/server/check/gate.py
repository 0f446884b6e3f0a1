"""One HTTP call of a check: who asks, what is asked, and the answer in its contract's shape."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from pilothouse.errors import RequestError
from pilothouse.server.answers import send_json
from pilothouse.server.body import encoded, parsed_aside, read_body, refuse_other_content
from pilothouse.server.check.checker import Checker
from pilothouse.server.check.contracts.base import Asked, CheckContract
from pilothouse.server.check.texts import CheckAnswer, CheckRequest
from pilothouse.server.reload.plan_snapshot import PlanSnapshot
from pilothouse.server.response.decisions import ACTIONS
from pilothouse.server.state import ServerState
from pilothouse.telemetry.metrics import RequestAction

RETRY: Final[Mapping[str, str]] = {"retry-after": "1"}


class _Gone(Exception):
    """The client did not wait for its answer."""


class CheckCall:
    """Answers one call.

    Args:
        app: vLLM's, inside the gate.
        segments: what stands in the path for each `{name}` of the contract's.
    """

    def __init__(
        self,
        state: ServerState,
        contract: CheckContract,
        app: ASGIApp,
        scope: Scope,
        segments: Mapping[str, str],
    ) -> None:
        self._state = state
        self._contract = contract
        self._app = app
        self._scope = scope
        self._segments = segments
        self._model: str | None = None
        self._tenant = ""

    async def answer(self, receive: Receive, send: Send) -> None:
        """Read, score, answer, count."""
        outcome: RequestAction = "reject"
        try:
            answer = await self._checked(receive)
            actions = (each.action for each in answer.results)
            outcome = max(actions, key=ACTIONS.index, default="allow")
            headers = {"x-pilothouse-revision": answer.revision}
            await send_json(send, 200, self._contract.answer(answer), headers)
        except _Gone:
            outcome = "abort"
        except RequestError as error:
            outcome = "reject" if error.status < 500 else "error"
            status, body = self._contract.error(error)
            await send_json(send, status, body, RETRY if status == 503 else None)
        except Exception:
            outcome = "error"
            raise
        finally:
            self._state.metrics.check(self._model, self._contract.name, self._tenant, outcome)

    async def _checked(self, receive: Receive) -> CheckAnswer:
        asked_under = self._state.plan_snapshots.newest
        caller = asked_under.authenticator.caller(self._scope)
        self._tenant = caller.tenant
        if caller.lacks_key:
            raise RequestError("Unauthorized", status=401)
        refuse_other_content(self._scope)
        limits = asked_under.admission.limits
        raw = await read_body(self._scope, receive, limits)
        if raw is None:
            raise _Gone
        body = await parsed_aside(raw, limits)
        encoded(body)  # what cannot be sent on is refused here, and not while it is scored
        with self._state.plan_snapshots.admitting() as snapshot:
            if snapshot is not asked_under:  # reloaded while the body came
                caller = snapshot.authenticator.caller(self._scope)
            models = self._models(snapshot)
            asked = self._contract.read(
                Asked(
                    body=body,
                    segments=self._segments,
                    headers=Headers(scope=self._scope),
                    query=QueryParams(self._scope["query_string"]),
                    limits=snapshot.admission.limits,
                    models=models,
                    may_see_scores=caller.may_see_scores,
                )
            )
            if asked.model is not None and asked.model not in models:
                raise RequestError(
                    f"The model {asked.model[:100]!a} does not exist.", param="model", status=404
                )
            checker = Checker(self._state, self._app, self._scope, snapshot, caller)
            answer = await _unless_gone(checker, asked, receive)
            self._model = answer.model
            return answer

    def _models(self, snapshot: PlanSnapshot) -> frozenset[str]:
        around = self._state.surroundings
        profiles = snapshot.plan.body.profiles
        return (
            frozenset(self._state.served_names) | frozenset(around.adapters) | frozenset(profiles)
        )


async def _unless_gone(checker: Checker, asked: CheckRequest, receive: Receive) -> CheckAnswer:
    """Score for as long as the client waits.

    Raises:
        RequestError: as `Checker.checked`.
        _Gone: the client has gone, and what was under way is aborted.
    """
    work = asyncio.ensure_future(checker.checked(asked))
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise _Gone
        return work.result()
    finally:
        for each in (work, gone):
            each.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
