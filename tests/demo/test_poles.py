"""Every vector has pairs, a judge and profiles that no other has."""

from __future__ import annotations

from pilothouse.contrast.pair import load_pairs
from pilothouse.demo.judges import JUDGES
from pilothouse.demo.poles import SUBJECTS, terms_of
from pilothouse.library import library_path


def test_every_vector_has_pairs_and_a_judge() -> None:
    folder = library_path("examples/smol") / "pairs"
    assert {each.name for each in SUBJECTS} == {each.stem for each in folder.glob("*.jsonl")}
    assert all(load_pairs(folder / f"{each.name}.jsonl") for each in SUBJECTS)
    assert {each.judge for each in SUBJECTS} <= JUDGES.keys()


def test_no_two_poles_have_one_name() -> None:
    names = [pole.name for each in SUBJECTS for pole in each.poles]
    assert len(set(names)) == len(names)
    assert all(each.poles[0].name == each.name for each in SUBJECTS)


def test_an_answer_is_steered_from_its_first_token_on() -> None:
    last, output = terms_of("glad", -0.1, "answer")
    assert (last.on, output.on) == ("prompt", "output")
    assert last.positions is not None
    assert last.positions.indices == (-1,)
    assert last.scale == output.scale == -0.1


def test_output_alone_is_one_term() -> None:
    [term] = terms_of("glad", 0.1, "output")
    assert (term.on, term.positions) == ("output", None)
