"""docs/making-vectors.md on a random-weight model: pairs, command, profile, request."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import httpx
import pytest

from pilothouse.config import load_config
from pilothouse.contrast.report import FitReport
from pilothouse.contrast.verdict import choose
from tests.cli.fitting import report_of, run_fit
from tests.engine.offline_llm import offline_llm
from tests.support.echo_model import MAX_TOKENS, make_echo_model
from tests.support.server_process import TINY_FLAGS, free_port, started

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
PAGE = (Path(__file__).parent.parent / "docs" / "making-vectors.md").read_text(encoding="utf-8")
STEPS = PAGE.partition("\n## Pairs\n")[0]
BLOCKS = re.findall(r"```bash\n(.*?)```", STEPS, re.DOTALL)
PROFILE = "house:polite"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which steps 1 to 3 of the page were done."""
    folder = tmp_path_factory.mktemp("house")
    make_echo_model(folder / "MODEL")
    pairs, command, profile, _ = BLOCKS
    for block in (pairs, profile):
        subprocess.run(["bash", "-c", block], cwd=folder, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = run_fit(*shlex.split(command)[3:])
    assert done.exit_code == bool(report_of(folder / "vectors" / "polite").findings), done.output
    return folder


def test_the_pairs_are_twenty(house: Path) -> None:
    lines = (house / "pairs.jsonl").read_text().splitlines()
    assert len({json.loads(line)["prompt"] for line in lines}) == 20


def test_the_fit_shows_an_effect_on_pairs_it_has_not_seen(house: Path) -> None:
    report: FitReport = report_of(house / "vectors" / "polite")
    assert report.test.effect.low > 0
    assert min(over.low for over in report.test.effect_over.values()) > 0
    assert choose(report.sweep, report.max_perplexity_ratio).layer == report.chosen_layer


def test_the_profile_steers_offline(house: Path) -> None:
    config = load_config(house / "pilothouse.yaml")
    settings = {"skip_tokenizer_init": False, "max_model_len": MAX_TOKENS}
    with offline_llm(house / "MODEL", config, **settings) as llm:
        params = llm.get_default_sampling_params()
        params.temperature, params.max_tokens = 0.0, 16
        ask = {"sampling_params": params, "use_tqdm": False}
        [steered] = llm.generate("is the harbour open?", profile=PROFILE, **ask)
        [plain] = llm.generate("is the harbour open?", **ask)
    assert steered.outputs[0].pilothouse["steered"]["polite"] > 0
    assert plain.outputs[0].pilothouse["steered"] == {}


@pytest.mark.full
@pytest.mark.server
def test_the_profile_steers_over_http(house: Path, tmp_path: Path) -> None:
    request = json.loads(re.findall(r"-d '(.*)'", BLOCKS[3])[0])
    port = free_port()
    words = ["serve", str(house / "MODEL"), "--port", str(port), *TINY_FLAGS]
    words.append(f"--pilothouse-config={house / 'pilothouse.yaml'}")
    with started(words, port, tmp_path / "server.txt", {}) as server:
        answer = httpx.post(f"{server.url}/v1/completions", json=request, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"]
    assert answer.json()["choices"][0]["pilothouse"]["action"] == "allow"
