"""A clip as the model sees it: from the cache of features where it is known, else read and encoded.

Knows nothing about questions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .cache import FeatureCache, Seen
from .clip import Clip, Source
from .model import EchoingPixels, Looked
from .stats import Stopwatch


@dataclass(frozen=True)
class View:
    """What the towers made of a clip, what is to be known of its file, and whether all that came from the cache."""

    looked: Looked
    source: Source
    duration: float  # s
    cached: bool


def look(
    model: EchoingPixels, clip: Clip | Seen, seconds: dict[str, float], cache: FeatureCache | None = None, key: str = ""
) -> View:
    """Prepare and encode a clip, and keep that in the cache under `key`; of a clip that was kept, do neither.

    `seconds`: what getting it took so far, by stage.
    """
    if isinstance(clip, Seen):
        watch = Stopwatch(model.backbone.device, {"load": model.load_s, **seconds})
        return View(Looked(model, clip.media, clip.features, watch, 0), clip.source, clip.duration, cached=True)
    looked = model.look(clip)
    looked.watch.seconds.update(seconds)
    if cache is not None:
        cache.put(key, Seen(looked.media, looked.features, clip.source, clip.duration))
    return View(looked, clip.source, clip.duration, cached=False)


def look_at(
    model: EchoingPixels, path: Path, read: Callable[[], Clip], cache: FeatureCache | None = None, key: str = ""
) -> View:
    """What `look` gives of the file at `path`, which is read only where the cache does not know it."""
    began = time.perf_counter()
    found = None if cache is None else cache.get(key, str(path))
    clip = found or read()
    return look(model, clip, {"decode": time.perf_counter() - began}, cache, key)
