"""The Python examples of the guide run as they stand, with the bundled clip in place of their files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from echoingpixels.checkpoints.loading import ASSETS

DOCS = Path(__file__).parents[2] / "docs"


def examples(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("page", ["api/index.md", "architecture.md", "explain.md", "profile.md"])
def test_the_examples_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("street.mp4", "clip.mp4"):
        shutil.copy(ASSETS / "demo.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (code,) = examples(page)
    exec(code if "import echoingpixels" in code else f"import echoingpixels as ep\n{code}", {})
