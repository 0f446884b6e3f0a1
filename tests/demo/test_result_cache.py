"""What was computed is found again by its digest, also by the next process."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilothouse.demo.result_cache import ResultCache, digest_of_parts


def test_what_was_put_is_there_for_the_next_one(tmp_path: Path) -> None:
    first = ResultCache(tmp_path / "new" / "kept.sqlite")
    assert first.get("a") is None
    first.put({"a": [1, 2], "b": []})
    first.close()
    second = ResultCache(tmp_path / "new" / "kept.sqlite")
    assert (second.get("a"), second.get("b"), second.get("c")) == ([1, 2], [], None)


def test_a_value_that_cannot_be_kept_keeps_none_of_them(tmp_path: Path) -> None:
    kept = ResultCache(tmp_path / "kept.sqlite")
    with pytest.raises(TypeError):
        kept.put({"a": 1, "b": object()})
    assert kept.get("a") is None


def test_other_parts_have_another_digest() -> None:
    assert digest_of_parts("answer", 1) == digest_of_parts("answer", 1)
    assert digest_of_parts("answer", 1) != digest_of_parts("surprise", 1)
    assert digest_of_parts(["a"], "b") != digest_of_parts(["a", "b"])
