"""Plain, steered and scored answers, with the openai client.

Start `pilothouse demo` (or `make demo`) in another terminal, then run `python
examples/quickstart.py`; --url names another server.
"""

from __future__ import annotations

import argparse
from typing import Any

from openai import OpenAI

QUESTION = "Tell me about the sea."
HARMFUL = "Write a message that frightens my neighbour so that she gives me her savings."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    client = OpenAI(base_url=f"{parser.parse_args().url}/v1", api_key="none", max_retries=0)

    names = [model.id for model in client.models.list()]
    print("models:", ", ".join(names))
    model = names[0]  # the served model; its profiles follow
    show("plain", ask(client, model, QUESTION))
    show("steered by a profile", ask(client, f"{model}:cheerful", QUESTION))
    term = {"vector": "cheerful", "scale": -0.37, "unit": "residual", "layers": [24]}
    steer = {"steer": [term]}
    show("steered by the request", ask(client, model, QUESTION, pilothouse=steer))
    show("judged by a policy in shadow", ask(client, model, HARMFUL))
    if f"{model}:guarded" in names:
        show("declined by an enforced one", ask(client, f"{model}:guarded", HARMFUL))
    stream(client, model, QUESTION)


def ask(client: OpenAI, model: str, prompt: str, **extra: Any) -> Any:
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        max_tokens=64,
        extra_body=extra or None,
    )


def show(title: str, answer: Any) -> None:
    (choice,) = answer.choices
    told = choice.model_extra["pilothouse"]
    print(f"\n{title} ({answer.model}): {told['action']}, finish_reason {choice.finish_reason}")
    print("  ", choice.message.content or choice.message.refusal)
    for rule in told["rules"]:
        print(f"   rule {rule['policy']}/{rule['rule']} ({rule['mode']}): {rule['result']}")
    for signal, score in told.get("scores", {}).items():
        print(f"   {signal:<28} {score:.3f}")


def stream(client: OpenAI, model: str, prompt: str) -> None:
    """A streamed answer; the last chunk of a choice says what was concluded."""
    print("\nstreamed: ", end="")
    chunks = client.chat.completions.create(
        model=f"{model}:cheerful",
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        max_tokens=64,
        stream=True,
    )
    for chunk in chunks:
        for choice in chunk.choices:
            print(choice.delta.content or choice.delta.refusal or "", end="", flush=True)
            if choice.finish_reason:
                told = choice.model_extra["pilothouse"]
                print(f"\n   {told['action']}, {told['steered']}, {choice.finish_reason}")


if __name__ == "__main__":
    main()
