"""Recipes: what is refused, and that a file of one says the same wherever the folder lies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pilothouse.errors import ConfigError
from pilothouse.training.probe_recipe import ProbeRecipe, make_recipe, recipe_fields

GIVEN = {"name": "p", "data": "a.csv", "model": "org/model", "model_id": "model"}


def test_a_recipe_comes_back_from_its_file_with_paths_that_hold(tmp_path: Path) -> None:
    (tmp_path / "models" / "m").mkdir(parents=True)
    out = tmp_path / "probes" / "p"
    out.mkdir(parents=True)
    recipe = make_recipe(
        **{**GIVEN, "data": tmp_path / "a.csv", "model": str(tmp_path / "models" / "m")},
        tests={"other": tmp_path / "b.csv"},
        layers=(3, 5),
        target_fprs=(0.05,),
    )
    (out / "recipe.json").write_text(recipe.to_file(out))
    said = json.loads((out / "recipe.json").read_text())
    assert (said["data"], said["model"]) == ("../../a.csv", "../../models/m")
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    found = ProbeRecipe.model_validate(recipe_fields(moved / "probes" / "p" / "recipe.json"))
    assert found.data.resolve() == (moved / "a.csv").resolve()
    assert found.tests["other"].resolve() == (moved / "b.csv").resolve()
    assert Path(found.model) == (moved / "models" / "m").resolve()
    same = {"data": recipe.data, "tests": recipe.tests, "model": recipe.model}
    assert found.model_copy(update=same) == recipe
    moved.rename(tmp_path)


WRONG = [
    ({"layers": ()}, "layers: got [], want at least one, each once"),
    ({"layers": (3, 3)}, "layers: got [3, 3]"),
    ({"readouts": ("median",)}, "readouts.0: Input should be 'last' or 'mean'"),
    ({"target_fprs": (0.0,)}, "target_fprs.0: Input should be greater than 0"),
    ({"target_fprs": (1.0,)}, "target_fprs.0: Input should be less than 1"),
    ({"shares": (0.5, 0.2, 0.2)}, "shares: got [0.5, 0.2, 0.2], want three that add up"),
    ({"ridge_cs": (0.1, -1.0)}, "ridge_cs: got [0.1, -1.0], want positive numbers"),
    ({"fit_on": "loud"}, "fit_on: Input should be 'alike' or 'as written'"),
    ({"tests": {"data": "b.csv"}}, "tests: got the name 'data', want letters"),
    ({"tests": {"a\n# b": "b.csv"}}, "want letters, digits, spaces and . _ -"),
    ({"seed": -1}, "seed: Input should be greater"),
    ({"speed": 1}, "speed: Extra inputs are not permitted"),
    ({"name": "a b"}, "name: String should match"),
]


@pytest.mark.parametrize(("more", "want"), WRONG)
def test_a_field_that_cannot_be_is_named(more: dict[str, object], want: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_recipe(**{**GIVEN, **more})
    assert want in str(caught.value)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("[]", "got list, want an object of name, data"),
        ("{", "got no JSON"),
        ('{"speed": 1}', "got an unknown field 'speed'"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str, want: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        recipe_fields(tmp_path / "r.json")
    assert want in str(caught.value)
    with pytest.raises(ConfigError, match="No such file"):
        recipe_fields(tmp_path / "nothing.json")
