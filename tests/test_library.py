"""The library is found where it lies, and a miss says where it was sought."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilothouse import library
from pilothouse.errors import ConfigError
from pilothouse.library import LIBRARY_ENV, library_path


@pytest.fixture(autouse=True)
def no_library_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIBRARY_ENV, raising=False)


def installed_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = root / "pilothouse"
    package.mkdir(parents=True)
    monkeypatch.setattr(library, "__file__", str(package / "library.py"))


def test_a_named_folder_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIBRARY_ENV, "/nowhere")
    assert library_path("policies", tmp_path) == tmp_path


def test_a_named_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent is not a folder"):
        library_path("policies", tmp_path / "absent")


def test_the_environment_wins_over_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "probes" / "demo").mkdir(parents=True)
    monkeypatch.setenv(LIBRARY_ENV, str(tmp_path))
    assert library_path("probes/demo") == tmp_path / "probes" / "demo"
    with pytest.raises(ConfigError, match=LIBRARY_ENV):
        library_path("policies")


def test_a_wheel_uses_the_copy_it_carries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_at(tmp_path, monkeypatch)
    shelf = tmp_path / "pilothouse" / "_library" / "policies"
    shelf.mkdir(parents=True)
    (tmp_path.parent / "policies").mkdir(exist_ok=True)
    assert library_path("policies") == shelf


def test_a_checkout_uses_its_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_at(tmp_path / "middleware", monkeypatch)
    (tmp_path / "policies").mkdir()
    assert library_path("policies") == tmp_path / "policies"


def test_a_package_without_library_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_at(tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="_library/policies"):
        library_path("policies")


def test_an_unknown_shelf_is_refused() -> None:
    with pytest.raises(ConfigError, match="no shelf 'weights'"):
        library_path("weights")  # type: ignore[arg-type]
