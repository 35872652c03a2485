"""`ep explain`: which tokens an answer was generated from, as a page or a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echoingpixels.options import AskOptions, MediaOptions, check_question

from .. import console
from .. import options as o
from ..grouped import grouped
from ..render.report import big
from ..session import Chosen, check_outfile, choose, load_model, reading

if TYPE_CHECKING:
    from echoingpixels.explain.explanation import Explanation
    from echoingpixels.features.cache import FeatureCache


@grouped
def explain(
    media: Annotated[Path, typer.Argument(help="A video, audio or image file.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    model: o.ModelGroup,
    tokens: o.TokenGroup,
    read: o.MediaGroup,
    out: Annotated[Path, o.output_option("--out", "-o", help="File to write: .html for a page, .png for a picture.")],
    output: o.FileGroup,
) -> None:
    """Show which audio and video tokens an answer was generated from.

    A page plays the clip with its kept tokens, at several keep ratios; it is one file that needs no network.
    A picture shows one keep ratio.
    Prints the path of the file to stdout, and the answers to stderr.
    """
    from echoingpixels.explain.target import PAGE, PICTURE, write

    check_question(question)
    check_outfile(out, "--out", (PAGE, PICTURE), [media], output.force)
    options, asked = read.media_options(), tokens.ask_options(model)
    chosen = choose(model.model, model.load_options(read.max_pixels, asked.share), model.yes)
    made = _explain(media, question, chosen, options, asked, model.feature_cache(), whole=out.suffix.lower() == PAGE)
    with console.working(f"Writing {out.name} …"):
        size = write(made, out)
    if output.json:
        console.out_json({"media": str(media), "out": str(out), "bytes": size, **_plain(made)})
        return
    answers = [(f"{c.setting.reducer} {c.setting.keep:g}", " ".join(c.answer.text.split())) for c in made.choices]
    notes = [("note", text) for text in made.clip.source.notes]
    found = made.choices[made.asked].answer.evidence
    console.pairs([*answers, ("evidence", str(found)), ("basis", made.belief), ("size", big(size, "B")), *notes])
    console.out(str(out))


def _explain(
    media: Path,
    question: str,
    chosen: Chosen,
    read: MediaOptions,
    asked: AskOptions,
    cache: FeatureCache | None,
    whole: bool,
) -> Explanation:
    """The explanation, at one keep ratio or at the `whole` ladder of ratios."""
    with reading() as worker:
        worker.check(media)
        from echoingpixels.display.pictures import shown_size
        from echoingpixels.explain.explanation import LADDER
        from echoingpixels.explain.explanation import explain as run

        model = load_model(chosen, [asked.reducer])
        with console.working(f"Encoding {media.name} …"):
            clip = model.encode(media, read, cache=cache, reader=worker.stream)
            shown = worker.read(media, read, frame_size=shown_size)
    with console.progress("keep ratios") as progress:
        return run(clip, shown, question, asked, LADDER if whole else (), progress)


def _plain(made: Explanation) -> dict[str, Any]:
    """An explanation as plain values, for JSON."""
    runs = [
        {
            **c.setting.as_dict(),
            "answer": c.answer.text,
            "tokens": c.answer.report.tokens.as_dict(),
            **c.answer.evidence.as_dict(),
        }
        for c in made.choices
    ]
    return {
        "question": made.question,
        "model": made.model,
        "form": made.form,
        "runs": runs,
        "belief": made.belief,
        "notes": list(made.clip.source.notes),
    }
