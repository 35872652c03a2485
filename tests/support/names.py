"""Names of reducers for tests of all of them."""

from __future__ import annotations

from echoingpixels.reducer_names import REDUCER_NAMES
from echoingpixels.reducers.registry import REDUCERS
from echoingpixels.reducers.score import SALIENCY


def names() -> list[str]:
    """All registered reducers but those of encoder saliency, which the random model's streams do not have."""
    return [name for name in REDUCER_NAMES if REDUCERS[name].score is not SALIENCY]
