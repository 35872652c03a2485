"""`ep cache`: what is kept for later: what the towers made of clips, and quantized weights."""

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
    """Show how much is kept of clips that were asked about before, and of quantized weights, or clear it away.

    Nothing that is kept changes an answer: it is found by the contents of the clip and of the model's weights.
    """
    from echoingpixels.cache import LIMIT, FeatureCache, default_folder
    from echoingpixels.quantcache import clear as clear_weights
    from echoingpixels.quantcache import kept_sizes

    folder: Path = cache_dir or default_folder()
    kept, weights = FeatureCache(folder), o.weights_folder(cache_dir)
    if clear:
        kept.clear()
        clear_weights(weights)
    entries = kept.entries()
    size, models = sum(entry[1] for entry in entries), kept_sizes(weights)
    if json:
        clips = {"folder": str(folder), "clips": len(entries), "bytes": size, "limit_bytes": LIMIT}
        console.out_json({**clips, "quantized": {"folder": str(weights), "models": len(models), "bytes": sum(models)}})
        return
    console.out(f"{folder}: {len(entries)} clips, {size / 2**20:.1f} MiB of at most {LIMIT / 2**30:.0f} GiB")
    console.out(
        f"{weights}: {len(models)} quantized {'model' if len(models) == 1 else 'models'}, {sum(models) / 2**20:.1f} MiB"
    )
