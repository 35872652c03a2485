"""How much of the audio that the sieve keeps falls on a sound: `python tools/kept_sound.py QUESTIONS.jsonl [CLIPS]`.

Asks each SyncClips clip's first question at the default keep ratio and compares `Answer.moments` with the timeline.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean

from echoingpixels.loading import load
from echoingpixels.media import read_clip

CLIPS = 100


def main(data: Path, most: int = CLIPS) -> None:
    """Print the shares among kept and among all tokens, over the clips in which something is heard."""
    model = load("tiny")
    rows = {row["media"]: row for row in reversed([json.loads(line) for line in data.read_text().splitlines()])}
    hits: dict[str, list[bool]] = {"cs2": [], "full": []}
    audio: dict[str, list[float]] = {"cs2": [], "full": []}
    for row in sorted(rows.values(), key=lambda row: row["media"])[:most]:
        sounds = [event for event in row["events"] if event["corner"] is None]
        if not sounds:
            continue
        clip = read_clip(data.parent / row["media"], frame_size=model.frame_size)
        for reducer in hits:
            moments = model.ask(clip, row["question"], reducer=reducer).moments
            heard = moments.get("audio", ())
            hits[reducer] += [any(e["start"] <= t < e["end"] for e in sounds) for t in heard]
            audio[reducer].append(len(heard) / sum(map(len, moments.values())))
    print(f"{len(audio['full'])} clips")
    print(f"audio tokens on a sound: {mean(hits['cs2']):.1%} of the kept, {mean(hits['full']):.1%} of all")
    print(f"audio's share: {mean(audio['cs2']):.1%} of the kept tokens, {mean(audio['full']):.1%} of all")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
