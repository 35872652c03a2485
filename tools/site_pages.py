"""Hooks of mkdocs.yml: README, CONTRIBUTING and CHANGELOG as pages; links to files outside docs/ become text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
INLINE = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
REFERENCE = re.compile(r"^(\[[^\]]+\]: )(\S+)$", re.M)
IMAGE = re.compile(r"(!\[[^\]]*\]\()docs/")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages whose source stands outside docs/."""
    from mkdocs.structure.files import File

    for name, source in PAGES.items():
        files.append(File.generated(config, name, content=page_of(source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn each link to a file outside docs/ into its text."""
    return INLINE.sub(lambda link: link[1] if link[2].startswith("../") else link[0], markdown)


def page_of(source: str) -> str:
    """The text of a file at the root as a page of docs/: its links start from docs/."""
    text = (ROOT / source).read_text(encoding="utf-8")
    text = IMAGE.sub(r"\1", text)
    text = INLINE.sub(lambda link: f"[{link[1]}]({moved(link[2])})", text)
    return REFERENCE.sub(lambda link: link[1] + moved(link[2]), text)


def moved(target: str) -> str:
    """A link's target as seen from docs/ instead of the root."""
    pages = {source: name for name, source in PAGES.items()}
    if ":" in target or target.startswith("#"):
        return target
    file, mark, anchor = target.partition("#")
    return pages.get(file, file.removeprefix("docs/") if file.startswith("docs/") else f"../{file}") + mark + anchor
