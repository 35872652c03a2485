"""`ep cache`: the cached features of clips and quantized weights."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import console
from .. import options as o


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete both caches.")] = False,
    cache_dir: o.CacheDir = None,
    json: o.Json = False,
) -> None:
    """Show or clear the caches of clip features and quantized weights.

    A clip's features are reused for the same file content, media options and encoder weights: docs/batch.md.
    """
    from echoingpixels.checkpoints import quantization
    from echoingpixels.features.cache import LIMIT, FeatureCache

    folder, weights = o.cache_folders(cache_dir)
    kept = FeatureCache(folder)
    if clear:
        kept.clear()
        quantization.clear(weights)
    entries, models, clips = kept.entries(), quantization.entries(weights), kept.clips()
    size, large = (sum(entry.bytes for entry in found) for found in (entries, models))
    if json:
        about = {"folder": str(weights), "models": len(models), "bytes": large, "limit_bytes": quantization.LIMIT}
        counts = {"clips": clips, "entries": len(entries), "bytes": size, "limit_bytes": LIMIT}
        console.out_json({"folder": str(folder), **counts, "quantized": about})
        return
    counted = f"{_count(clips, 'clip')} in {_count(len(entries), 'entry', 'entries')}"
    console.out(f"{folder}: {counted}, {_of(size, LIMIT)}")
    console.out(f"{weights}: {_count(len(models), 'quantized model')}, {_of(large, quantization.LIMIT)}")


def _count(n: int, one: str, several: str = "") -> str:
    return f"{n} {one if n == 1 else several or one + 's'}"


def _of(size: int, limit: int) -> str:
    return f"{size / 2**20:.1f} MiB of at most {limit / 2**30:.0f} GiB"
