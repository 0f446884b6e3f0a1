"""Count what the house is made of: `python scripts/counts.py [FOLDER OF A CHECKOUT]`."""

import ast
import re
import sys
from collections import Counter
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from tests.support.import_graph import ImportGraph  # noqa: E402


def lines(file):
    """Return how many lines a file has."""
    return file.read_text(encoding="utf-8").count("\n")


def room_of(file, package):
    """Return the first folder of a module, or its own name."""
    return file.relative_to(package).parts[0].removesuffix(".py")


def uses_of_any(file):
    """Return how often the name `Any` is used in a file, its import aside."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))


def importers(package):
    """Return how many other modules import each module, anywhere in their code."""
    files = ImportGraph.below({"pilothouse": package}).files
    found = Counter()
    for name, file in files.items():
        above = name if file.name == "__init__.py" else name.rpartition(".")[0]
        targets = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets |= {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                parts = above.split(".")
                base = parts[: len(parts) - node.level + 1] if node.level else []
                module = ".".join([*base, *([node.module] if node.module else [])])
                for each in node.names:
                    full = f"{module}.{each.name}"
                    targets.add(full if full in files else module)
        found.update((targets & files.keys()) - {name})
    return {name: found[name] for name, file in files.items() if file.name != "__init__.py"}


def main(checkout):
    """Print the counts of a checkout."""
    package = checkout / "middleware" / "pilothouse"
    modules = sorted(package.rglob("*.py"))
    rooms = sorted({room_of(file, package) for file in modules})
    print(f"{'room':<18}{'files':>6}{'lines':>8}{'Any':>6}")
    for room in rooms:
        own = [file for file in modules if room_of(file, package) == room]
        if len(own) > 1:
            total, uses = sum(map(lines, own)), sum(map(uses_of_any, own))
            print(f"{room:<18}{len(own):>6}{total:>8}{uses:>6}")
    uses = sum(map(uses_of_any, modules))
    print(f"{'package':<18}{len(modules):>6}{sum(map(lines, modules)):>8}{uses:>6}")
    tests = sorted((checkout / "tests").rglob("*.py"))
    cases = [file for file in tests if file.name.startswith("test_")]
    helpers = [file for file in tests if file not in set(cases)]
    print(f"{'tests':<18}{len(cases):>6}{sum(map(lines, cases)):>8}")
    print(f"{'tests helpers':<18}{len(helpers):>6}{sum(map(lines, helpers)):>8}")
    single = [name for name, count in importers(package).items() if count == 1]
    print(f"modules with one importer: {len(single)}")
    slerp = [
        str(file.relative_to(checkout))
        for folder in ("middleware", "examples", "loadtest", "scripts")
        for file in sorted((checkout / folder).rglob("*.py"))
        if file != Path(__file__) and re.search("slerp", file.read_text(encoding="utf-8"), re.I)
    ]
    print(f"files that name slerp: {len(slerp)}: {', '.join(slerp)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else CHECKOUT)
