"""docs/guides/fit-a-probe.md: the file, the fit, the policy and the try, as pasted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilothouse.probes.card import card_of
from pilothouse.training.probe_data import FIELDS, Reading, load_labelled

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guides" / "fit-a-probe.md").read_text(encoding="utf-8")
STEPS = PAGE.partition("\n## The file\n")[0]
FIT, POLICY, SERVE = re.findall(r"```bash\n(.*?)```", STEPS, re.DOTALL)
[TRY] = re.findall(r"```python\n(.*?)```", STEPS, re.DOTALL)
HEAD, _, SAID = re.findall(r"```text\n(.*?)```", STEPS, re.DOTALL)
BLOCKED = r"(barred|allowed): (\d+) of \d+ blocked"


def test_the_files_are_what_the_page_says() -> None:
    head = (ROOT / "examples" / "probe" / "requests.csv").read_text().splitlines()[:2]
    assert head == HEAD.splitlines()
    columns = (("text", "prompt"), ("label", "verdict"), ("source", "form"))
    reading = Reading(columns, ("barred",), ("allowed",))
    fitted, elsewhere = (
        load_labelled(ROOT / "examples" / "probe" / name, reading)
        for name in ("requests.csv", "elsewhere.csv")
    )
    assert (len(fitted.rows), len(elsewhere.rows)) == (600, 180)
    both = {each.said("alike") for each in fitted.rows} & {
        each.said("alike") for each in elsewhere.rows
    }
    assert not both
    for name in FIELDS:
        assert f"| `{name}` |" in PAGE


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that has the checkout's examples."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "examples").symlink_to(ROOT / "examples")
    yield folder


def pasted(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PILOTHOUSE_CACHE": str(folder / "cache"),
            "VLLM_CPU_KVCACHE_SPACE": "1",
        },
    )


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_the_commands_end_in_a_policy_that_blocks(place: Path) -> None:
    made = pasted(place, "bash", "-c", FIT)
    assert made.returncode in (0, 1), made.stderr
    card = (place / "probes" / "request" / "README.md").read_text()
    assert card == card_of(place / "probes" / "request") and "elsewhere" in card
    ruled = pasted(place, "bash", "-ec", POLICY)
    assert ruled.returncode == 0, ruled.stdout + ruled.stderr
    (place / "try.py").write_text(TRY)
    tried = pasted(place, sys.executable, "try.py")
    assert tried.returncode == 0, tried.stderr
    found = {verdict: int(count) for verdict, count in re.findall(BLOCKED, tried.stdout)}
    said = {verdict: int(count) for verdict, count in re.findall(BLOCKED, SAID)}
    assert found.keys() == said.keys() == {"barred", "allowed"}
    for verdict, count in said.items():
        assert abs(found[verdict] - count) <= 3, (found, said)
