"""`pilothouse policy lint`: exit codes and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pilothouse.cli.policy import app
from tests.support.policies import policy_text, rule_text

CASES = """signals: {misuse: {scope: prompt}}
cases: [{name: a, given: {}, expect: {rule: null, result: allowed}}]
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["lint", *map(str, arguments)])


def write(folder: Path, text: str) -> Path:
    file = folder / "sample" / "policy.yaml"
    file.parent.mkdir()
    file.write_text(text, encoding="utf-8")
    (file.parent / "cases.yaml").write_text(CASES, encoding="utf-8")
    return file


def test_good_policies_exit_0(tmp_path: Path) -> None:
    write(tmp_path, policy_text(rule_text()))
    result = run(tmp_path)
    assert (result.exit_code, result.output) == (0, "good: 0 errors, 0 warnings, 0 notes\n")


def test_findings_exit_1_and_name_file_and_line(tmp_path: Path) -> None:
    file = write(tmp_path, policy_text(rule_text(when="misuse > 2")))
    result = run(file)
    assert result.exit_code == 1
    assert f"error   {file}:13: spec.rules[0].when: `misuse > 2` never holds" in result.output
    assert "findings: 1 error, 0 warnings, 0 notes" in result.output


def test_json_carries_each_finding(tmp_path: Path) -> None:
    file = write(tmp_path, policy_text(rule_text(when="misuse > 2")))
    result = run(file, "--json")
    report = json.loads(result.output)
    assert (result.exit_code, report["good"]) == (1, False)
    (finding,) = report["findings"]
    assert (finding["file"], finding["line"], finding["severity"]) == (str(file), 13, "error")


@pytest.mark.parametrize("arguments", [(), ("nowhere",), ("--config", "nowhere.yaml")])
def test_wrong_use_exits_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_config_names_what_is_loaded(tmp_path: Path) -> None:
    file = write(tmp_path, policy_text(rule_text()))
    config = tmp_path / "pilothouse.yaml"
    config.write_text("version: 1\n", encoding="utf-8")
    result = run(file, "--config", config)
    assert result.exit_code == 1
    assert f"{file}:11: spec.signals.misuse.probe: got the probe `misuse`" in result.output


def test_a_broken_config_is_a_finding(tmp_path: Path) -> None:
    file = write(tmp_path, policy_text(rule_text()))
    config = tmp_path / "pilothouse.yaml"
    config.write_text("version: 1\nprobe: {}\n", encoding="utf-8")
    result = run(file, "--config", config)
    assert result.exit_code == 1
    assert f"{config}:2: probe: unknown field; did you mean `probes`?" in result.output
