"""A hub on this machine: the few endpoints that fetching files needs, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "lab/things"


@dataclass
class Hub:
    """What the server holds: repository -> commit -> path -> bytes; `refs` are branches."""

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    commit_told: str | None = None
    """Said in place of the commit that was asked for."""
    etag: str | None = None
    """Told of every file in place of its digest."""
    requests: list[str] = field(default_factory=list)
    cut_bytes: int = 0
    """Of each file, left out behind a length that is right."""
    junk: bytes | None = None
    """The body of every answer of the API."""
    listed: list[str] = field(default_factory=list)
    """Paths that are told beside those that there are."""
    declared: dict[str, int] = field(default_factory=dict)
    """Sizes that are told of files in place of theirs."""
    url: str = ""

    def add(self, folder: Path, inside: str = "", repo: str = REPO) -> None:
        """Put a folder's files into a repository."""
        files = self.repos.setdefault(repo, {}).setdefault(COMMIT, {})
        for place in sorted(folder.rglob("*")):
            if place.is_file():
                path = f"{inside}/{place.relative_to(folder)}".lstrip("/")
                files[path] = place.read_bytes()

    @property
    def fetched(self) -> list[str]:
        """Paths of the files whose bytes were sent."""
        sent = [each for each in self.requests if each.startswith("GET") and "/resolve/" in each]
        return [each.partition("/resolve/")[2].partition("/")[2] for each in sent]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        form = parse_qs(self.rfile.read(length).decode())
        self.hub.requests.append(f"{self.command} {path}")
        if path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"), form)
        else:
            self._file(path)

    def _api(self, path: str, form: dict[str, list[str]]) -> None:
        parts = path.split("/")
        repo, verb, rest = "/".join(parts[:2]), parts[2:3], parts[3:]
        files = self._files(repo, rest[0] if rest else "main")
        if files is None:
            return
        commit, known = files
        if verb in ([], ["revision"]):
            self._json({"id": repo, "sha": commit, "siblings": [], "private": False})
        elif verb == ["paths-info"]:
            told = [each for path in form["paths"] for each in self._info(known, path)]
            self._json([*told, *map(self._file_info, self.hub.listed)])
        else:
            inside = "/".join(rest[1:])
            above = f"{inside}/" if inside else ""
            names = {
                above + path.removeprefix(above).split("/")[0]
                for path in known
                if path.startswith(above)
            }
            told = [each for name in sorted(names) for each in self._info(known, name)]
            self._json([*told, *map(self._file_info, self.hub.listed)])

    def _info(self, known: dict[str, bytes], path: str) -> list[dict[str, object]]:
        if path in known:
            size = self.hub.declared.get(path, len(known[path]))
            return [{"type": "file", "path": path, "size": size, "oid": "0" * 40}]
        if any(each.startswith(f"{path}/") for each in known):
            return [{"type": "directory", "path": path, "oid": "0" * 40}]
        return []

    def _file_info(self, path: str) -> dict[str, object]:
        return {"type": "file", "path": path, "size": 3, "oid": "0" * 40}

    def _file(self, path: str) -> None:
        repo, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        files = self._files(repo, revision)
        if files is None:
            return
        commit, known = files
        if name not in known:
            self._error(404, "EntryNotFound", commit)
            return
        data = known[name]
        self.send_response(200)
        self.send_header("X-Repo-Commit", self.hub.commit_told or commit)
        self.send_header("ETag", f'"{self.hub.etag or hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) - self.hub.cut_bytes])
            self.close_connection = bool(self.hub.cut_bytes)

    def _files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if repo not in self.hub.repos:
            self._error(404, "RepoNotFound")
            return None
        commit = self.hub.refs.get(revision, revision)
        if commit not in self.hub.repos[repo]:
            self._error(404, "RevisionNotFound")
            return None
        return commit, self.hub.repos[repo][commit]

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode() if self.hub.junk is None else self.hub.junk
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, code: str, commit: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def local_hub(home: Path) -> Iterator[Hub]:
    """Serve a hub and have the client of this process talk to it alone, its cache in `home`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HOME", str(home))
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setenv("HF_TOKEN", "")
        try:
            yield hub
        finally:
            server.shutdown()
            server.server_close()
