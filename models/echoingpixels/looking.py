"""A clip as the model sees it: from the cache of features where it is known, else read and encoded.

Knows nothing about questions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .cache import FeatureCache, Seen
from .clip import Clip, Ending, Pieces, Source
from .looked import Looked
from .model import EchoingPixels
from .stats import Stopwatch


@dataclass(frozen=True)
class View:
    """What the towers made of a clip, and whether that came from the cache."""

    looked: Looked
    cached: bool

    @property
    def source(self) -> Source:
        """What is to be known of its file."""
        return self.looked.ending.source

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.looked.ending.duration


def look(
    model: EchoingPixels,
    clip: Clip | Pieces | Seen,
    seconds: dict[str, float],
    cache: FeatureCache | None = None,
    key: str = "",
) -> View:
    """Prepare and encode a clip, and keep that in the cache under `key`; of a clip that was kept, do neither.

    `seconds`: what getting it took, by stage, where that was not here.
    """
    if isinstance(clip, Seen):
        watch = Stopwatch(model.backbone.device, {"load": model.load_s, **seconds})
        ending = model.with_notes(Ending(clip.duration, clip.source))
        return View(Looked(model, clip.media, clip.features, watch, 0, ending), cached=True)
    looked = model.look(clip)
    looked.watch.seconds.update(seconds)
    if cache is not None and looked.glance is None:  # a second look needs the frames
        cache.put(key, Seen(looked.media, looked.features, looked.ending.source, looked.ending.duration))
    return View(looked, cached=False)


def look_at(
    model: EchoingPixels,
    path: Path,
    read: Callable[[], Clip | Pieces],
    cache: FeatureCache | None = None,
    key: str = "",
) -> View:
    """What `look` gives of the file at `path`, which is read only where the cache does not know it."""
    began = time.perf_counter()
    found = None if cache is None else cache.get(key, str(path))
    if found is not None:
        return look(model, found, {"decode": time.perf_counter() - began})
    return look(model, read(), {}, cache, key)
