"""The load test is scripts in one folder; tests import them as they import each other."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "loadtest"))
