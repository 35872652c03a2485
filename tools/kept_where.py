"""Whether a sieve keeps the relevant tokens: `python tools/kept_where.py QUESTIONS.jsonl [--model M] [--sieve S]`.

For SyncClips' questions "Which object is visible when the … plays?": the share of kept tokens on the sound (audio
tokens during it) or on the object (video tokens in its corner while it is visible), and the same share of all tokens,
which is chance. With `together` a video token counts only during the sound.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from echoingpixels.from_pretrained import load
from echoingpixels.inputs.positions import AUDIO, VIDEO
from echoingpixels.inputs.token_stream import TokenStream
from echoingpixels.media import read_clip

KIND = "object_at_sound"


def on(stream: TokenStream, sound: dict[str, Any], thing: dict[str, Any], together: bool) -> Tensor:
    """Which tokens (L,) of a stream of one row are on the sound or the object."""
    time, kind, cell = stream.time[0], stream.kind[0], stream.cell[0]
    rows, columns = cell[kind == VIDEO].amax(0) + 1
    audible = (sound["start"] <= time) & (time < sound["end"])
    visible = (thing["start"] <= time) & (time < thing["end"]) & (audible if together else True)
    low, right = "bottom" in thing["corner"], "right" in thing["corner"]
    middle = ((cell + 0.5) / torch.stack([rows, columns])).T  # (2, L)
    corner = ((middle[0] > 0.5) == low) & ((middle[1] > 0.5) == right)
    return ((kind == AUDIO) & audible) | ((kind == VIDEO) & visible & corner)


def main() -> None:
    """Print a line for each reducer and ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--sieve")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.2, 0.1, 0.05])
    parser.add_argument("--reducer", nargs="+", default=["cs2", "uniform"])
    asked = parser.parse_args()
    model = load(asked.model, sieve=asked.sieve)
    found: dict[tuple[str, float, bool], list[float]] = defaultdict(list)
    rows = [row for row in map(json.loads, asked.data.read_text().splitlines()) if row["kind"] == KIND]
    for row in rows:
        named = row["question"].split(" the ")[-1].split(" plays")[0]
        sound = next(event for event in row["events"] if event["what"] == named)
        thing = next(event for event in row["events"] if event["what"] == row["answer"])
        clip = read_clip(asked.data.parent / row["media"], frame_size=model.frame_size)
        stream = model.embed(model.prepare(clip, row["question"]))
        for together in (False, True):
            hit = on(stream, sound, thing, together)
            found["all", 1.0, together].append(float(hit[stream.pool[0]].float().mean()))
            for reducer in asked.reducer:
                for keep in asked.keep:
                    kept = model.select(stream, reducer, keep).keep[0] & stream.pool[0]
                    found[reducer, keep, together].append(float(hit[kept].float().mean()))
    print(f"{len(rows)} questions; share of tokens on the sound or the object (together: the object during the sound)")
    for reducer, keep, _ in dict.fromkeys((*key[:2], True) for key in found):
        loose, strict = (mean(found[reducer, keep, together]) for together in (False, True))
        print(f"{reducer:10} keep {keep:<5g} {loose:6.1%}   together {strict:6.1%}")


if __name__ == "__main__":
    main()
