"""`ep cache`: what is kept for later: what the towers made of clips, and quantized weights."""

from __future__ import annotations

from typing import Annotated

import typer

from . import console
from . import options as o


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete everything that was kept.")] = False,
    cache_dir: o.CacheDir = None,
    json: o.Json = False,
) -> None:
    """Show the size of the kept features of clips and quantized weights, or delete them.

    Features are found by the clip's content, how it is read and the encoders' weights: docs/batch.md.
    """
    from echoingpixels.checkpoints import quantization
    from echoingpixels.features.cache import LIMIT, FeatureCache

    folder, weights = o.features_folder(cache_dir), o.weights_folder(cache_dir)
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
