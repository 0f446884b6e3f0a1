"""`fit_vector` from Python, as in a notebook: the command's vector, without the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pilothouse.artifacts.vector import load_vector
from pilothouse.errors import ConfigError
from pilothouse.training import fit_vector
from tests.support.engines.harness import ENVIRONMENT, environment
from tests.support.models.echo_model import echo_pairs, make_echo_model, write_lines
from tests.support.training.fit_command import report_of, run_fit

QUICK: dict[str, Any] = {"layers": [2], "scales": [0.2], "controls": 1, "resamples": 10}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and pairs."""
    folder = tmp_path_factory.mktemp("fit")
    make_echo_model(folder / "echo")
    write_lines(folder / "pairs.jsonl", echo_pairs(20))
    return folder


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_it_gives_and_saves_what_the_command_gives(place: Path) -> None:
    notes: list[str] = []
    stages: list[str] = []

    def phase(title: str, _: int | None):  # type: ignore[no-untyped-def]
        stages.append(title)
        return lambda _: None

    with environment(ENVIRONMENT):
        fitted = fit_vector(
            place / "pairs.jsonl",
            model=str(place / "echo"),
            name="sea",
            dtype="float32",
            engine={
                "kv_cache_memory_bytes": 32 << 20,
                "max_num_seqs": 64,
                "distributed_executor_backend": "uni",
            },
            tell=notes.append,
            phase=phase,
            **QUICK,
        )
    fitted.save(place / "api" / "sea")
    run_fit(
        place / "pairs.jsonl",
        "--model",
        place / "echo",
        "--out",
        place / "cli" / "sea",
        "--layers",
        "2",
        "--scales",
        "0.2",
        "--controls",
        "1",
        "--resamples",
        "10",
    )
    saved = load_vector("sea", place / "api" / "sea")
    assert saved.digest == fitted.vector.digest == load_vector("sea", place / "cli" / "sea").digest
    assert fitted.report.test == report_of(place / "cli" / "sea").test
    assert any("sweep" in each for each in stages)
    with pytest.raises(ConfigError, match="already"):
        fitted.save(place / "api" / "sea")


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"name": "a/b"}, "name: got 'a/b'"),
        ({"method": "magic"}, "method: got 'magic', want one of difference-of-means"),
        ({"method": "sae-features"}, "sae-features goes with sae"),
        ({"token": "middle"}, "token: got 'middle'"),
        ({"site": "nowhere"}, "site: got 'nowhere'"),
        ({"on": "sundays"}, "on: got 'sundays'"),
        ({"search": "wide"}, "search: got 'wide'"),
        ({"scales": []}, "scales: got"),
        ({"scales": [0.1, -1.0]}, "scales: got"),
        ({"scales": [float("nan")]}, "scales: got"),
        ({"controls": 0}, "controls: got 0, want at least 1"),
        ({"resamples": 1}, "resamples: got 1"),
        ({"answer_tokens": 0}, "answer_tokens: got 0"),
        ({"max_perplexity_ratio": float("nan")}, "max_perplexity_ratio: got nan"),
        ({"dtype": "float32", "engine": {"dtype": "bfloat16"}}, "dtype: got float32"),
        ({}, "no-such-pairs.jsonl"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(
    given: dict[str, Any], word: str, tmp_path: Path
) -> None:
    arguments = {"model": "no-such-model", "name": "sea"} | given
    with pytest.raises(ConfigError, match=word):
        fit_vector(tmp_path / "no-such-pairs.jsonl", **arguments)
