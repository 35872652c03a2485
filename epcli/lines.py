"""Lines from the user: with editing and a history at a terminal, plainly from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

QUOTES = '"""'  # around a question of several lines
PROMPT, MORE = ">>> ", "... "
Read = Callable[[str], str]


def lines() -> Iterator[str]:
    """What the user enters, question by question, until the end of input."""
    terminal = sys.stdin.isatty()
    read = _terminal() if terminal else _pipe
    while True:
        try:
            text = _whole(read)
        except EOFError:
            return
        except KeyboardInterrupt:
            if not terminal:
                raise
            continue  # it drops the line
        if text.strip():
            yield text.strip()


def _whole(read: Read) -> str:
    """A line, or several between triple quotes."""
    text = read(PROMPT)
    if not text.lstrip().startswith(QUOTES):
        return text
    text = text.lstrip()[len(QUOTES) :]
    while not text.rstrip().endswith(QUOTES):
        try:
            text += "\n" + read(MORE)
        except EOFError:  # the end of input ends the question, too
            return text
    return text.rstrip()[: -len(QUOTES)]


def _pipe(prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _terminal() -> Read:
    """Reads with prompt_toolkit, whose prompt goes to stderr so that answers can be redirected."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.output import create_output

    from .chat import COMMANDS

    words = [f"/{name} " if takes else f"/{name}" for name, (takes, _) in COMMANDS.items()]
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(_history())),
        completer=WordCompleter(words, sentence=True),
        complete_while_typing=False,
        output=create_output(stdout=sys.stderr),
    )
    return session.prompt


def _history() -> Path:
    """The file of earlier lines."""
    from echoingpixels.features.cache import caches

    folder = caches()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "chat_history"
