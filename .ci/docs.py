"""A hook of MkDocs: links to files outside `docs/` become the names of these files."""

import logging
import re
from pathlib import Path
from typing import Any

logger = logging.getLogger("mkdocs.hooks.docs")
ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Write links to code, recipes and tests as `path`, since the site holds the pages only.

    A link to a missing file is a warning, which ends a strict build.
    """
    folder = Path(page.file.abs_src_path).parent

    def written(link: re.Match[str]) -> str:
        text, address = link.groups()
        file = (folder / address.partition("#")[0]).resolve()
        if "://" in address or not address.startswith("..") or file.is_relative_to(ROOT / "docs"):
            return link[0]
        if not file.exists():
            logger.warning("%s links to %s, which does not exist", page.file.src_uri, address)
        name = f"`{file.relative_to(ROOT)}`"
        return name if text.strip("`/") in name else f"{text} ({name})"

    return LINK.sub(written, markdown)
