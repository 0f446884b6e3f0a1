"""Foreign formats stay offline: what serves never comes near them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.test_house import PACKAGE, imports_of, room_of

OFFLINE = {"vector_import", "pickled", "sae_import"}
LOAD_SERVING = """
import sys
import pilothouse.artifacts.catalog, pilothouse.server.middleware, pilothouse.engine.plan.plan
print(*sorted(name for name in sys.modules if name.startswith("pilothouse.artifacts.vectors")))
"""


def test_only_the_offline_verb_imports_foreign_formats() -> None:
    found = {
        (room_of(file, PACKAGE), file.stem)
        for file in PACKAGE.rglob("*.py")
        if file.relative_to(PACKAGE).parts[:2] != ("artifacts", "vectors")
        for each in imports_of(file, PACKAGE)
        if each.module.startswith(
            ("pilothouse.artifacts.vectors", "pilothouse.artifacts.importing.pickled")
        )
    }
    assert found == {("artifacts/importing", name) for name in OFFLINE} | {("cli", "import_file")}


def test_no_reader_imports_torch_or_pickle_but_the_one_of_arrays() -> None:
    found = {
        file.stem
        for file in (PACKAGE / "artifacts" / "vectors").glob("*.py")
        for each in imports_of(file, PACKAGE)
        if each.module.split(".")[0] in ("torch", "pickle")
    }
    assert found == {"array_pickle"}


@pytest.mark.heavy
def test_what_serves_loads_no_foreign_format() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD_SERVING], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
