"""A clip as the model sees it: from the cache of features where it is known, else read and encoded.

Knows nothing about questions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .encoded_clip import EncodedClip
from .features.cache import FeatureCache, Seen
from .media.clip import Clip, Ending, Pieces, Source
from .model import EchoingPixels
from .report import Stopwatch


@dataclass(frozen=True)
class View:
    """What the towers made of a clip, whether that came from the cache, and where it is kept, None for nowhere."""

    looked: EncodedClip
    cached: bool
    cache: FeatureCache | None = None
    key: str = ""

    @property
    def source(self) -> Source:
        """What is to be known of its file."""
        return self.looked.ending.source

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.looked.ending.duration

    def keep(self) -> None:
        """Write the features to the cache, unless they are there: once the answer is given, for it takes its time."""
        one = self.looked
        if self.cache is not None and not self.cached and one.glance is None:  # a second look needs the frames
            self.cache.put(self.key, Seen(one.media, one.features, one.ending.source, one.ending.duration))


def look(
    model: EchoingPixels,
    clip: Clip | Pieces | Seen,
    seconds: dict[str, float],
    cache: FeatureCache | None = None,
    key: str = "",
) -> View:
    """Prepare and encode a clip; of a clip that was kept, do neither. `View.keep` keeps it in the cache under `key`.

    `seconds`: what getting it took, by stage, where that was not here.
    """
    if isinstance(clip, Seen):
        watch = Stopwatch(model.backbone.device, {"load": model.load_s, **seconds})
        ending = model.with_notes(Ending(clip.duration, clip.source))
        return View(EncodedClip(model, clip.media, clip.features, watch, 0, ending), cached=True)
    looked = model.look(clip)
    looked.watch.seconds.update(seconds)
    return View(looked, False, cache, key)


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
