"""Loading at run time through real HTTP: what is there, who waits for whom, what is refused."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.artifacts.kubernetes_mounts import mount_folder
from tests.support.artifacts.tiny_sae import FEATURE, FEATURES, LOUD, save_topics
from tests.support.servers.server_process import COMMAND, ServerProcess, serve_process
from tests.support.servers.tiny_deployment import (
    PROXY_ADDRESS,
    RESIDUAL_NORM,
    SERVED_NAME,
    STRONG,
    TENANT_HEADER,
    VECTOR_LAYER,
    make_tiny_house,
    save_nudge,
)

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

MESSAGES = [{"role": "user", "content": "the tide"}]
RELOADS = 20


class House:
    """A server with an own configuration, put back after each test."""

    def __init__(self, server: ServerProcess, file: Path) -> None:
        self.server = server
        self.file = file
        self._first = file.read_text()

    def write(self, **sections: Any) -> None:
        self.file.write_text(yaml.safe_dump(yaml.safe_load(self._first) | sections))

    def with_vectors(self, **paths: str) -> dict[str, Any]:
        first = yaml.safe_load(self._first)["vectors"]
        return first | {name: {"path": path} for name, path in paths.items()}

    def reset(self) -> None:
        self.file.write_text(self._first)
        assert self.post("reload").status_code == 200

    def put(self, name: str, path: str, *, section: str = "vectors", **more: Any) -> httpx.Response:
        body = {"path": path} | more
        return httpx.put(self._url(f"{section}/{name}"), json=body, timeout=60)

    def delete(self, name: str, *, section: str = "vectors") -> httpx.Response:
        return httpx.delete(self._url(f"{section}/{name}"), timeout=60)

    def post(self, path: str, **headers: str) -> httpx.Response:
        return httpx.post(self._url(path), headers=headers, timeout=60)

    def get(self, path: str) -> Any:
        return httpx.get(self._url(path), timeout=60).json()

    def ask(self, vector: str | None = None, **changes: Any) -> httpx.Response:
        return httpx.post(
            f"{self.server.url}/v1/chat/completions", json=body(vector) | changes, timeout=120
        )

    def text(self, vector: str | None = None, **changes: Any) -> str:
        answer = self.ask(vector, **changes)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    def _url(self, path: str) -> str:
        return f"{self.server.url}/pilothouse/v1/{path}"


def body(vector: str | None, **changes: Any) -> dict[str, Any]:
    steer = [] if vector is None else [{"vector": vector, "scale": STRONG, "on": "all"}]
    field = {"pilothouse": {"steer": steer}} if steer else {}
    base = {"model": SERVED_NAME, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    return base | field | changes


def started(folder: Path, *flags: str) -> Iterator[House]:
    file = make_tiny_house(folder)
    save_nudge(folder, "other", seed=6)
    save_nudge(folder, "third", seed=7)
    save_nudge(folder, "branch", seed=8, layer=2, site="mlp_out")
    save_nudge(folder, "low", seed=9, layer=0)
    raw = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(raw | {"taps": raw["taps"] | {"mlp_out": [2]}}))
    with serve_process(file, SERVED_NAME, folder / "server.txt", *flags) as server:
        yield House(server, file)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from started(tmp_path_factory.mktemp("reload"))


@pytest.fixture
def house(running: House) -> Iterator[House]:
    yield running
    running.reset()


def test_a_loaded_vector_steers_and_an_unloaded_one_is_a_400_with_what_is_there(
    house: House,
) -> None:
    assert house.ask("copy").status_code == 400
    assert "'nudge'" in house.ask("copy").json()["error"]["message"]
    wanted = house.text("nudge")
    before = house.get("status")["revision"]
    done = house.put("copy", "vectors/nudge").json()
    assert done["added"] == ["vectors.copy"] and done["removed"] == done["changed"] == []
    assert done["previous"] == before != done["revision"] and "restarted" in done["note"]
    assert house.text("copy") == wanted != house.text()
    assert "copy" in house.get("catalogue")["vectors"]
    done = house.delete("copy").json()
    assert done["removed"] == ["vectors.copy"] and done["revision"] == before
    refused = house.ask("copy")
    assert refused.status_code == 400 and "available are ['nudge']" in refused.text


def test_an_sae_comes_and_goes_as_a_vector_does(house: House) -> None:
    edit = {"sae": "more", "feature": FEATURE, "value": LOUD, "on": "all"}
    field = {"pilothouse": {"steer": [edit]}}
    assert "available are ['topics']" in house.ask(**field).json()["error"]["message"]
    entry = save_topics(house.file.parent, "more", VECTOR_LAYER, norm=RESIDUAL_NORM, seed=9)
    done = house.put("more", entry.pop("path"), section="saes", **entry).json()
    assert done["added"] == ["saes.more"] and done["changed"] == []
    assert house.text(**field) != house.text()
    assert house.get("catalogue")["saes"]["more"]["features"] == FEATURES
    assert house.delete("more", section="saes").json()["removed"] == ["saes.more"]
    assert house.ask(**field).status_code == 400
    assert "profiles small:tide" in house.delete("topics", section="saes").text
    low = save_topics(house.file.parent, "low", 0, norm=RESIDUAL_NORM)
    refused = house.put("low", low["path"], section="saes", average_norm=9.0)
    told = refused.json()["error"]["message"]
    section = yaml.safe_load(told[told.index("taps:") :])
    assert section["taps"]["resid_post"] == [0] and "feature" in section["taps"]["operators"]
    assert house.put("low", "saes/none", section="saes").status_code == 400


def test_a_reserved_tap_of_another_site_takes_a_vector(house: House) -> None:
    assert house.put("branch", "vectors/branch").status_code == 200
    assert house.text("branch") != house.text()


def test_a_stream_keeps_its_vector_while_it_is_replaced(house: House) -> None:
    assert house.put("swap", "vectors/other").status_code == 200
    long = {"max_tokens": 160, "stream": True}
    alone = streamed(house, "swap", long, lambda: None)

    def replace() -> None:
        assert house.put("swap", "vectors/third").json()["changed"] == ["vectors.swap"]
        replaced.append(house.text("swap"))

    replaced: list[str] = []
    assert streamed(house, "swap", long, replace) == alone
    assert not alone.startswith(replaced[0])
    assert house.text("swap") == replaced[0]
    assert house.put("swap", "vectors/other").status_code == 200
    assert alone.startswith(house.text("swap"))


def streamed(
    house: House, vector: str, changes: dict[str, Any], meanwhile: Callable[[], None]
) -> str:
    """The text of a stream; `meanwhile` runs when its first words have come, before its last."""
    texts: list[str] = []
    url = f"{house.server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body(vector, **changes), timeout=120) as answer:
        assert answer.status_code == 200
        lines = (line.removeprefix("data: ") for line in answer.iter_lines() if line)
        for line in itertools.takewhile(lambda each: each != "[DONE]", lines):
            for choice in json.loads(line)["choices"]:
                texts.append(choice["delta"].get("content") or "")
            if meanwhile is not None and "".join(texts):
                meanwhile, run = (lambda: None), meanwhile
                run()
    return "".join(texts)


def test_the_file_is_read_again_and_profiles_come_with_it(house: House) -> None:
    profiles = yaml.safe_load(house.file.read_text())["profiles"]
    new = {"small:new": {"steer": [{"vector": "other", "scale": STRONG, "on": "all"}]}}
    house.write(vectors=house.with_vectors(other="vectors/other"), profiles=profiles | new)
    done = house.post("reload").json()
    assert done["added"] == ["profiles.small:new", "vectors.other"] and done["seconds"] < 60
    assert house.text(model="small:new") == house.text("other")
    listed = httpx.get(f"{house.server.url}/v1/models").json()["data"]
    assert "small:new" in {each["id"] for each in listed}
    assert house.post("reload").json()["added"] == []
    requests = {"model_name": "small:new", "action": "allow"}
    assert house.server.metric("pilothouse_requests_total", **requests) == 1
    fingerprint = int(house.get("status")["revision"], 16)
    assert house.server.metric("pilothouse_config_fingerprint") == fingerprint


def test_a_hang_up_reads_the_file_again(house: House) -> None:
    house.write(vectors=house.with_vectors(other="vectors/other"))
    os.kill(house.server.pid, signal.SIGHUP)
    deadline = time.monotonic() + 30
    while "other" not in house.get("catalogue")["vectors"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_log_says_once_what_a_reload_changed_and_escapes_its_callers_words(
    house: House,
) -> None:
    before = len(house.server.log.read_bytes())
    house.put("copy", "vectors/nudge")
    assert house.put("bad", "nowhere\nFORGED \x1b[2J").status_code == 400
    said = house.server.log.read_bytes()[before:].decode()
    told = re.findall(r"INFO [\d: -]+\[reload.py:\d+\] reload: revision .*", said)
    assert len(told) == 1 and ": added vectors.copy (" in told[0]
    assert "reload refused: " in said and "\x1b" not in said
    assert not [line for line in said.split("\n") if line.startswith("FORGED")]


def test_a_mount_that_was_swapped_takes_effect_with_the_next_reload(house: House) -> None:
    vectors = house.file.parent / "vectors"
    mount_folder(vectors / "mounted", vectors / "other")
    paths = {name: f"vectors/{name}" for name in ("mounted", "other", "third")}
    house.write(vectors=house.with_vectors(**paths))
    assert "vectors.mounted" in house.post("reload").json()["added"]
    other, third = house.text("other"), house.text("third")
    assert house.text("mounted") == other != third
    mount_folder(vectors / "mounted", vectors / "third")
    assert house.text("mounted") == other, "nothing changes by itself"
    assert house.post("reload").json()["changed"] == ["vectors.mounted"]
    assert house.text("mounted") == third
    mount_folder(vectors / "mounted", vectors / "other")
    os.kill(house.server.pid, signal.SIGHUP)
    deadline = time.monotonic() + 30
    while house.text("mounted") != other:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_grants_follow_the_file(house: House) -> None:
    proxies = {"cidrs": [f"{PROXY_ADDRESS}/32"], "tenant_header": TENANT_HEADER}
    house.write(auth={"client_steering": False, "client_scores": True, "trusted_proxies": proxies})
    assert house.post("reload").json()["changed"] == ["auth.client_steering"]
    assert house.ask("nudge").status_code == 403


REFUSED: Sequence[tuple[dict[str, Any], str]] = (
    ({"limits": {"max_programs": 9, "max_norm_ratio": 2.0}}, "limits.max_programs: got 9"),
    ({"taps": {"mlp_out": [1]}}, "taps.mlp_out: got [1], running is [2]"),
    ({"probes": {}}, "probes.always: is gone"),
    ({"policies": []}, "policies.watch: is gone"),
    ({"gate": {"allow": ["/x"]}}, "gate.allow"),
    ({"vectors": {}}, "not under vectors"),
    ({"vectors": {"nudge": {"path": "vectors/other"}}}, "rules of policy 'steers' name it"),
    ({"vectors": {"nudge": {"path": "nowhere"}}}, "nowhere"),
    ({"profiles": {"small": {"steer": []}}}, "profiles"),
    ({"nothing": 1}, "nothing"),
)


@pytest.mark.parametrize(("sections", "message"), REFUSED, ids=lambda each: str(each)[:40])
def test_what_cannot_change_is_refused_and_the_old_goes_on(
    house: House, sections: dict[str, Any], message: str
) -> None:
    before = house.get("status")["revision"]
    house.write(**sections)
    answer = house.post("reload")
    assert answer.status_code == 400 and message in answer.text
    assert answer.json()["error"]["code"] == "pilothouse_reload_refused"
    assert house.get("status")["revision"] == before
    assert house.ask("nudge").status_code == 200


def test_a_file_that_is_none_is_refused_and_the_old_goes_on(house: House) -> None:
    house.file.write_text("{")
    before = house.server.metric("pilothouse_reloads_total", result="refused")
    assert house.post("reload").status_code == 400
    assert house.server.metric("pilothouse_reloads_total", result="refused") == before + 1
    assert house.ask("nudge").status_code == 200


def test_a_vector_without_a_tap_is_refused_with_the_lines_to_write(house: House) -> None:
    told = house.put("low", "vectors/low").json()["error"]["message"]
    section = yaml.safe_load(told[told.index("taps:") :])
    assert section["taps"] == {"mlp_out": [2], "resid_post": [0], "operators": ["add", "feature"]}
    assert house.delete("nudge").status_code == 400
    assert house.delete("nothing").status_code == 400
    assert house.put("a b", "vectors/other").status_code == 400
    url = f"{house.server.url}/pilothouse/v1/vectors/other"
    for wrong in ({}, {"path": 3}, {"path": "vectors/other", "more": 1}):
        assert httpx.put(url, json=wrong, timeout=60).status_code in (400, 422)
    assert house.ask("nudge").status_code == 200


def test_only_callers_on_this_machine_may(house: House) -> None:
    before = house.get("status")["revision"]
    for headers in ({"x-forwarded-for": "127.0.0.1"}, {"origin": "http://localhost"}):
        answer = house.post("reload", **headers)
        assert answer.status_code == 403
        assert next(iter(headers)) in answer.json()["error"]["message"]
    assert house.get("status")["revision"] == before


def test_the_verb_reloads_and_says_what_changed(house: House) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, "reload", "--url", house.server.url, *words],
            capture_output=True,
            text=True,
            timeout=120,
        )

    house.write(vectors=house.with_vectors(other="vectors/other"))
    done = run()
    assert done.returncode == 0 and "added vectors.other" in done.stdout, done.stderr
    assert json.loads(run("--json").stdout)["added"] == []
    house.file.write_text("{")
    refused = run()
    assert refused.returncode == 2 and "nothing has changed" in refused.stderr


def test_reloads_at_once_come_one_after_another(house: House) -> None:
    at_once(house)


def at_once(house: House) -> None:
    names = [f"n{i}" for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda name: house.put(name, "vectors/other"), names))
    assert [each.status_code for each in answers] == [200] * 6
    assert [each.json()["added"] for each in answers] == [[f"vectors.{name}"] for name in names]
    assert len({each.json()["revision"] for each in answers}) == 6
    assert set(names) <= house.get("catalogue")["vectors"].keys()
    assert len(set(map(house.text, names))) == 1


def test_twenty_reloads_under_load_lose_no_request(house: House) -> None:
    under_load(house)


def under_load(house: House) -> None:
    """Every answer is of one of the two contents, and of that which its revision stands for."""
    wanted: dict[str, str] = {}
    for path in ("vectors/other", "vectors/third"):
        revision = house.put("swap", path).json()["revision"]
        wanted[revision] = house.text("swap")
    assert len(set(wanted.values())) == 2
    over = threading.Event()

    def client() -> list[tuple[int, str, str]]:
        seen = []
        while not over.is_set():
            answer = house.ask("swap")
            content = answer.json().get("choices", [{}])[0].get("message", {}).get("content", "")
            seen.append((answer.status_code, answer.headers["x-pilothouse-revision"], content))
        return seen

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client) for _ in range(6)]
        try:
            paths = itertools.cycle(("vectors/other", "vectors/third"))
            for path in itertools.islice(paths, RELOADS):
                assert house.put("swap", path).json()["changed"] == ["vectors.swap"]
        finally:
            over.set()
    seen = [each for done in clients for each in done.result()]
    assert {status for status, _, _ in seen} == {200}
    assert {revision for _, revision, _ in seen} == wanted.keys()
    assert all(content == wanted[revision] for _, revision, content in seen)
    requests = house.get("status")["engine"]["requests"]
    assert requests == {house.get("status")["revision"]: 0}, "older plans have gone"


@pytest.mark.full
def test_two_api_servers_switch_both(tmp_path: Path) -> None:
    for house in started(tmp_path, "--api-server-count", "2"):
        under_load(house)
        at_once(house)
        house.reset()
        revision = house.post("reload").json()["revision"]
        engine = house.get("status")["engine"]
        assert engine["processes"] == {"0": revision, "1": revision}
        assert {house.get("status")["revision"] for _ in range(12)} == {revision}
        assert house.server.metric("pilothouse_config_fingerprint") == int(revision, 16)
