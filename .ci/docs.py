"""A hook of MkDocs: how links of the pages, which are written for a code host, read in the site."""

import logging
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

logger = logging.getLogger("mkdocs.hooks.docs")
ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Name a page by its title instead of its file, and write a link to any other file as the file's path.

    The site holds pages only. A link to a missing file is a warning, which ends a strict build.
    """
    folder = Path(page.file.abs_src_path).parent

    def written(link: re.Match[str]) -> str:
        text, address = link.groups()
        file = (folder / address.partition("#")[0]).resolve()
        if urlsplit(address).scheme or address.startswith("#"):
            return link[0]
        if not file.exists():
            logger.warning("%s links to %s, which does not exist", page.file.src_uri, address)
            return link[0]
        if file.is_relative_to(ROOT / "docs"):
            title = file.read_text().partition("\n")[0].removeprefix("# ")
            return f"[{title}]({address})" if text == file.name else link[0]
        name = f"`{file.relative_to(ROOT)}`"
        return name if text.strip("`/") in name else f"{text} ({name})"

    return LINK.sub(written, markdown)
