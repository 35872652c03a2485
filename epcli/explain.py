"""`ep explain`: which tokens an answer was given from, as a page or a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoingpixels.explain.target import PAGE, PICTURE, write
from echoingpixels.options import AUTO, AskOptions, GenerateOptions, MediaOptions, check_question, keep_name

from . import console
from . import options as o
from .model import Chosen, choose, load_model
from .outfile import check_outfile
from .reading import reading
from .report import big

if TYPE_CHECKING:
    from echoingpixels.explain.explanation import Explanation


def explain(
    media: Annotated[Path, typer.Argument(help="A video, sound or image file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    out: Annotated[Path, o.output_option("--out", "The file to write: .html for a page, .png for a picture.")],
    model: o.Model = AUTO,
    sieve: o.Sieve = None,
    reducer: o.Reducer = AUTO,
    keep: o.KeepText = o.KEEP_TEXT,
    quant: o.QuantName = AUTO,
    device: o.Device = AUTO,
    dtype: o.DtypeName = AUTO,
    yes: o.Yes = False,
    fps: o.Fps = o.FPS,
    max_frames: o.MaxFrames = o.MAX_FRAMES,
    max_pixels: o.MaxPixels = None,
    encode: o.EncodeText = o.ENCODE_TEXT,
    start: o.Start = None,
    end: o.End = None,
    no_audio: o.NoAudio = False,
    audio_track: o.AudioTrack = None,
    max_new_tokens: o.MaxNewTokens = o.MAX_NEW_TOKENS,
    force: o.Force = False,
) -> None:
    """Show which audio and video tokens an answer was given from.

    A page plays the clip under its tokens, at several keep ratios; it is one file that needs no network.
    A picture shows the ratio asked for.
    Prints the path of what was written, and the answers to stderr.
    """
    check_question(question)
    check_outfile(out, "--out", (PAGE, PICTURE), [media], force)
    read = o.media_options(fps, max_frames, no_audio, audio_track, start, end)
    asked = AskOptions(reducer, o.keep_of(keep), GenerateOptions(max_new_tokens))
    load = o.load_options(sieve, quant, device, max_pixels, encode, dtype=dtype)
    made = _explain(media, question, choose(model, load, yes), read, asked, whole=out.suffix.lower() == PAGE)
    with console.working(f"Writing {out.name} …"):
        size = write(made, out)
    answers = [
        (f"{c.setting.reducer} {keep_name(c.setting.keep)}", " ".join(c.answer.text.split())) for c in made.choices
    ]
    notes = [("note", text) for text in made.clip.source.notes]
    console.pairs([*answers, ("belief", made.belief), ("size", big(size, "B")), *notes])
    console.out(str(out))


def _explain(
    media: Path, question: str, chosen: Chosen, read: MediaOptions, asked: AskOptions, whole: bool
) -> Explanation:
    """The explanation, at the ratio asked for or at the `whole` ladder."""
    with reading() as worker:
        worker.check(media)
        from echoingpixels.explain.explanation import LADDER
        from echoingpixels.explain.explanation import explain as run
        from echoingpixels.explain.pictures import shown_size

        model = load_model(chosen, [asked.reducer], [asked.keep])
        with console.working(f"Looking at {media.name} …"):
            looked = model.look(worker.stream(media, replace(read, frame_size=model.frame_size)))
            shown = worker.read(media, replace(read, frame_size=shown_size))
    with console.progress("keep ratios") as progress:
        return run(looked, shown, question, asked, LADDER if whole else (), progress)
