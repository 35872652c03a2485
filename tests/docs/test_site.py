"""The documentation site: links lead somewhere, public names are documented, nothing is loaded from the network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import echoingpixels as ep
from tools import site_pages

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
REMOTE = re.compile(r'(?:src=|<link rel="(?:stylesheet|preload|preconnect)" href=)"https?://[^"]+')
ADDRESS = re.compile(r"^[a-z]+:")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.M)
    for target in targets:
        file = target.partition("#")[0]
        if file and not ADDRESS.match(target):
            assert (page.parent / file).exists(), target


def test_links_of_a_page_at_the_root_start_from_the_docs_folder() -> None:
    for target, moved in (
        ("docs/models.md", "models.md"),
        ("docs/reducers.md#picks", "reducers.md#picks"),
        ("CHANGELOG.md", "changelog.md"),
        ("README.md#start", "index.md#start"),
        ("LICENSE", "../LICENSE"),
        ("#start", "#start"),
        ("https://arxiv.org/abs/2512.10324", "https://arxiv.org/abs/2512.10324"),
    ):
        assert site_pages.moved(target) == moved
    assert "](demo.png)" in site_pages.page_of("README.md")


def test_a_link_to_a_file_outside_the_docs_folder_becomes_its_text() -> None:
    markdown = (
        "See [the recipe](../recipes/tiny.toml), [models](models.md), [how](../CONTRIBUTING.md#tests), ![p](../a.png)."
    )
    shown = site_pages.on_page_markdown(markdown, page=None)
    assert shown == "See the recipe, [models](models.md), [how](contributing.md#tests), ![p](../a.png)."


def test_every_public_name_is_in_the_api_reference() -> None:
    documented: dict[str, list[str] | None] = {}
    for page in ROOT.glob("docs/api/*.md"):
        for module, members in re.findall(
            r"^::: (\S+)\n(?: +options: \{members: \[(.*?)\]\})?", page.read_text(encoding="utf-8"), re.M
        ):
            documented[module] = members.split(", ") if members else None
    for name in ep.__all__:
        home = getattr(ep, name).__module__
        assert home in documented, f"no page of docs/api/ shows {home}, which has {name}"
        members = documented[home]
        assert members is None or name in members, name


def test_the_site_builds_and_loads_nothing_from_the_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        remote = REMOTE.findall(page.read_text(encoding="utf-8"))
        assert not remote, page
    load = (tmp_path / "api/load/index.html").read_text(encoding="utf-8")
    assert 'id="echoingpixels.from_pretrained.load"' in load
