"""`pilothouse`: runs the verb that was typed. Verbs import what they need when they run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Final

from pilothouse.errors import PilothouseError

WRONG_USE: Final = 2
INTERRUPTED: Final = 130

VERBS: Final[dict[str, tuple[str, str]]] = {
    "serve": ("pilothouse.cli.serve:run", "serve a model: vLLM's server with the gate in front"),
    "demo": ("pilothouse.cli.demo:app", "serve the demo model on this machine, and try it"),
    "reload": ("pilothouse.cli.reload:app", "have a running server read its pilothouse.yaml again"),
    "doctor": ("pilothouse.cli.doctor:app", "what is installed here, and what a config would do"),
    "policy": ("pilothouse.cli.policy:app", "check policies before they are served"),
    "probe": ("pilothouse.cli.probe:app", "fit, measure and look at probes"),
    "vector": ("pilothouse.cli.vector:app", "make, import and look at vectors"),
    "sae": ("pilothouse.cli.sae:app", "import and look at sparse autoencoders"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and exit: 0 good, 1 a finding, 2 wrong use or a setting that cannot be."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(_run(words))
    except PilothouseError as error:
        _say(f"pilothouse: {error}")
        sys.exit(WRONG_USE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())  # noqa: T201
        return 0 if words else WRONG_USE
    if words[0] in ("-V", "--version", "version"):
        print(f"pilothouse {version('pilothouse')}")  # noqa: T201
        return 0
    if words[0] not in VERBS:
        _say(f"pilothouse: got {words[0]!r}, want one of {', '.join(VERBS)}")
        return WRONG_USE
    place, _ = VERBS[words[0]]
    module, _, name = place.partition(":")
    verb: Callable[..., int | None] = getattr(import_module(module), name)
    if name == "app":
        verb(words[1:], prog_name=f"pilothouse {words[0]}")
        return 0
    return verb(words[1:]) or 0


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in VERBS.items()]
    return "\n".join(
        [
            "usage: pilothouse VERB ...",
            "",
            "Steering, probes and policies inside the forward pass of a released vLLM.",
            "",
            *lines,
            "",
            "pilothouse VERB --help tells more of each.",
        ]
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201
