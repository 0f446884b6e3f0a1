"""The commands of the workflows are targets of the Makefile or files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((CHECKOUT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text("utf-8"), re.MULTILINE))
JOBS = [
    pytest.param(job, id=f"{file.stem}-{name}")
    for file in WORKFLOWS
    for name, job in yaml.safe_load(file.read_text("utf-8"))["jobs"].items()
]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_runs_targets_and_scripts_that_exist(job: dict[str, list[dict[str, str]]]) -> None:
    commands = [step["run"].split() for step in job["steps"] if "run" in step]
    assert commands
    for program, what in commands:
        if program == "make":
            assert what in TARGETS
        else:
            assert program == "bash"
            assert (CHECKOUT / what).is_file()


@pytest.mark.parametrize("job", JOBS)
def test_a_job_uses_actions_by_version(job: dict[str, list[dict[str, str]]]) -> None:
    uses = [step["uses"] for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", each) for each in uses)


def test_lint_unit_and_docs_have_jobs_of_their_own() -> None:
    names = {str(job.id).partition("-")[2] for job in JOBS}
    assert {"lint", "unit", "docs"} <= names
