"""Examples of README and docs that a reader pastes into a shell."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
OF_THE_REAL_MODEL = '"model": "smol'


def curl_blocks(*, of_the_real_model: bool) -> list[str]:
    """Blocks with a curl line, to the demo's real model or to any other."""
    pages = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
    blocks = [
        block
        for page in pages
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    return [
        block
        for block in blocks
        if "curl " in block and (OF_THE_REAL_MODEL in block) is of_the_real_model
    ]


def pasted(block: str, port: int, room: Path) -> Any:
    """Run a block as it stands: curl is told in its own configuration where the server is."""
    (room / ".curlrc").write_text(f'connect-to = "::127.0.0.1:{port}"\n')
    return subprocess.run(
        ["bash", "-c", block],
        env={"PATH": "/usr/bin:/bin", "CURL_HOME": str(room), "HOME": str(room)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
