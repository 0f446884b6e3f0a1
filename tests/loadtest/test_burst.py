"""Bursts: the same prompts for both servers, never the same twice, and only full answers count."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmodel import Shape, english_words, num_words, word
from burst import BurstError, Profile, bodies, run_burst

PROFILE = Profile(requests=8, output_tokens=4, prompt_words=6)
WORDS = tuple(word(index) for index in range(num_words(Shape())))


def prompts(seed: str, models: tuple[str, ...] = ("bench",)) -> list[str]:
    return [each["messages"][0]["content"] for each in bodies(PROFILE, models, WORDS, seed)]


def test_both_servers_of_a_pair_get_the_same_prompts() -> None:
    assert prompts("idle/3") == prompts("idle/3", ("bench:p00", "bench:p01"))


@pytest.mark.parametrize("words", [WORDS, english_words()], ids=["random", "English"])
def test_no_prompt_comes_twice(words: tuple[str, ...]) -> None:
    every = [
        each["messages"][0]["content"]
        for case in ("idle", "layer1")
        for i in range(20)
        for each in bodies(PROFILE, ("bench",), words, f"{case}/{i}")
    ]
    assert len(set(every)) == len(every)


def test_requests_take_the_models_in_turn_and_force_the_length() -> None:
    made = bodies(PROFILE, ("a", "b", "c"), WORDS, "s")
    assert [each["model"] for each in made] == ["a", "b", "c", "a", "b", "c", "a", "b"]
    assert all(each["ignore_eos"] and each["max_tokens"] == 4 for each in made)


class _Answers(BaseHTTPRequestHandler):
    status = 200
    tokens = PROFILE.output_tokens

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.status)
        self.end_headers()
        usage = {"prompt_tokens": 7, "completion_tokens": self.tokens}
        self.wfile.write(json.dumps({"usage": usage}).encode())

    def log_message(self, *words: object) -> None:
        """Quiet."""


@pytest.fixture
def answers(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Answers", (_Answers,), getattr(request, "param", {}))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_burst_adds_up_its_answers(answers: str) -> None:
    measured = run_burst(answers, bodies(PROFILE, ("bench",), WORDS, "s"))
    assert measured.load.requests == 8
    assert measured.load.output_tokens == 32
    assert measured.load.prompt_tokens == 56
    assert measured.load.fed_tokens == 80
    assert measured.tokens_per_s == pytest.approx(32 / measured.seconds)


@pytest.mark.parametrize("answers", [{"tokens": 3}], indirect=True)
def test_a_short_answer_is_no_measurement(answers: str) -> None:
    with pytest.raises(BurstError, match="3 tokens, 4 were forced"):
        run_burst(answers, bodies(PROFILE, ("bench",), WORDS, "s"))


@pytest.mark.parametrize("answers", [{"status": 503}], indirect=True)
def test_a_refused_request_is_no_measurement(answers: str) -> None:
    with pytest.raises(BurstError, match="503"):
        run_burst(answers, bodies(PROFILE, ("bench",), WORDS, "s"))
