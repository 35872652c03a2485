"""`ep chat`: a conversation about a clip, at a terminal or from a pipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import options as o
from ..grouped import grouped
from ..session import ROWS_FAILED, choose, load_model, reading


@grouped
def chat(
    media: Annotated[Path, typer.Argument(help="A video, audio or image file.")],
    model: o.ModelGroup,
    tokens: o.TokenGroup,
    read: o.MediaGroup,
) -> None:
    """Talk about a video, audio or image file, which is decoded and encoded once.

    Earlier questions and answers are part of each prompt; /help lists the commands.
    Ctrl-C stops an answer, Ctrl-D leaves. From a pipe, each line is a question.
    """
    asked, options = tokens.ask_options(model), read.media_options()
    chosen = choose(model.model, model.load_options(read.max_pixels, asked.share), model.yes)
    with reading() as worker:
        worker.check(media)
        loaded = load_model(chosen, [asked.reducer])
        from ..chat import Chat, Library
        from ..lines import lines

        talk = Chat(Library(loaded, chosen.name, worker, options, model.feature_cache()), asked)
        talk.add(media)
        if not talk.run(lines()) and not sys.stdin.isatty():
            raise typer.Exit(ROWS_FAILED)
