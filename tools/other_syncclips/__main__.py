"""Makes a folder of SyncClips independently of `ep synth`: media files, `questions.jsonl` and `properties.jsonl`.

    python -m tools.other_syncclips OUT_DIR --sprites FOLDER --sounds FOLDER --soundfont FILE

`properties.jsonl` has the properties of each clip (codecs, noise, background, take of every event), to split errors by
them. Sounds that `--sounds` lacks need fluidsynth with a General MIDI soundfont, and espeak-ng. Sprites: the folder
`assets` of the npm package @lobehub/fluent-emoji-3d 1.1.0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from .clips import plan
from .questions import ask, options
from .render import frames, mix, write
from .takes import make_sounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sprites", type=Path, required=True, help="folder with one webp per code point")
    parser.add_argument("--sounds", type=Path, required=True, help="folder of the rendered sounds; filled if empty")
    parser.add_argument("--soundfont", help="General MIDI .sf2, needed to fill --sounds")
    args = parser.parse_args()
    if not (args.sounds / "takes.json").exists():
        if not args.soundfont:
            parser.error("--sounds is empty: give a --soundfont to render them")
        make_sounds(args.sounds, args.soundfont)
    takes = json.loads((args.sounds / "takes.json").read_text())
    (args.out_dir / "clips").mkdir(parents=True, exist_ok=True)
    lines, notes = [], []
    for index in range(args.clips):
        rng = np.random.default_rng([args.seed, index])
        clip = plan(("balanced", "watch", "listen")[index % 3], takes, args.sounds, rng)
        media = f"clips/{index + 1:06d}.{clip.props['container']}"
        sound = None if clip.props["audio"] == "none" else mix(clip, args.sounds, rng)
        write(args.out_dir / media, clip, frames(clip, args.sprites, rng), sound)
        events = [event.row() for event in sorted(clip.objects + clip.audio, key=lambda e: e.start)]
        for number, (kind, question, answer) in enumerate(ask(clip, 3, rng), 1):
            row = {
                "id": f"{index + 1:06d}-{number}",
                "media": media,
                "question": question,
                "answer": answer,
                "kind": kind,
            }
            lines.append(json.dumps({**row, "regime": clip.regime, "options": options(kind), "events": events}))
        props = [{**event.row(), **event.props} for event in clip.objects + clip.audio]
        about = {"size": clip.size, "rate": float(clip.rate), "length": clip.length, "regime": clip.regime}
        notes.append(json.dumps({"media": media, **about, **clip.props, "events": props}))
        print(f"{index + 1}/{args.clips} {media}", flush=True)
    (args.out_dir / "questions.jsonl").write_text("\n".join(lines) + "\n")
    (args.out_dir / "properties.jsonl").write_text("\n".join(notes) + "\n")


if __name__ == "__main__":
    main()
