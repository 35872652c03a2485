"""Makes a folder of SyncClips independently of `ep synth`: media files, `questions.jsonl` and `properties.jsonl`.

    python -m tools.other_syncclips OUT_DIR --sprites FOLDER --sounds FOLDER --soundfont FILE
    python -m tools.other_syncclips OUT_DIR --sprites FOLDER --sounds FOLDER --regimes balanced,watch,listen

The regimes take turns. Without `--regimes` there are all four; the second command makes the clips of SyncClips v1.
`properties.jsonl` has the properties of each clip (codecs, noise, background or surroundings, take of every event), to
split errors by them. Sounds that `--sounds` lacks need fluidsynth with a General MIDI soundfont, and espeak-ng; the
voices behind `busy` clips need espeak-ng alone. Sprites: the folder `assets` of the npm package
@lobehub/fluent-emoji-3d 1.1.0.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .beds import make_voices
from .clips import REGIMES, plan
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
    parser.add_argument("--regimes", default=",".join(REGIMES), help="some of %(default)s; they take turns")
    args = parser.parse_args()
    regimes = args.regimes.split(",")
    if unknown := sorted(set(regimes) - set(REGIMES)):
        parser.error(f"unknown regime {', '.join(unknown)}: use some of {', '.join(REGIMES)}")
    if not (args.sounds / "takes.json").exists():
        if not args.soundfont:
            parser.error("--sounds is empty: give a --soundfont to render them")
        make_sounds(args.sounds, args.soundfont)
    if "busy" in regimes and not (args.sounds / "voices.json").exists():
        make_voices(args.sounds)
    takes = json.loads((args.sounds / "takes.json").read_text())
    (args.out_dir / "clips").mkdir(parents=True, exist_ok=True)
    lines, notes = [], []
    for index in range(args.clips):
        rng = np.random.default_rng([args.seed, index])
        clip = plan(regimes[index % len(regimes)], takes, args.sounds, rng)
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
        around = {"surroundings": asdict(clip.around)} if clip.around else {}
        about = {"size": clip.size, "rate": float(clip.rate), "length": clip.length, "regime": clip.regime}
        notes.append(json.dumps({"media": media, **about, **clip.props, **around, "events": props}))
        print(f"{index + 1}/{args.clips} {media}", flush=True)
    (args.out_dir / "questions.jsonl").write_text("\n".join(lines) + "\n")
    (args.out_dir / "properties.jsonl").write_text("\n".join(notes) + "\n")


if __name__ == "__main__":
    main()
