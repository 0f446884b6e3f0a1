"""The house: imports point one way, heavy libraries stay in their rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.import_graph import ImportGraph

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "middleware" / "pilothouse"

GROUND = frozenset(
    {
        "types",
        "errors",
        "term",
        "aggregate",
        "head",
        "record",
        "signed_request",
        "limits",
        "config",
        "library",
        "progress",
        "log_text",
        "trusted_proxies",
        "offline_env",
        "output_dir",
        "cache_folder",
        "validation_errors",
        "yaml_document",
    }
)
ROOMS = frozenset({"artifacts", "edits", "probes", "policy", "capture"})
PARTS_WITH_THEIR_OWN_RULES = frozenset({"artifacts/importing"})
MAY_IMPORT: dict[str, frozenset[str]] = {
    "types": frozenset(),
    "errors": frozenset(),
    "term": frozenset({"types"}),
    "aggregate": frozenset({"types"}),
    "head": frozenset({"types"}),
    "record": frozenset({"types"}),
    "signed_request": frozenset({"types", "errors", "term"}),
    "limits": frozenset({"errors"}),
    "trusted_proxies": frozenset(),
    "validation_errors": frozenset({"errors"}),
    "yaml_document": frozenset({"errors", "validation_errors"}),
    "config": frozenset(
        {
            "types",
            "errors",
            "term",
            "limits",
            "trusted_proxies",
            "validation_errors",
            "yaml_document",
        }
    ),
    "library": frozenset({"errors"}),
    "progress": frozenset(),
    "log_text": frozenset(),
    "offline_env": frozenset(),
    "output_dir": frozenset({"errors"}),
    "cache_folder": frozenset({"errors"}),
    "artifacts": GROUND,
    "edits": GROUND | {"artifacts"},  # a program is made of the catalog's vectors
    "bake": GROUND
    | {"artifacts", "edits", "engine", "llm"},  # programs into weights, and both compared
    "probes": GROUND | {"artifacts"},  # fitting and evaluation write folders that artifacts/ reads
    "policy": GROUND,
    "capture": GROUND | {"artifacts"},  # sites that are served are the catalog's to say
    # Files of other libraries, offline; lengths may be of a capture.
    "artifacts/importing": GROUND | {"artifacts", "capture"},
    "telemetry": GROUND | ROOMS,
    "engine": GROUND | ROOMS | {"telemetry"},
    "server": GROUND | ROOMS | {"telemetry", "engine"},
    "offline": GROUND | ROOMS | {"engine", "server"},
    "llm": GROUND | ROOMS | {"engine", "server", "offline"},
    # Vectors are chosen by the probes' maths and by SAEs' codes, and measured as they are served.
    "training": GROUND | ROOMS | {"engine", "llm"},
    # The real model, and how the figures about it are made.
    "demo": GROUND | ROOMS | {"telemetry", "engine", "llm", "training"},
    "cli": GROUND
    | ROOMS
    | {"telemetry", "engine", "server", "llm", "bake", "demo", "training", "artifacts"},
}
HEAVY_STAYS_IN: dict[str, frozenset[str]] = {
    "vllm": frozenset({"engine", "server", "offline", "llm", "training", "bake", "cli", "demo"}),
    # artifacts/importing: where pickled weights are converted; demo: where its SAE is trained.
    "torch": frozenset({"engine", "artifacts/importing", "demo"}),
    "triton": frozenset({"engine"}),
    "fastapi": frozenset({"server"}),
    "starlette": frozenset({"server"}),
}


@dataclass(frozen=True)
class Import:
    """One module imported by one file."""

    file: Path
    line: int
    module: str


def imports_of(file: Path, root: Path) -> Iterator[Import]:
    """Yield every import in a file, wherever it stands, with relative ones made absolute."""
    package = ["pilothouse", *file.relative_to(root).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(file, node.lineno, name.name)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parts = [*base, *(node.module.split(".") if node.module else [])]
            for name in node.names:
                yield Import(file, node.lineno, ".".join([*parts, name.name]))


def room_of(file: Path, root: Path) -> str:
    """Return the room of a file: its first folder, or a part of that with rules of its own."""
    parts = file.relative_to(root).parts
    part = "/".join(parts[:2])
    return part if part in PARTS_WITH_THEIR_OWN_RULES else parts[0].removesuffix(".py")


def wrong_ways(root: Path) -> list[str]:
    """Return one line for each import of ours that the table does not allow."""
    found = []
    for file in sorted(root.rglob("*.py")):
        room = room_of(file, root)
        if room == "__init__":
            continue
        allowed = MAY_IMPORT.get(room)
        for each in imports_of(file, root):
            parts = each.module.split(".")
            target = parts[1] if parts[0] == "pilothouse" and len(parts) > 1 else None
            if target in (None, room, "__version__"):
                continue
            if allowed is None or target not in allowed:
                found.append(f"{file.relative_to(root)}:{each.line}: {room} imports {target}")
    return found


def strays(root: Path) -> list[str]:
    """Return one line for each heavy import outside its rooms."""
    return [
        f"{file.relative_to(root)}:{each.line}: {each.module}"
        for file in sorted(root.rglob("*.py"))
        for each in imports_of(file, root)
        if room_of(file, root)
        not in HEAVY_STAYS_IN.get(each.module.split(".")[0], {room_of(file, root)})
    ]


def test_imports_point_one_way() -> None:
    assert wrong_ways(PACKAGE) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Whatever runs as a module loads counts; what stands in functions or is for types does not."""
    graph = ImportGraph.below({"pilothouse": PACKAGE})
    assert len(graph.files) > 200
    assert graph.circles() == []


def test_a_circle_of_imports_is_found_with_its_modules(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("from p import b\n")
    (tmp_path / "b.py").write_text("try:\n    import p.c\nexcept ImportError:\n    pass\n")
    (tmp_path / "c.py").write_text("from .a import x\nimport json\n")
    (tmp_path / "d.py").write_text("import p.e\n")
    (tmp_path / "e.py").write_text(
        "if TYPE_CHECKING:\n    import p.d\ndef late():\n    import p.d\n"
    )
    graph = ImportGraph.below({"p": tmp_path})
    assert graph.circles() == [["p.a", "p.b", "p.c"]]
    assert graph.packages_loaded_with("p.a") == {"json"}


def test_heavy_libraries_stay_in_their_rooms() -> None:
    assert strays(PACKAGE) == []


def test_every_room_stands_in_the_table() -> None:
    rooms = {room_of(file, PACKAGE) for file in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms <= MAY_IMPORT.keys(), "a new room needs a line that says what it may import"


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("policy/decide.py", "from pilothouse.engine.plan.plan import Plan"),
        ("policy/decide.py", "from pilothouse import engine"),
        ("policy/decide.py", "from ..server import middleware"),
        ("engine/plan/plan.py", "import pilothouse.server.middleware"),
        ("artifacts/probe.py", "def late():\n    from pilothouse.probes import fit"),
        ("errors.py", "from pilothouse.types import Mode"),
    ],
)
def test_the_guard_sees_an_import_that_points_the_other_way(
    tmp_path: Path, file: str, line: str
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n")
    assert len(wrong_ways(tmp_path)) == 1


@pytest.mark.parametrize("line", ["import vllm.config", "from torch import nn", "import fastapi"])
def test_the_guard_sees_a_heavy_import_outside_its_room(tmp_path: Path, line: str) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "decide.py").write_text(line + "\n")
    assert len(strays(tmp_path)) == 1


def test_nobody_imports_the_source_root() -> None:
    folders = ["middleware", "tests", "examples", "loadtest", "scripts"]
    found = [
        f"{each.file}:{each.line}"
        for folder in folders
        for file in sorted((CHECKOUT / folder).rglob("*.py"))
        for each in imports_of(file, CHECKOUT)
        if each.module.split(".")[0] == "middleware"
    ]
    assert found == []
    assert not (CHECKOUT / "middleware" / "__init__.py").exists()


LOAD_ROOM = """
import importlib, pkgutil, sys
room = importlib.import_module(sys.argv[1])
names = [each.name for each in pkgutil.walk_packages(room.__path__, sys.argv[1] + ".")]
for name in names:
    importlib.import_module(name)
print(len(names), *sorted({"torch", "vllm", "fastapi"} & set(sys.modules)))
"""


@pytest.mark.parametrize("room", ["policy", "edits"])
def test_policy_and_edits_load_without_torch_vllm_and_fastapi(room: str) -> None:
    command = [sys.executable, "-c", LOAD_ROOM, f"pilothouse.{room}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    count, *heavy = done.stdout.split()
    assert int(count) > 0
    assert heavy == []
