"""Plain, steered, scored and blocked, with the openai client.

Start `pilothouse demo --world` (or `make demo ARGS=--world`) in another terminal, then run
`python examples/quickstart.py`; --url names another server.
"""

from __future__ import annotations

import argparse
from typing import Any

from openai import OpenAI

from pilothouse.cli.prompts import load_prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    client = OpenAI(base_url=f"{parser.parse_args().url}/v1", api_key="none", max_retries=0)
    prompts = load_prompts()

    print("models:", ", ".join(model.id for model in client.models.list()))
    show("plain", ask(client, "demo", prompts.known))
    show("steered by a profile", ask(client, "demo:cheerful", prompts.known))
    steer = {"steer": [{"vector": "cheerful", "scale": 0.4, "unit": "residual"}]}
    show("steered by the request", ask(client, "demo", prompts.known, pilothouse=steer))
    show("blocked", ask(client, "demo", prompts.blocked))
    stream(client, prompts.unknown)


def ask(client: OpenAI, model: str, prompt: str, **extra: Any) -> Any:
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        extra_body=extra or None,
    )


def show(title: str, answer: Any) -> None:
    (choice,) = answer.choices
    told = choice.model_extra["pilothouse"]
    print(f"\n{title} ({answer.model}): {told['action']}, finish_reason {choice.finish_reason}")
    print("  ", choice.message.content or choice.message.refusal)
    for signal, score in told.get("scores", {}).items():
        print(f"   {signal:<28} {score:.3f}")


def stream(client: OpenAI, prompt: str) -> None:
    """A streamed answer; the last chunk of a choice says what was concluded."""
    print("\nstreamed: ", end="")
    chunks = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        stream=True,
        extra_body={"pilothouse": {"scores": "tokens"}},
    )
    for chunk in chunks:
        for choice in chunk.choices:
            print(choice.delta.content or choice.delta.refusal or "", end="", flush=True)
            if choice.finish_reason:
                scored = choice.model_extra["pilothouse"]["token_scores"]
                print(f"\n   {len(scored)} tokens scored; finish_reason {choice.finish_reason}")


if __name__ == "__main__":
    main()
