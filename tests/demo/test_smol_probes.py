"""The real model's probes: their cards, the policies on them, and that serving reads as fitted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.probe import load_probe
from pilothouse.config import load_config
from pilothouse.policy.loader import load_policies
from pilothouse.policy.matching import holds_for
from pilothouse.probes.calibration import apply
from pilothouse.probes.card import card_of
from pilothouse.probes.report import Evaluation

CHECKOUT = Path(__file__).resolve().parents[2]
PROBES = CHECKOUT / "probes" / "smol" / "probes"
FOLDERS = sorted(PROBES.iterdir())
MODEL_ID = "SmolLM2-135M-Instruct"
AT_FPR = re.compile(r"(\w+) at fpr ([\d.]+)")
every_probe = pytest.mark.parametrize("folder", FOLDERS, ids=lambda each: each.name)


def evaluation_of(folder: Path) -> Evaluation:
    return Evaluation.model_validate(json.loads((folder / "evaluation.json").read_text()))


def found_something(folder: Path) -> bool:
    """Whether the probe is ahead of every baseline on every test, texts alike."""
    return all(
        lead.low > 0
        for each in evaluation_of(folder).transfers
        if each.form == "alike"
        for name, lead in each.leads.items()
        if name != "shuffled labels"
    )


QUESTIONS = (
    "how do i bake bread without yeast",
    "What is the capital of France?",
    "Write a short poem about rain in spring.",
    "Explain how a lock works, so that I can mend mine",
)
ANSWERS = ("Paris", "It is the city of Lyon.")


def hidden_by_transformers(model: Path, conversations: list[list[int]]) -> list[list[np.ndarray]]:
    """The stream behind each layer at every position, layer by layer, by another engine."""
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    found = []
    for ids in conversations:
        with torch.no_grad():
            states = reference(torch.tensor([ids]), output_hidden_states=True).hidden_states
        found.append([each[0].numpy() for each in states[1:]])
    return found


def value_of(folder: Path, states: list[np.ndarray], readout: str, position: int) -> float:
    """What a readout makes of one position, by hand."""
    probe = load_probe(folder.name, folder)
    [layer] = probe.layers
    logit = float(states[layer][position] @ probe.weights_LD[0]) + probe.bias
    kept = probe.readouts[readout]
    return float(apply(np.array([logit]), kept.slope, kept.offset)[0])


@pytest.mark.full
@pytest.mark.engine
@pytest.mark.timeout(900)
def test_a_served_probe_reads_what_the_fit_read(smol: Path) -> None:
    from vllm import SamplingParams

    from pilothouse.config import PilothouseConfig
    from pilothouse.llm import LLM

    config: Any = {
        "version": 1,
        "model_id": MODEL_ID,
        "probes": {each.name: {"path": each} for each in FOLDERS},
    }
    llm = LLM(
        str(smol),
        pilothouse_config=PilothouseConfig.model_validate(config),
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
    )
    outputs = llm.chat(
        [[{"role": "user", "content": each}] for each in QUESTIONS],
        SamplingParams(temperature=0.0, max_tokens=8),
        probes=[each.name for each in FOLDERS],
        use_tqdm=False,
    )
    fed = [[*each.prompt_token_ids, *each.outputs[0].token_ids[:-1]] for each in outputs]
    states = hidden_by_transformers(smol, fed)
    moved = []
    for output, layers, ids in zip(outputs, states, fed, strict=True):
        scores = output.outputs[0].pilothouse["scores"]
        for folder in FOLDERS:
            probe = load_probe(folder.name, folder)
            readout = probe.default_readout
            in_prompt = probe.readouts[readout].scope == "prompt"
            at = len(output.prompt_token_ids) - 1 if in_prompt else len(ids) - 1
            served = scores[f"{folder.name}/{readout}"]
            assert served == pytest.approx(value_of(folder, layers, readout, at), abs=1e-3)
            moved.append(abs(served - value_of(folder, layers, readout, at - 3)))
    assert max(moved) > 0.05, "another position would have given the same values"


@every_probe
def test_a_card_is_written_from_its_files_and_shows_every_test(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert card == card_of(folder)
    evaluation = evaluation_of(folder)
    for test in evaluation.transfers:
        assert f"| {test.name} | {test.form} | probe |" in card
    assert {"TF-IDF", "shape", "shuffled labels"} <= set(evaluation.transfers[0].scores)
    assert "mean log-probability" in evaluation.transfers[0].scores
    assert load_probe(folder.name, folder).model_id == MODEL_ID


@every_probe
def test_a_folder_holds_figures_and_no_texts(folder: Path) -> None:
    assert sum(each.stat().st_size for each in folder.iterdir()) < 100_000


def test_a_probe_that_does_not_beat_every_baseline_ends_requests_of_a_picked_profile_alone() -> (
    None
):
    found = {each.name for each in FOLDERS if found_something(each)}
    served = load_policies(load_config(PROBES.parent / "pilothouse.yaml").policies)
    assert served
    for policy in served:
        used = {signal.probe for signal in policy.spec.signals.values()}
        assert used <= {each.name for each in FOLDERS}
        ends = {rule.then.action for rule in policy.spec.rules} & {"block", "respond"}
        is_picked = not holds_for(policy.spec.match.profiles, "")
        assert used <= found or policy.spec.mode == "shadow" or is_picked or not ends


def test_a_policy_tells_what_it_fires_on_of_texts_that_it_must_not() -> None:
    told = 0
    for policy in load_policies(load_config(PROBES.parent / "pilothouse.yaml").policies):
        said = " ".join((policy.metadata.description or "").split())
        for rule in policy.spec.rules:
            for signal, target in AT_FPR.findall(rule.when):
                reports = evaluation_of(PROBES / policy.spec.signals[signal].probe).fired
                harmless = [
                    each for each in reports if not each.label and each.target_fpr == float(target)
                ]
                assert harmless
                for each in harmless:
                    assert f"{each.name} {each.fired} of {each.n}" in said
                told += 1
    assert told
