"""Finds the policy files below a path: links are followed, and nothing is passed over in silence.

What a folder holds under several names is loaded once, under the name that lies in it. Entries of
Kubernetes' own in a mounted ConfigMap, Secret or projected volume (`..data` and what it leads to)
are not names that the operator gave: those are the links beside them.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pilothouse.validation_errors import Problem, Severity
from pilothouse.yaml_document import MAX_BYTES

POLICY_FILE = "policy.yaml"
MAX_ENTRIES = 100_000
DATA = "..data"
MOUNTED = re.compile(r"\.\.(?:data(?:_tmp)?|\d{4}(?:_\d{2}){5}\.\d+)")
MISNAMED = frozenset({"policy.yaml", "policy.yml", "policy.json"})
"""Names in any case that are refused, but for `POLICY_FILE` itself."""
SUFFIXES = frozenset({".yaml", ".yml", ".json"})
IN_YAML = re.compile(
    rb"""(?m)^(?:\xef\xbb\xbf)?["']?apiVersion["']?[ \t]*:[ \t]*["']?pilothouse/"""
)
IN_JSON = re.compile(rb"""[{,]\s*["']?apiVersion["']?\s*:\s*["']?pilothouse/""")
"""Match what says that it is a policy, but not a manifest of something else that holds one."""
EDITORS_LOCK = ".#"
"""How Emacs begins the name of a link that leads nowhere while a file is edited."""
NOWHERE = "is a link that leads nowhere: mend it, or take it out"


@dataclass
class Found:
    """The policy files of some paths in order, and problems with what else lies there."""

    files: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def find_policies(paths: Iterable[Path]) -> Found:
    """Find the policy files that paths stand for: in the order of the paths, below each by name.

    What cannot be followed or would be passed over is an `error` among the problems.
    """
    asked, found = tuple(paths), Found()
    named = frozenset(_real(path) for path in asked)
    for path in asked:
        _of_path(path, named, found)
    return found


def _of_path(path: Path, named: Collection[str], found: Found) -> None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        is_link = os.path.islink(path)
        text = NOWHERE if is_link else "does not exist: name a policy file or a folder of policies"
        found.problems.append(_problem(path, text))
    except (OSError, ValueError) as error:
        found.problems.append(_unreadable(path, error))
    else:
        if stat.S_ISDIR(status.st_mode):
            _Walk(named, found).below(path)
        else:
            found.files.append(path)


class _Walk:
    """Walks what lies below one path; names come before links, so a file keeps its own name."""

    def __init__(self, named: Collection[str], found: Found) -> None:
        self._named = named
        self._found = found
        self._files: dict[str, Path] = {}
        self._folders: dict[str, Path] = {}
        """The first name under which each real folder was met."""
        self._links: list[tuple[Path, os.stat_result]] = []
        self._entries = 0

    def below(self, root: Path) -> None:
        """Find everything, in the order of names."""
        before = len(self._found.problems)
        self._folder(root)
        while self._links:
            links, self._links = self._links, []
            for link, status in sorted(links, key=lambda each: each[0]):
                self._entry(link, status)
        self._found.files += sorted(self._files.values())
        errors = any(each.severity == "error" for each in self._found.problems[before:])
        if not self._files and not errors:
            self._say(root, f"holds no {POLICY_FILE}: name a folder of policies")

    def _folder(self, folder: Path) -> None:
        first = self._folders.setdefault(_real(folder), folder)
        if first != folder:
            self._say(folder, f"leads to {first} again: what it holds is loaded once", "note")
            return
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            # A file system's own folder, which only root can read.
            is_own = folder.name == "lost+found"
            self._found.problems.append(_unreadable(folder, error, "note" if is_own else "error"))
            return
        self._entries += len(names)
        if self._entries > MAX_ENTRIES:
            self._say(
                folder, f"is one of more than {MAX_ENTRIES} entries: name folders of policies"
            )
            return
        if DATA in names:
            self._check_mount(folder, names)
            names = [name for name in names if not MOUNTED.fullmatch(name)]
        for name in names:
            self._named_entry(folder / name)

    def _named_entry(self, path: Path) -> None:
        is_link = os.path.islink(path)
        try:
            status = os.stat(path)
        except OSError as error:
            if not is_link or error.errno == errno.EACCES:
                self._found.problems.append(_unreadable(path, error))
            elif not path.name.startswith(EDITORS_LOCK):
                self._say(path, NOWHERE)
            return
        if is_link:
            self._links.append((path, status))
        else:
            self._entry(path, status)

    def _entry(self, path: Path, status: os.stat_result) -> None:
        if stat.S_ISDIR(status.st_mode):
            self._folder(path)
        elif path.name == POLICY_FILE:
            first = self._files.setdefault(_real(path), path)
            if first != path:
                self._say(path, f"leads to {first} again: it is loaded once", "note")
        elif path.name.casefold() in MISNAMED:
            self._say(path, f"would be passed over: rename it to {POLICY_FILE}")
        elif path.suffix.casefold() in SUFFIXES and _real(path) not in self._named:
            self._refuse_a_policy(path, status)
        elif path.name.casefold().startswith(POLICY_FILE):
            self._say(path, f"is passed over: only {POLICY_FILE} is read", "note")

    def _refuse_a_policy(self, path: Path, status: os.stat_result) -> None:
        """Refuse a file under another name that says it is a policy."""
        if not stat.S_ISREG(status.st_mode):
            return
        try:
            with open(path, "rb") as file:
                text = file.read(MAX_BYTES)
        except OSError as error:
            self._found.problems.append(_unreadable(path, error))
            return
        says = IN_JSON if text.lstrip().startswith(b"{") else IN_YAML
        if says.search(text):
            self._say(
                path,
                f"is a policy and would be passed over: put it into a folder of its own as "
                f"{POLICY_FILE}, or name the file itself too",
            )

    def _check_mount(self, folder: Path, names: Collection[str]) -> None:
        """Refuse what is mounted and not linked beside `..data`, for it would not be seen."""
        try:
            mounted = sorted(os.listdir(folder / DATA))
        except OSError as error:
            self._found.problems.append(_unreadable(folder / DATA, error))
            return
        for name in mounted:
            if name not in names:
                self._say(folder / DATA / name, f"is not linked beside `{DATA}`: link it there")

    def _say(self, path: Path, text: str, severity: Severity = "error") -> None:
        self._found.problems.append(_problem(path, text, severity))


def _real(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # no path at all, which is said where it is looked at
        return str(path)


def _problem(path: Path, text: str, severity: Severity = "error") -> Problem:
    return Problem(str(path), 0, "", text, severity)


def _unreadable(path: Path, error: Exception, severity: Severity = "error") -> Problem:
    reason = error.strerror if isinstance(error, OSError) else error
    return _problem(
        path, f"cannot be read: {reason}: check its permissions, or take it out", severity
    )
