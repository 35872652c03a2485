"""Hooks of mkdocs.yml: README, CONTRIBUTING and CHANGELOG as pages; links to files outside docs/ become text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
FROM = {source: name for name, source in PAGES.items()}
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
    """Link to the pages whose source stands outside docs/; turn each link to another file outside it into its text."""
    return INLINE.sub(lambda link: outside(*link.group(0, 1, 2)), markdown)


def outside(link: str, text: str, target: str) -> str:
    """A link of a page in docs/ as the site has it."""
    file, mark, anchor = target.removeprefix("../").partition("#")
    if not target.startswith("../"):
        return link
    return f"[{text}]({FROM[file]}{mark}{anchor})" if file in FROM else text


def page_of(source: str) -> str:
    """The text of a file at the root as a page of docs/: its links start from docs/."""
    text = (ROOT / source).read_text(encoding="utf-8")
    text = IMAGE.sub(r"\1", text)
    text = INLINE.sub(lambda link: f"[{link[1]}]({moved(link[2])})", text)
    return REFERENCE.sub(lambda link: link[1] + moved(link[2]), text)


def moved(target: str) -> str:
    """A link's target as seen from docs/ instead of the root."""
    if ":" in target or target.startswith("#"):
        return target
    file, mark, anchor = target.partition("#")
    return FROM.get(file, file.removeprefix("docs/") if file.startswith("docs/") else f"../{file}") + mark + anchor
