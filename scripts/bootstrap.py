"""Make .venv from the locked set, or say in one line why it cannot be made.

    python3 scripts/bootstrap.py [--with dev] [--check]

Standard library only, for the reason given in fitness.py. Exit codes: 0 ready, 1 the installation
failed, 2 this machine cannot run it, 130 interrupted.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import fitness

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "setup.json")
UNFINISHED = os.path.join(VENV, "unfinished")
LOG = os.path.join(VENV, "setup.log")
LOCKS = {
    "runtime": ["build", "cpu"],
    "dev": ["build", "cpu", "dev"],
    "docs": ["build", "cpu", "dev", "docs"],
    "sae": ["build", "cpu", "dev", "sae"],
}
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class Failed(Exception):
    """The installation itself went wrong: exit 1."""


def lock_path(name):
    return os.path.join(ROOT, "requirements", name + ".txt")


def digest(*paths):
    """Return one sha256 over the contents of the files."""
    value = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            value.update(hashlib.sha256(file.read()).digest())
    return value.hexdigest()


def wanted_state(group):
    """Return what the stamp must say for `group` to count as installed."""
    state = {name: digest(lock_path(name)) for name in LOCKS[group]}
    state["project"] = digest(os.path.join(ROOT, "pyproject.toml"))
    state["root"] = ROOT
    return state


def installed_state():
    """Return what the last finished set-up left, or {} where there is none that still starts."""
    try:
        with open(STAMP) as file:
            state = json.load(file)
    except (OSError, ValueError):
        return {}
    if os.path.exists(UNFINISHED) or not os.access(venv_python(), os.X_OK):
        return {}
    return state


def venv_python():
    return os.path.join(VENV, "bin", "python")


def say(text):
    print("pilothouse set-up: " + text, flush=True)


class Progress:
    """Count what pip reports, in place on a terminal and by a line every 15 s elsewhere."""

    EVERY_SECONDS = 15

    def __init__(self, title, total):
        self.title, self.total, self.seen = title, total, 0
        self.started, self.phase = time.time(), "fetching"
        self.live = sys.stdout.isatty()
        self.done = threading.Event()
        self.ticker = threading.Thread(target=self._tick, daemon=True)
        self.ticker.start()

    def line(self, text):
        if text.startswith(("Collecting ", "Processing ")):
            self.seen += 1
        elif text.startswith("Installing collected packages"):
            self.phase = "unpacking"

    def _tick(self):
        # pip unpacks for minutes without a word, so that a clock says that it goes on.
        while not self.done.wait(0.5 if self.live else self.EVERY_SECONDS):
            text = "%s: %s %d of %d, %d s" % (
                self.title,
                self.phase,
                min(self.seen, self.total),
                self.total,
                time.time() - self.started,
            )
            if self.live:
                sys.stdout.write("\r\033[Kpilothouse set-up: " + text)
                sys.stdout.flush()
            else:
                say(text)

    def close(self, outcome):
        self.done.set()
        self.ticker.join()
        if self.live:
            sys.stdout.write("\r\033[K")
        say("%s: %s after %d s" % (self.title, outcome, time.time() - self.started))


def pip(title, total, *arguments):
    """Run pip in the environment, showing progress; raise Failed with the end of its log."""
    scratch = os.path.join(VENV, "scratch")
    os.makedirs(scratch, exist_ok=True)
    environment = dict(
        os.environ, TMPDIR=scratch, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1"
    )
    # pip would write byte code for 150 packages; Python writes it for the few that get imported.
    command = [venv_python(), "-m", "pip", "install", "--no-compile", "--progress-bar", "off"]
    command += list(arguments)
    progress, tail, code = Progress(title, total), [], None
    with open(LOG, "a") as log:
        log.write("$ %s\n" % " ".join(command))
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
        try:
            for text in process.stdout:
                log.write(text)
                tail = [*tail[-7:], text.rstrip()]
                progress.line(text)
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
        finally:
            progress.close({0: "done", None: "stopped"}.get(code, "failed"))
            shutil.rmtree(scratch, ignore_errors=True)
    if code != 0:
        raise Failed("%s failed; the whole log is in %s\n  %s" % (title, LOG, "\n  ".join(tail)))


def pins(path):
    """Return the requirement lines of a lock, without comments."""
    with open(path) as file:
        lines = [line.split("#")[0].strip() for line in file]
    return [line for line in lines if line]


def install_torch():
    """Install the +cpu build: from the default index where it has one, else from PyTorch's own."""
    requirement = next(line for line in pins(lock_path("cpu")) if line.startswith("torch=="))
    try:
        pip("torch", 1, "--no-deps", requirement)
    except Failed as failure:
        if "No matching distribution" not in str(failure):
            raise
        say("the default index has no %s; trying %s" % (requirement, TORCH_CPU_INDEX))
        pip("torch", 1, "--no-deps", "--index-url", TORCH_CPU_INDEX, requirement)


def make_venv(python):
    """Make .venv afresh; what an interrupted set-up left is never built upon."""
    if os.path.isdir(VENV):
        say("starting .venv afresh (the last set-up did not finish, or moved)")
    done = subprocess.run([python, "-m", "venv", "--clear", VENV])
    if done.returncode != 0:
        raise Failed("%s -m venv %s failed" % (python, VENV))


def write_stamp(state):
    """Say what is installed, in one step that an interruption cannot cut in half."""
    with open(STAMP + ".new", "w") as file:
        json.dump(state, file, indent=2)
    os.replace(STAMP + ".new", STAMP)


def install_locks(group, have, wanted):
    """Install the locks that changed; until all are in, .venv is marked as not to be built upon."""
    open(UNFINISHED, "w").close()
    if have.get("cpu") != wanted["cpu"]:
        install_torch()
    for name in LOCKS[group]:
        if have.get(name) != wanted[name]:
            lock = lock_path(name)
            pip("%s packages" % name, len(pins(lock)), "--no-deps", "-r", lock)
    have = {key: value for key, value in dict(have, **wanted).items() if key != "project"}
    write_stamp(have)
    os.remove(UNFINISHED)


def install(group):
    """Bring .venv to the wanted state, doing only what is missing."""
    wanted, have = wanted_state(group), installed_state()
    if all(have.get(key) == value for key, value in wanted.items()):
        return False
    if have.get("root") != ROOT:
        fitness.check_disk(ROOT)
        make_venv(fitness.find_python())
        have = {}
    if any(have.get(name) != wanted[name] for name in LOCKS[group]):
        install_locks(group, have, wanted)
    pip("pilothouse", 1, "--no-deps", "--no-build-isolation", "-e", ROOT)
    write_stamp(dict(have, **wanted))
    return True


def main():
    parser = argparse.ArgumentParser(description="make .venv from the locked set")
    parser.add_argument("--with", dest="group", choices=sorted(LOCKS), default="runtime")
    parser.add_argument("--check", action="store_true", help="check the machine, install nothing")
    options = parser.parse_args()
    fitness.check_all()
    if options.check:
        fitness.check_disk(ROOT)
        say("this machine is fit; Python %s" % fitness.find_python())
        return
    with open(os.path.join(ROOT, ".venv-setup.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if install(options.group):
            say("ready: %s" % VENV)


if __name__ == "__main__":
    try:
        main()
    except fitness.Unfit as reason:
        print("pilothouse set-up: %s" % reason, file=sys.stderr)
        sys.exit(2)
    except Failed as reason:
        print("pilothouse set-up: %s" % reason, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\npilothouse set-up: interrupted; run it again to start over", file=sys.stderr)
        sys.exit(130)
