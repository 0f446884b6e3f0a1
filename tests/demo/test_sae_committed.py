"""The real model's SAE as it lies in the library: card, weights, labels, serving."""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.saes.cache import open_sae
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.artifacts.saes.saelens import WEIGHTS_FILE
from pilothouse.config import load_config
from pilothouse.demo.sae.__main__ import CARD_FILE, PAGE_FILE, main
from pilothouse.demo.sae.concepts import CONCEPTS
from pilothouse.demo.sae.edits import ANSWER_TOKENS, terms_of
from pilothouse.demo.sae.recipe import MAX_BYTES, NAME
from pilothouse.demo.sae.sae_card import SaeCard, is_shown
from pilothouse.demo.sae.sae_page import profile_name, readme
from pilothouse.library import library_path

SHELF = library_path("probes/smol")
FOLDER = SHELF / "saes" / NAME


@pytest.fixture(scope="module")
def card() -> SaeCard:
    return SaeCard.model_validate_json((FOLDER / CARD_FILE).read_text(encoding="utf-8"))


def test_the_page_is_that_of_the_card(card: SaeCard) -> None:
    assert (FOLDER / PAGE_FILE).read_text(encoding="utf-8") == readme(card)


def test_the_weights_are_those_that_the_figures_are_of(card: SaeCard) -> None:
    raw = (FOLDER / WEIGHTS_FILE).read_bytes()
    assert hashlib.sha256(raw).hexdigest() == card.weights_sha256
    assert len(raw) == card.weights_bytes <= MAX_BYTES


def test_our_reader_reads_it_with_its_labels(card: SaeCard) -> None:
    sae = load_sae(NAME, FOLDER, None)
    assert (sae.form, sae.num_features) == ("jumprelu", card.recipe.features)
    assert (sae.model_id, sae.tap.layer, sae.site) == (
        card.model_id,
        card.recipe.layer,
        "resid_post",
    )
    assert dict(sae.labels) == {each.feature: each.name for each in card.labels}
    assert len(sae.labels) >= 20
    assert sae.max_act_M is not None
    assert (sae.max_act_M == 0).sum() == card.reconstruction.dead_in_training


def test_every_label_is_one_that_was_written_down_before(card: SaeCard) -> None:
    assert {each.name for each in card.labels} <= CONCEPTS.keys()


def test_it_is_served_as_it_was_measured(card: SaeCard) -> None:
    config = load_config(SHELF / "pilothouse.yaml")
    assert config.saes[NAME].average_norm == card.average_norm
    assert open_sae(NAME, config.saes[NAME]).tap.layer == card.recipe.layer
    shown = {f"smol:{profile_name(each)}": each for each in card.edits if is_shown(each)}
    steered = {
        name: profile.steer
        for name, profile in config.profiles.items()
        if any(term.sae for term in profile.steer)
    }
    assert steered.keys() <= shown.keys()
    for name, terms in steered.items():
        assert terms == terms_of(NAME, shown[name].name, shown[name].value)


def test_the_command_tells_of_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0 and "--quick" in capsys.readouterr().out


def quiet(_title: str, _total: int | None) -> Any:
    return lambda _count: None


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_weights_explain_held_out_text_as_the_card_says(
    smol: Path, card: SaeCard, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from pilothouse.demo.sae.lines import plain_lines
    from pilothouse.demo.sae.reconstruction import explained, losses
    from pilothouse.demo.sae.stream import Learnt, captured

    every = plain_lines(AutoTokenizer.from_pretrained(smol), lambda _: None)
    lines = list(islice((each for each in every if each.is_held_out), 40))
    assert len(lines) == 40
    learnt = Learnt(captured(smol, card.recipe.layer, lines, tmp_path, quiet), lines)
    sae = load_sae(NAME, FOLDER, None)
    found = explained(sae, learnt, quiet)
    wanted = card.reconstruction
    assert found.explained_variance(0).estimate == pytest.approx(
        wanted.explained_variance.estimate, abs=0.03
    )
    assert found.l0(0).estimate == pytest.approx(wanted.l0.estimate, rel=0.15)
    lost = losses(sae, learnt, found.mean_D, smol, quiet, most=3)
    assert lost.recovered(0).estimate > wanted.loss_recovered.estimate - 0.1


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_stream_is_transformers_own_and_goes_on_where_it_was_stopped(
    smol: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pilothouse.demo.sae.lines import plain_lines
    from pilothouse.demo.sae.stream import LINES_AT_ONCE, captured

    lines = list(islice(plain_lines(AutoTokenizer.from_pretrained(smol), lambda _: None), 20))
    whole_RD = np.array(captured(smol, 3, lines, tmp_path / "whole", quiet))
    reference = AutoModelForCausalLM.from_pretrained(smol, dtype=torch.float32)
    with torch.inference_mode():
        states = reference(torch.tensor([lines[0].ids]), output_hidden_states=True).hidden_states
    own_RD = states[4][0, lines[0].first :].numpy()
    np.testing.assert_allclose(whole_RD[: lines[0].rows], own_RD, rtol=2e-3, atol=2e-2)
    folder = tmp_path / "stopped"

    def stops(_title: str, _total: int | None) -> Any:
        def advance(_count: int) -> None:
            raise KeyboardInterrupt

        return advance

    with pytest.raises(KeyboardInterrupt):
        captured(smol, 3, lines, folder, stops)
    [marks] = folder.glob("*done.json")
    assert marks.read_text() == "1" and len(lines) > LINES_AT_ONCE
    np.testing.assert_array_equal(captured(smol, 3, lines, folder, quiet), whole_RD)


@pytest.mark.full
@pytest.mark.engine
@pytest.mark.timeout(900)
def test_an_edit_by_label_changes_answers_as_its_profile_says(smol: Path, card: SaeCard) -> None:
    from vllm import SamplingParams

    from pilothouse.config import PilothouseConfig, Taps
    from pilothouse.llm import LLM

    shown = [each for each in card.edits if is_shown(each)]
    if not shown:
        pytest.skip("the card shows no edit")
    best = max(shown, key=lambda each: each.edited.changed.estimate)
    served = load_config(SHELF / "pilothouse.yaml")
    config = PilothouseConfig(
        version=1, model_id=served.model_id, saes=served.saes, taps=Taps(operators=("feature",))
    )
    llm = LLM(
        str(smol), pilothouse_config=config, dtype="float32", enforce_eager=True, max_model_len=512
    )
    questions = [
        "What should I do this weekend?",
        "Tell me about yourself.",
        "Describe a good day.",
    ]
    chats: Any = [[{"role": "user", "content": each}] for each in questions]
    params = SamplingParams(temperature=0.0, max_tokens=ANSWER_TOKENS)
    concept = CONCEPTS[best.name]

    def words(**asked: Any) -> float:
        outputs = llm.chat(chats, params, use_tqdm=False, **asked)
        return sum(concept.count(each.outputs[0].text) for each in outputs)

    by_label = list(terms_of(NAME, best.name, best.value))
    assert words(steer=by_label) > words()
