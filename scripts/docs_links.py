"""A hook of mkdocs for links that leave docs/: a page's text names the file in the checkout.

The site holds docs/ alone, while pages link to cards, measurements and sources beside it. Such a
link becomes the file's path as code; one that leads nowhere is reported, which fails the build.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

LOG = logging.getLogger("mkdocs.hooks.docs_links")
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>(?:\.\./)+[^)\s#]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Return the page's text with every link out of docs/ written as a path."""
    docs = Path(config["docs_dir"]).resolve()
    folder = Path(page.file.abs_src_path).parent

    def replace(found: re.Match[str]) -> str:
        path = (folder / found["target"]).resolve()
        if path.is_relative_to(docs):
            return found[0]
        if not path.exists():
            LOG.warning("%s: no file at %s", page.file.src_uri, found["target"])
        return f"{found['text']} (`{path.relative_to(docs.parent)}`)"

    return LINK.sub(replace, markdown)
