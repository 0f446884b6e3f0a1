"""The command: verbs, exit codes, one clear paragraph for what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from pilothouse.cli import demo, doctor
from pilothouse.cli.launch import plan_for
from pilothouse.cli.main import VERBS
from pilothouse.cli.prompts import Stop, Tour
from pilothouse.cli.serve import split_own
from pilothouse.config import load_config
from pilothouse.engine.vllm import version
from pilothouse.engine.worker.buffers import TapBuffers
from pilothouse.engine.worker.tables import named_tensors
from pilothouse.errors import ConfigError, UnsupportedError
from pilothouse.types import Tap
from tests.support.servers.server_process import COMMAND

TOUR = Tour(
    question="who's there?",
    stops=(
        Stop(title="plain", model="m", about="an answer"),
        Stop(title="steered", model="m:glad", about="the same, steered"),
        Stop(title="blocked", model="m", about="declined", prompt='say "it"', is_guarded=True),
    ),
)


def run(*words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=timeout)


def test_help_lists_every_verb_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom pilothouse.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'vllm', 'transformers', 'fastapi', 'numpy', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(f"  {verb}" in done.stdout for verb in VERBS)


LIBRARY = Path(__file__).resolve().parents[2]
WITHOUT_ENGINE = (
    "policy lint policies/smol",
    "probe show probes/demo/probes/misuse",
    "vector show probes/demo/vectors/cheerful",
    "sae show probes/demo/saes/world-l4",
    "vector import --help",
    "sae import --help",
    "vector fit --help",
    "reload --url http://[",
)


@pytest.mark.parametrize("words", WITHOUT_ENGINE)
def test_verbs_that_need_no_engine_import_none(words: str) -> None:
    """Importing torch alone takes longer than all that these do."""
    code = (
        "import sys\nfrom pilothouse.cli import main\n"
        f"try:\n    main({words.split()!r})\nexcept SystemExit as end:\n    print(end.code)\n"
        "heavy = {'torch', 'vllm', 'transformers', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=LIBRARY
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("2\n" if words.startswith("reload") else "0\n"), done.stdout


def test_the_environment_is_set_before_torch_is_imported() -> None:
    code = "import sys, pilothouse.cli.launch\nassert not {'torch', 'vllm'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_verb_that_is_none_is_wrong_use() -> None:
    done = run("sevre")
    assert done.returncode == 2 and "serve" in done.stderr
    assert run().returncode == 2


def test_our_option_is_taken_out_and_all_else_left_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PILOTHOUSE_CONFIG", raising=False)
    words = ["m", "-tp", "2", "--pilothouse-config", "p.yaml", "--seed=3"]
    assert split_own(words) == (Path("p.yaml"), ["m", "-tp", "2", "--seed=3"])
    assert split_own(["m", "--pilothouse_config=p.yaml"]) == (Path("p.yaml"), ["m"])
    assert split_own(["m"]) == (None, ["m"])
    monkeypatch.setenv("PILOTHOUSE_CONFIG", "env.yaml")
    assert split_own(["m"]) == (Path("env.yaml"), ["m"])


@pytest.mark.parametrize(
    "words",
    [
        ["--pilothouse-config"],
        ["--pilothouse-config", "--port"],
        ["--pilothouse-config=a", "--pilothouse-config=b"],
    ],
)
def test_our_option_without_one_file_is_an_error(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        split_own(words)


def test_a_config_that_is_missing_is_one_paragraph_and_exit_2(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run("serve", "m", "--pilothouse-config", str(tmp_path / "no.yaml"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("pilothouse: ") and "no.yaml" in done.stderr
    assert time.monotonic() - started < 60


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_flag_that_cannot_be_guarded_is_refused_with_its_reason(tiny_house: Path) -> None:
    words = ["serve", str(tiny_house.parent / "model"), f"--pilothouse-config={tiny_house}"]
    done = run(*words, "--data-parallel-size", "2", timeout=500)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "--data-parallel-size (got 2) is refused" in done.stderr


@pytest.mark.full
@pytest.mark.timeout(600)
def test_serve_help_is_ours_and_then_vllms() -> None:
    done = run("serve", "--help", timeout=500)
    assert done.returncode == 0
    assert done.stdout.index("--pilothouse-config FILE") < done.stdout.index("--help=all")


def test_the_demo_is_for_this_machine_alone() -> None:
    for host in ("0.0.0.0", "192.168.1.4", "example.org", "::"):
        with pytest.raises(ConfigError, match=r"want 127\.0\.0\.1"):
            demo.refuse_remote(host)
    for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost"):
        demo.refuse_remote(host)
    done = run("demo", "--host", "0.0.0.0")
    assert done.returncode == 2 and "pilothouse serve" in done.stderr


def test_what_the_demo_prints_can_be_pasted(tmp_path: Path) -> None:
    text = demo.greeting("http://127.0.0.1:9", TOUR)
    commands = [part for part in text.split("\n\n") if "curl" in part]
    assert len(commands) == 3
    for command in commands:
        script = tmp_path / "paste.sh"
        script.write_text(command)
        assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    program = text.split("<<'EOF'\n")[1].split("\nEOF")[0]
    compile(program, "pasted", "exec")


def test_doctor_tells_versions_routes_and_the_config(tiny_house: Path) -> None:
    report = doctor.examine(tiny_house, None)
    assert report["vllm"]["installed"] and report["vllm"]["supported"]
    verdicts = {each["path"]: each["verdict"] for each in report["routes"]}
    assert verdicts["/v1/completions"] == "governed" and verdicts["/invocations"] == "denied"
    assert report["config"]["policies"]["watch"] == "shadow"
    assert report["config"]["vectors"] == {"nudge": [3]}


def test_doctor_lists_the_doors_that_stay_open_with_reason_and_remedy(
    tiny_house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LOW_MEMORY_GIB", 0)
    told = {each["door"]: each for each in doctor.examine(tiny_house, None)["config"]["open_doors"]}
    assert "prompt-refusal/rule" in told["own-words"]["rules"]
    assert "output-refusal/rule" not in told["own-words"]["rules"]
    assert {"metrics", "client-scores", "client-steering", "profile"} <= told.keys()
    done = CliRunner().invoke(doctor.app, ["--config", str(tiny_house)])
    assert done.exit_code == 0
    scores = told["client-scores"]
    assert f"client-scores (warning), past {', '.join(scores['rules'])}" in done.stdout
    assert f"{scores['reason']}; {scores['remedy']}" in done.stdout


def test_doctor_knows_from_the_model_whether_a_text_can_be_scored_as_a_users_turn(
    tiny_house: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_house.parent / "model", tmp_path / "model")
    assert "no-template" not in doors_told(tiny_house, model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "chat_template.jinja").unlink(missing_ok=True)
    assert "no-template" in doors_told(tiny_house, model)


def doors_told(config: Path, model: Path) -> set[str]:
    found = doctor.examine(config, str(model))["config"]["open_doors"]
    return {each["door"] for each in found}


def test_doctor_prints_what_each_tap_is_reserved_for_and_what_it_takes(
    tiny_house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LOW_MEMORY_GIB", 0)
    raw = yaml.safe_load(tiny_house.read_text())
    raw["taps"] = {"operators": ["add", "ablate", "slerp", "restore_norm", "token_unit"]}
    raw["limits"] = {**raw.get("limits", {}), "max_programs": 7, "max_rank": 5}
    path = tiny_house.with_name("reserved.yaml")
    path.write_text(yaml.safe_dump(raw))
    model = str(tiny_house.parent / "model")
    tables = doctor.examine(path, model)["config"]["plan"]["tables"]
    config = load_config(path)
    plan = plan_for(config, Namespace(model=model))
    whole = {tap: slice(0, each.width) for tap, each in plan.taps().items()}
    buffers = TapBuffers.allocate(plan, whole, max_tokens=4, device=torch.device("cpu"))
    assert tables["slots"] == 8 and tables["table_mib"] == config.limits.table_mib
    assert {(each["layer"], each["site"]) for each in tables["taps"]} == set(buffers.tables)
    for each in tables["taps"]:
        tap = Tap(each["layer"], each["site"])
        assert each["rank"] == 5 and each["slerp"] and each["relative"] and each["restores_norm"]
        assert not each["planes"] and not each["diagonal"]
        held = {**named_tensors(buffers.tables[tap]), **named_tensors(buffers.policies.get(tap))}
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in held.values())
        assert each["mib"] == round(num_bytes / 2**20, 3) > 0
    assert tables["total_mib"] == pytest.approx(sum(each["mib"] for each in tables["taps"]))
    done = CliRunner().invoke(doctor.app, ["--config", str(path), "--model", model])
    assert done.exit_code == 0, done.stdout
    for each in tables["taps"]:
        width = plan.taps()[Tap(each["layer"], each["site"])].width
        line = f"layer {each['layer']} {each['site']}, width {width}: {each['mib']:.3f} MiB; "
        assert line + "additions, slerp, token units, norms, 5 rows" in done.stdout


def test_doctor_shows_tables_over_the_limit_and_says_so(tiny_house: Path) -> None:
    raw = yaml.safe_load(tiny_house.read_text())
    raw["limits"] = {**raw.get("limits", {}), "max_programs": 4096, "table_mib": 1}
    path = tiny_house.with_name("over.yaml")
    path.write_text(yaml.safe_dump(raw))
    report = doctor.examine(path, str(tiny_house.parent / "model"))
    plan = report["config"]["plan"]
    assert plan["tables"]["total_mib"] > plan["tables"]["table_mib"] == 1
    assert plan["revision"] is None
    assert [
        each for each in report["problems"] if "limits.table_mib: edit tables at 1 taps" in each
    ]


def test_doctor_names_a_model_that_cannot_be_read(
    tiny_house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    report = doctor.examine(tiny_house, str(tiny_house.parent / "nowhere"))
    assert [each for each in report["problems"] if "nowhere: its configuration cannot be" in each]
    done = CliRunner().invoke(doctor.app, ["--model", "m"])
    assert done.exit_code == 2 and "--pilothouse-config" in done.stderr


def test_doctor_and_the_engine_hold_the_same_vllm_for_tested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(version, "version", lambda name: {"vllm": "0.30.2"}[name])
    with pytest.raises(UnsupportedError, match=r"0\.30\.2") as refused:
        version.check_version()
    report = doctor.examine(None, None)
    assert report["vllm"]["tested"] == list(version.TESTED)
    told = "vLLM 0.30.2 is outside the supported range"
    assert [each for each in report["problems"] if each.startswith(told) or each == str(refused)]


def test_doctor_exits_1_on_a_problem_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "pilothouse.yaml"
    path.write_text("version: 1\nprobes: {p: {path: nowhere}}\n")
    done = CliRunner().invoke(doctor.app, ["--pilothouse-config", str(path), "--json"])
    assert done.exit_code == 1 and "nowhere" in done.stdout


@pytest.mark.parametrize("verb", [name for name, each in VERBS.items() if each[0].endswith(":app")])
def test_no_traceback_of_a_verb_can_show_what_its_variables_hold(verb: str) -> None:
    module, _, name = VERBS[verb][0].partition(":")
    assert getattr(import_module(module), name).pretty_exceptions_enable is False
