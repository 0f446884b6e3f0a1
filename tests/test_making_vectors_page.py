"""docs/guides/making-vectors.md on the real model: pairs, command, profile, request as pasted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from pilothouse.config import load_config
from pilothouse.demo.smol import smol_folder
from pilothouse.demo.wheels import IndexUnreachable
from pilothouse.training.pair import load_pairs
from pilothouse.training.report import FitReport
from tests.support.servers.server_process import ServerProcess, free_port, started
from tests.support.training.fit_command import report_of

GUIDES = Path(__file__).parent.parent / "docs" / "guides"
PAGE = (GUIDES / "making-vectors.md").read_text(encoding="utf-8")
STEPS = PAGE.partition("\n## From Python\n")[0]
MODEL, PAIRS, FIT, PROFILE, REQUEST = re.findall(r"```bash\n(.*?)```", STEPS, re.DOTALL)
[OFFLINE] = re.findall(r"```python\n(.*?)```", STEPS, re.DOTALL)
FIGURES, ANSWERS = re.findall(r"```text\n(.*?)```", STEPS, re.DOTALL)
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1"}


def pasted(folder: Path, *blocks: str) -> subprocess.CompletedProcess[str]:
    """Paste blocks into one shell that stands in a folder."""
    return subprocess.run(
        ["bash", "-ec", "\n".join(blocks)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | QUIET
        | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
    )


def test_the_pairs_can_be_fitted_and_the_profile_loaded(tmp_path: Path) -> None:
    made = pasted(tmp_path, PAIRS, PROFILE)
    assert made.returncode == 0, made.stderr
    pairs = load_pairs(tmp_path / "pairs.jsonl")
    assert len({each.group_name for each in pairs}) == len(pairs) == 24
    config = load_config(tmp_path / "pilothouse.yaml")
    [profile] = config.profiles
    assert f'"model": "{profile}"' in REQUEST and f'profile="{profile}"' in OFFLINE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which steps 1 to 3 of the page were done."""
    try:
        smol_folder(lambda _: None)
    except IndexUnreachable as error:
        if os.environ.get("PILOTHOUSE_REQUIRE_TOOLS"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("house")
    done = pasted(folder, MODEL, PAIRS, FIT, PROFILE)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    """Step 4."""
    port = free_port()
    words = [
        "serve",
        str(smol_folder(lambda _: None)),
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "512",
        f"--pilothouse-config={folder / 'pilothouse.yaml'}",
    ]
    with started(words, port, folder / "server.txt", QUIET) as running:
        yield running


@pytest.mark.full
@pytest.mark.engine
@pytest.mark.timeout(1800)
def test_the_fit_chooses_and_measures_what_the_page_says(folder: Path) -> None:
    report: FitReport = report_of(folder / "vectors" / "cheerful")
    told = [float(each) for each in re.findall(r"[-+]?\d+(?:\.\d+)?", FIGURES.splitlines()[1])]
    layer, scale, effect, *_ = told
    assert (report.chosen_layer, report.chosen_scale) == (layer, scale)
    assert report.test.effect.estimate == pytest.approx(effect, abs=0.01)
    assert min(over.low for over in report.test.effect_over.values()) > 0
    [term] = yaml.safe_load((folder / "pilothouse.yaml").read_text())["profiles"]["house:glad"][
        "steer"
    ]
    assert term["scale"] == scale


@pytest.mark.full
@pytest.mark.engine
@pytest.mark.timeout(1800)
def test_the_profile_steers_offline_as_the_page_says(folder: Path) -> None:
    script = OFFLINE.replace("LLM(MODEL,", 'LLM(os.environ["MODEL"], dtype="float32",')
    (folder / "offline.py").write_text(f"import os\n{script}", encoding="utf-8")
    done = pasted(folder, f"export {MODEL}", f"{sys.executable} offline.py")
    assert done.returncode == 0, done.stderr
    assert ANSWERS.strip() in done.stdout


@pytest.mark.full
@pytest.mark.server
@pytest.mark.timeout(1800)
def test_the_profile_steers_over_http_as_the_page_says(server: ServerProcess) -> None:
    [body] = re.findall(r"-d '(.*)'", REQUEST)
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=json.loads(body), timeout=120)
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    assert choice["message"]["content"] in ANSWERS
    assert choice["pilothouse"]["steered"]["cheerful"] > 0
