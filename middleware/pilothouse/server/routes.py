"""Every route has a verdict: governed, harmless with a reason, ours, or denied with a reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pilothouse.errors import ConfigError
from pilothouse.policy.endpoint_names import CHECK_PATHS, PATHS, CheckName, EndpointName

RouteKind = Literal["governed", "check", "harmless", "own", "admin", "denied"]

GOVERNED: Final[Mapping[str, EndpointName]] = {path: name for name, path in PATHS.items()}

OWN: Final[Mapping[str, tuple[str, ...]]] = {
    "/pilothouse/v1/ready": ("GET",),
    "/pilothouse/v1/status": ("GET",),
    "/pilothouse/v1/catalogue": ("GET",),
}
ADMIN: Final[Mapping[str, tuple[str, ...]]] = {
    "/pilothouse/v1/reload": ("POST",),
    "/pilothouse/v1/vectors/{name}": ("PUT", "DELETE"),
    "/pilothouse/v1/saes/{name}": ("PUT", "DELETE"),
}
"""Of ours, what changes what is loaded; `{name}` stands for one segment."""
OWN_OPEN: Final = frozenset({"/pilothouse/v1/ready"})
"""Of ours, what a load balancer may ask without credentials."""


@dataclass(frozen=True, slots=True)
class Harmless:
    """A route that makes no text of the model's: its methods, and why it is let through."""

    methods: tuple[str, ...]
    reason: str
    needs_key: bool = False
    """It works for whoever asks, so where the server has keys the caller shows one."""


HARMLESS: Final[Mapping[str, Harmless]] = {
    "/health": Harmless(("GET",), "liveness"),
    "/ping": Harmless(("GET", "POST"), "liveness, as SageMaker asks it"),
    "/version": Harmless(("GET",), "vLLM's version"),
    "/load": Harmless(("GET",), "number of requests in flight"),
    "/metrics": Harmless(("GET",), "Prometheus"),
    "/metrics/": Harmless(("GET",), "Prometheus"),
    "/v1/models": Harmless(("GET",), "served names, with the profiles added"),
    "/tokenize": Harmless(("POST",), "text to token ids; runs no model", True),
    "/detokenize": Harmless(("POST",), "token ids to text; runs no model", True),
    "/tokenizer_info": Harmless(("GET",), "there only with vLLM's own flag for it", True),
    "/docs": Harmless(("GET",), "API documentation"),
    "/docs/oauth2-redirect": Harmless(("GET",), "API documentation"),
    "/redoc": Harmless(("GET",), "API documentation"),
    "/openapi.json": Harmless(("GET",), "API documentation"),
}

_UNSHAPED = "it generates, and its answers are not governed yet; use /v1/chat/completions"
_NOT_KEPT = "answers are not kept here, so that there is none to come back to"
_UNSCORED = "it runs the model without policies"
_INTERNAL = "it serves other parts of a vLLM deployment, not clients"
_CONTROL = "it changes the running server"

_LISTED: Final[Mapping[str, str]] = {
    "/v1/responses/{response_id}": _NOT_KEPT,
    "/v1/responses/{response_id}/cancel": _NOT_KEPT,
    "/v1/messages": _UNSHAPED,
    "/v1/messages/count_tokens": "it belongs to /v1/messages, which is not governed yet",
    "/v1/chat/completions/batch": "it answers many conversations at once; send them one by one",
    "/invocations": "it takes the body of any other endpoint; call that endpoint itself",
    "/inference/v1/generate": "it takes and gives bare tokens; use /v1/completions",
    "/cohere/v2/chat": _UNSHAPED,
    "/v1/realtime": "websockets carry what cannot be held back",
    "/v1/audio/transcriptions": _UNSHAPED,
    "/v1/audio/translations": _UNSHAPED,
    "/generative_scoring": _UNSCORED,
    "/v1/systemone": _UNSCORED,
    "/v1/decisions": _UNSCORED,
    "/pooling": _UNSCORED,
    "/classify": _UNSCORED,
    "/score": _UNSCORED,
    "/v1/score": _UNSCORED,
    "/rerank": _UNSCORED,
    "/v1/rerank": _UNSCORED,
    "/v2/rerank": _UNSCORED,
    "/v1/embeddings": _UNSCORED,
    "/v2/embed": _UNSCORED,
    "/v1/chat/completions/render": _INTERNAL,
    "/v1/chat/completions/derender": _INTERNAL,
    "/v1/completions/render": _INTERNAL,
    "/v1/completions/derender": _INTERNAL,
    "/v1/messages/render": _INTERNAL,
    "/v1/responses/render": _INTERNAL,
    "/inference/v1/abort_requests": _INTERNAL,
    "/abort_requests": _INTERNAL,
    "/kv_event_sources": _INTERNAL,
    "/is_scaling_elastic_ep": _INTERNAL,
    "/scale_elastic_ep": _CONTROL,
    "/fault_tolerance/apply": _CONTROL,
    "/fault_tolerance/status": _INTERNAL,
    "/v1/load_lora_adapter": _CONTROL,
    "/v1/unload_lora_adapter": _CONTROL,
    "/start_profile": _CONTROL,
    "/stop_profile": _CONTROL,
    "/server_info": _INTERNAL,
    "/reset_prefix_cache": _CONTROL,
    "/reset_mm_cache": _CONTROL,
    "/reset_encoder_cache": _CONTROL,
    "/collective_rpc": _CONTROL,
    "/sleep": _CONTROL,
    "/wake_up": _CONTROL,
    "/release_kv_cache_memory": _CONTROL,
    "/is_sleeping": _INTERNAL,
}
DENIED: Final = {path: reason for path, reason in _LISTED.items() if path not in GOVERNED}

GENERATING: Final = frozenset(
    path for path, reason in DENIED.items() if reason not in (_INTERNAL, _CONTROL)
)
"""Not to be allowed by configuration: the scheduler refuses what comes from there unsealed."""

CONTROLLING: Final = frozenset(path for path, reason in DENIED.items() if reason == _CONTROL)
"""What changes the running server; the operator may open these, for every caller."""

_UNKNOWN = "it is not on the list of routes known to be harmless"


@dataclass(frozen=True, slots=True)
class RouteVerdict:
    """What the gate does with a method on a path."""

    kind: RouteKind
    reason: str = ""
    allowed_methods: tuple[str, ...] = ()
    """Not empty when the path is fine and the method is not (405)."""
    needs_key: bool = False
    """Where the server has keys, the gate asks for one: vLLM itself does not."""


class RouteTable:
    """The built-in table and the operator's own `gate.allow`.

    Args:
        closed: paths of endpoints that this server cannot govern, each with the reason.
    """

    def __init__(self, allow: Iterable[str] = (), closed: Mapping[str, str] | None = None) -> None:
        self.allow = frozenset(allow)
        self._closed = closed or {}
        for path in sorted(self.allow):
            if path in GENERATING or path in GOVERNED or check_of(path) is not None:
                raise ConfigError(
                    f"gate.allow: got {path!r}, want a route that runs no model: "
                    f"{DENIED.get(path, 'it is governed already')}"
                )
            if not path.startswith("/"):
                raise ConfigError(f"gate.allow: got {path!r}, want a path such as '/server_info'")

    def judge(self, method: str, path: str) -> RouteVerdict:
        """The verdict on one request line; `path` is as routed, without the root path."""
        if path in self._closed:
            return RouteVerdict("denied", self._closed[path])
        if path in GOVERNED:
            return _of_methods("governed", ("POST",), method)
        check = check_of(path)
        if check is not None:
            closed = self._closed.get(CHECK_PATHS[check[0]])
            if closed is not None:
                return RouteVerdict("denied", closed)
            return _of_methods("check", ("POST",), method)
        if path in OWN:
            return _of_methods("own", OWN[path], method)
        template = _admin_template(path)
        if template is not None:
            return _of_methods("admin", ADMIN[template], method)
        if path in HARMLESS:
            harmless = HARMLESS[path]
            verdict = _of_methods("harmless", harmless.methods, method)
            return replace(verdict, needs_key=harmless.needs_key)
        if path in self.allow:
            return RouteVerdict("harmless", "gate.allow")
        return RouteVerdict("denied", DENIED.get(path, _UNKNOWN))

    def known(self, path: str) -> bool:
        """The table or the operator says something of this route template."""
        return path in self.allow or any(
            path in each for each in (GOVERNED, CHECK_PATHS.values(), OWN, ADMIN, HARMLESS, DENIED)
        )


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """One route that the running server has."""

    path: str
    methods: tuple[str, ...]
    kind: RouteKind
    reason: str
    known: bool


def inventory(routes: Iterable[Any], table: RouteTable) -> tuple[RouteEntry, ...]:
    """Every route of an app, mounted and nested ones too, with the gate's verdict on it."""
    seen: dict[str, set[str]] = {}
    for path, methods in _walk(routes, ""):
        seen.setdefault(path, set()).update(methods)
    return tuple(_entry(path, seen[path], table) for path in sorted(seen))


def refuse_unknown(entries: Iterable[RouteEntry]) -> None:
    """Stop the start on a route that nothing is known of (`gate.unknown_routes: refuse_start`).

    Raises:
        ConfigError: there is one.
    """
    unknown = [entry.path for entry in entries if not entry.known]
    if unknown:
        raise ConfigError(
            f"gate.unknown_routes is refuse_start and the server has {', '.join(unknown)}: "
            "list them under gate.allow if they run no model, or set unknown_routes: deny"
        )


def check_of(path: str) -> tuple[CheckName, dict[str, str]] | None:
    """Which contract of the check a path is of, and what stands in it for each `{name}`."""
    parts = path.split("/")
    for name, template in CHECK_PATHS.items():
        wanted = template.split("/")
        if len(wanted) != len(parts):
            continue
        found: dict[str, str] = {}
        for want, part in zip(wanted, parts, strict=True):
            if want.startswith("{"):
                found[want[1:-1]] = part
            elif want != part:
                break
        else:
            return name, found
    return None


def _admin_template(path: str) -> str | None:
    if path in ADMIN:
        return path
    head, _, name = path.rpartition("/")
    template = f"{head}/{{name}}"
    return template if name and template in ADMIN else None


def _of_methods(kind: RouteKind, methods: tuple[str, ...], method: str) -> RouteVerdict:
    fine = method in methods or method == "OPTIONS" or (method == "HEAD" and "GET" in methods)
    return RouteVerdict(kind, allowed_methods=() if fine else methods)


def _entry(path: str, methods: set[str], table: RouteTable) -> RouteEntry:
    verdict = table.judge("OPTIONS", path)
    reason = verdict.reason or (HARMLESS[path].reason if path in HARMLESS else "")
    return RouteEntry(path, tuple(sorted(methods)), verdict.kind, reason, table.known(path))


def _walk(routes: Iterable[Any], prefix: str) -> Iterator[tuple[str, set[str]]]:
    """Paths and methods; newer FastAPI nests included routers, older ones are flat."""
    for route in routes:
        path = prefix + (getattr(route, "path", None) or getattr(route, "prefix", None) or "")
        nested = getattr(route, "routes", None) or getattr(
            getattr(route, "original_router", None), "routes", None
        )
        if nested:
            yield from _walk(nested, path)
        elif path:
            methods = getattr(route, "methods", None)
            yield path, set(methods) if methods else {"ANY"}
