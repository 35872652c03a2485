"""`ep cache`: what the towers made of clips, kept so that a later question starts at the sieve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import console
from . import options as o


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete everything that was kept.")] = False,
    cache_dir: o.CacheDir = None,
    json: o.Json = False,
) -> None:
    """Show how much is kept of clips that were asked about before, or clear it away.

    Nothing that is kept changes an answer: it is found by the contents of the clip and of the model's weights.
    """
    from echoingpixels.cache import LIMIT, FeatureCache, default_folder

    folder: Path = cache_dir or default_folder()
    kept = FeatureCache(folder)
    if clear:
        kept.clear()
    entries = kept.entries()
    size = sum(entry[1] for entry in entries)
    if json:
        console.out_json({"folder": str(folder), "clips": len(entries), "bytes": size, "limit_bytes": LIMIT})
        return
    console.out(f"{folder}: {len(entries)} clips, {size / 2**20:.1f} MiB of at most {LIMIT / 2**30:.0f} GiB")
