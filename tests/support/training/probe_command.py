"""`pilothouse probe` as its user types it, on a small model, in this process."""

from __future__ import annotations

from click.testing import Result

from pilothouse.cli.probe import app
from tests.support.engines.harness import ENVIRONMENT, environment
from tests.support.training.fit_command import ENGINE, RUN


def run_probe(*words: object, engine: bool = True) -> Result:
    """The verb with these words, and an engine that starts fast."""
    with environment(ENVIRONMENT):
        done = RUN.invoke(app, [*map(str, words), *(ENGINE if engine else ())])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception  # else it would look like the exit of a finding
    return done
