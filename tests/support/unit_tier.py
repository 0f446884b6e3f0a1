"""The unit tier: the tests that load neither torch nor vLLM, and a guard that holds them to it.

`pytest --unit` collects a module of tests when nothing that loads with it, its conftest files
included, imports one of `HEAVY` and when it asks for no server or engine. What a test imports
while it runs is refused by the guard: such a test is marked `heavy`, and the tier leaves it out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from tests.support.import_graph import ImportGraph
from tests.support.xdist_groups import SHARED_SERVERS

CHECKOUT = Path(__file__).resolve().parents[2]
TESTS = CHECKOUT / "tests"
HEAVY = frozenset({"torch", "vllm", "triton", "transformers"})
STARTERS = ("tests.support.servers.server_process", "tests.support.engines.own_process")
"""Helpers that start a server or an engine in a process of its own, where no guard is."""
OTHER_TIERS = ("deploy", "examples", "loadtest", "packaging")
"""Folders whose tests build, measure or start programs, which takes long without any torch."""
LEFT_OUT = frozenset({"full", "engine", "server", "browser", "prometheus", "heavy"})
"""Marks of tests that the tier leaves out."""


class HeavyImport(ImportError):
    """A test of the unit tier has imported what the tier does without."""


class ImportGuard:
    """Refuses to find the heavy packages; it stands first in `sys.meta_path`."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise for a heavy package, and leave every other module to the usual finders.

        Raises:
            HeavyImport: the module belongs to a heavy package.
        """
        if fullname.partition(".")[0] in HEAVY:
            raise HeavyImport(
                f"the unit tier does not load {fullname}: import it at the top of the test's "
                "module, or mark the test `heavy`, and `make test` runs it"
            )
        return None


@cache
def graph() -> ImportGraph:
    """Return what the package, the tests and the load test's scripts import as they load."""
    source = CHECKOUT / "middleware" / "pilothouse"
    whole = ImportGraph.below({"pilothouse": source, "tests": TESTS})
    # Scripts import each other by their bare names.
    bare = {
        file.stem: file
        for folder in ("loadtest", "examples/demo")
        for file in (CHECKOUT / folder).glob("*.py")
    }
    return ImportGraph(bare | whole.files)


def conftests_above(file: Path) -> list[Path]:
    """Return the conftest files that pytest loads before a file of tests."""
    folders = [each for each in file.parents if each == TESTS or TESTS in each.parents]
    return [each / "conftest.py" for each in folders if (each / "conftest.py").is_file()]


def heavy_packages(file: Path) -> set[str]:
    """Return which heavy packages load with a file below tests/."""
    name = ".".join(file.relative_to(CHECKOUT).with_suffix("").parts)
    return graph().packages_loaded_with(name) & HEAVY


def is_unit(file: Path) -> bool:
    """Return whether a file of tests belongs to the unit tier."""
    name = ".".join(file.relative_to(CHECKOUT).with_suffix("").parts)
    if file.relative_to(TESTS).parts[0] in OTHER_TIERS:
        return False
    text = file.read_text(encoding="utf-8")
    return (
        not any(heavy_packages(each) for each in [file, *conftests_above(file)])
        and graph().loaded_with(name).isdisjoint(STARTERS)
        and not any(server in text for server in SHARED_SERVERS)
    )


def unit_modules() -> list[Path]:
    """Return every file of tests that belongs to the unit tier, in order."""
    return [file for file in sorted(TESTS.rglob("test_*.py")) if is_unit(file)]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--unit`."""
    parser.addoption("--unit", action="store_true", help="run the unit tier alone, guarded")


def pytest_configure(config: pytest.Config) -> None:
    """Put the guard first among the finders, in every process of the run.

    Raises:
        pytest.UsageError: a heavy package is loaded already, and the guard would see nothing.
    """
    if not config.getoption("--unit"):
        return
    loaded = sorted(HEAVY & sys.modules.keys())
    if loaded:
        raise pytest.UsageError(f"--unit: {', '.join(loaded)} loaded before the tests did")
    sys.meta_path.insert(0, ImportGuard())
    # Properties are tried less often here; `make test` tries them as often as they say.
    settings.register_profile("unit", deadline=None, max_examples=25)
    settings.load_profile("unit")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what does not belong to the tier before it is imported."""
    if not config.getoption("--unit") or TESTS not in collection_path.parents:
        return None
    if collection_path.is_dir():
        conftest = collection_path / "conftest.py"
        return True if conftest.is_file() and heavy_packages(conftest) else None
    is_tests = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if is_tests and not is_unit(collection_path) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out single tests that are marked as needing more."""
    if not config.getoption("--unit"):
        return
    out = [each for each in items if not LEFT_OUT.isdisjoint(m.name for m in each.iter_markers())]
    config.hook.pytest_deselected(items=out)
    items[:] = [each for each in items if each not in set(out)]
