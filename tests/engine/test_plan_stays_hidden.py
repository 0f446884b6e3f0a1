"""Offline entry points write nothing of a plan but its digest: not in a log, not in a cache."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from pilothouse.artifacts.vector import load_vector
from pilothouse.cli.launch import config_of, plan_for
from tests.support.engines.plan_text import numbers_in
from tests.support.models.echo_model import echo_pairs, make_echo_model, write_lines
from tests.support.servers.server_process import COMMAND
from tests.support.training.fit_command import ENGINE

pytestmark = [pytest.mark.full, pytest.mark.server, pytest.mark.timeout(900)]

SECONDS = 600
LONG = re.compile(r"[A-Za-z0-9+/]{200}")
"""What base64 looks like, whatever is in it; a digest is shorter."""
LOUD = {
    "VLLM_LOGGING_LEVEL": "DEBUG",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
OFFLINE = """
import sys
from pilothouse import LLM, Steer

if __name__ == "__main__":
    config, out = sys.argv[1:]
    llm = LLM(config.replace("pilothouse.yaml", "model"), pilothouse_config=config,
              dtype="float32", max_model_len=256, max_num_seqs=4)
    llm.generate(["the tide"], steer=[Steer(vector="nudge", scale=1.0)], use_tqdm=False)
    llm.capture(["the tide"], [1], out=out, progress=False)
"""


def test_a_steered_and_captured_run_that_compiles(tiny_house: Path, tmp_path: Path) -> None:
    program = tmp_path / "offline.py"
    program.write_text(OFFLINE)
    caches = tmp_path / "caches"
    changes = LOUD | {
        "VLLM_CACHE_ROOT": str(caches),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
    }
    ran = subprocess.run(
        [sys.executable, str(program), str(tiny_house), str(tmp_path / "out")],
        env=os.environ | changes,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said[-4000:]
    plan = plan_for(config_of(tiny_house), Namespace(model=str(tiny_house.parent / "model")))
    assert said.count("runs revision") == 1
    assert "pilothouse-plan-sha256:" in said
    assert numbers_in(said, plan.tensors) == [] and not LONG.search(said)
    written = [each for each in caches.rglob("*") if each.is_file()]
    assert written
    assert numbers_in("\n".join(str(each) for each in written), plan.tensors) == []
    for each in written:
        assert numbers_in(each.read_text(errors="replace"), plan.tensors) == [], each


def test_a_fitted_vector(tmp_path: Path) -> None:
    make_echo_model(tmp_path / "echo")
    write_lines(tmp_path / "pairs.jsonl", echo_pairs(20))
    words = ["vector", "fit", tmp_path / "pairs.jsonl", "--model", tmp_path / "echo"]
    words += ["--out", tmp_path / "sea", "--layers", "0", "--scales", "0.1", "--controls", "1"]
    words += ["--resamples", "10"]
    ran = subprocess.run(
        [*COMMAND, *map(str, words), *ENGINE],
        env=os.environ | LOUD,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said[-4000:]
    directions_LD = load_vector("sea", tmp_path / "sea").directions_LD
    assert "pilothouse-plan-sha256:" in said
    assert numbers_in(said, {"sea": directions_LD}) == [] and not LONG.search(said)
