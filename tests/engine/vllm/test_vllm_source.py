"""Source that is not installed is read as Python would import it."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.support.vllm_source import unpacked

FILES = {
    "__init__.py": """
        MODULE_ATTRS = {"LLM": ".entry.llm:LLM"}
    """,
    "entry/__init__.py": "",
    "entry/llm.py": """
        from vllm.base import Base
        from ..mixins import *

        class LLM(Base, Mixed):
            limit: int = 3

            def generate(self, prompts, *, use_tqdm=True): ...
    """,
    "base.py": """
        import torch

        class Base(torch.nn.Module):
            def __init__(self):
                self.kept, self.also = 1, 2

            @property
            def size(self): ...
    """,
    "mixins/__init__.py": """
        from .one import Mixed
    """,
    "mixins/one.py": """
        from abc import ABC, abstractmethod

        class Mixed(ABC):
            @abstractmethod
            def chat(self, messages): ...

            @abstractmethod
            def generate(self, prompts): ...
    """,
    "late.py": """
        try:
            from vllm.base import Base
        except ImportError:
            Base = None

        if True:
            def late(first, *more): ...
        else:
            def other(): ...

        SETTINGS: dict = {"ONE": 1, "TWO": 2}

        class Record:
            first: int
            second: int = 0
    """,
}


@pytest.fixture
def release(tmp_path: Path) -> Any:
    for name, text in FILES.items():
        path = tmp_path / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return unpacked(tmp_path)


def test_a_name_is_found_where_it_is_imported_from(release: Any) -> None:
    for module, name in [
        ("vllm", "LLM"),
        ("vllm.entry.llm", "Base"),
        ("vllm.entry.llm", "Mixed"),
        ("vllm.late", "Base"),
        ("vllm.late", "late"),
        ("vllm.late", "other"),
        ("vllm.entry", "llm"),
    ]:
        assert release.find(module, name) is not None, (module, name)
    assert release.find("vllm.entry.llm", "nothing") is None
    assert release.find("vllm.nowhere", "LLM") is None


def test_a_class_has_what_it_inherits_and_what_its_objects_are_given(release: Any) -> None:
    llm = release.find("vllm", "LLM")
    for name in ("limit", "generate", "kept", "also", "size", "chat"):
        assert llm.member(name) is not None, name
    assert llm.member("nothing") is None
    assert release.find("vllm", "LLM.generate") is not None


def test_parameters_fields_keys_and_open_methods_are_read(release: Any) -> None:
    llm = release.find("vllm", "LLM")
    assert str(llm.member("generate").signature()) == "(prompts, *, use_tqdm)"
    assert str(release.find("vllm.late", "late").signature()) == "(first, *args)"
    assert list(llm.abstract_methods()) == ["chat"]
    assert list(release.find("vllm.late", "Record").required_fields()) == ["first"]
    assert list(release.find("vllm.late", "SETTINGS").keys()) == ["ONE", "TWO"]
