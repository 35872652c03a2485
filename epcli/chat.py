"""A conversation with the user: questions, commands, answers and their statistics."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from echoingpixels.conversation import Conversation
from echoingpixels.errors import DataError, EpError, OptionError
from echoingpixels.options import AskOptions, MediaOptions

from . import console
from .options import keep_of, seconds
from .render.report import Result

if TYPE_CHECKING:
    from echoingpixels.encoded_clip import EncodedClip
    from echoingpixels.features.cache import FeatureCache
    from echoingpixels.inputs.prompt import Message
    from echoingpixels.media import Worker
    from echoingpixels.model import EchoingPixels

COMMANDS = {  # name: arguments, what it does
    "help": ("", "List the commands."),
    "clear": ("", "Forget questions and answers, but not the media."),
    "keep": ("RATIO", "Keep this share of the audio and video tokens, in (0, 1]."),
    "reducer": ("NAME", "Select tokens by this method."),
    "clip": (
        "[START END]",
        "Ask about a part of the latest file, or all of it; forgets earlier questions.",
    ),
    "add": ("MEDIA", "Show another video, audio or image file with the next question."),
    "explain": ("FILE", "Write what the latest answer was generated from, as .html or .png."),
    "stats": ("", "Print the full report of the latest complete answer."),
    "save": ("FILE", "Write the conversation, as .json or as text."),
    "exit": ("", "Leave."),
}
OTHERS = (
    ('"""', 'Begin and end a question of several lines with """.'),
    ("Ctrl-C", "Stop an answer; the text so far counts as the answer."),
    ("Ctrl-D", "Leave."),
)


@dataclass(frozen=True)
class Library:
    """The model, and how files are read."""

    model: EchoingPixels
    name: str
    worker: Worker
    read: MediaOptions
    cache: FeatureCache | None

    def encode(self, media: Path, read: MediaOptions) -> EncodedClip:
        """Read and encode a file, and print what it is in one line."""
        self.worker.check(media)
        with console.working(f"Encoding {media.name} …"):
            clip = self.model.encode(media, read, cache=self.cache, reader=self.worker.stream)
        span = clip.media.span
        kind = "image" if span.image else "video"
        parts = [f"{n} {name} tokens" for n, name in ((span.video_tokens, kind), (span.audio_tokens, "audio")) if n]
        length = "" if span.image else f"{clip.duration:.1f} s, "
        console.summary(f"{media.name}: {length}{', '.join(parts)}, read in {clip.time_s.first_token:.2f} s")
        return clip


@dataclass(frozen=True)
class Shown:
    """A file of the conversation, how it was read, and its clip."""

    media: Path
    read: MediaOptions
    clip: EncodedClip


class Chat:
    """Answers questions and follows commands until the lines end."""

    def __init__(self, library: Library, ask: AskOptions) -> None:
        self.library, self.ask_options = library, ask
        self.talk = Conversation(library.model)
        self.shown: list[Shown] = []
        self.results: list[Result] = []
        self.printed: set[tuple[str, str]] = set()  # warnings and notes
        self.failed = False

    def add(self, media: Path) -> None:
        """Encode a file for the next question."""
        self.shown.append(self._shown(media, self.library.read))
        self.talk.add(self.shown[-1].clip)

    def _shown(self, media: Path, read: MediaOptions) -> Shown:
        clip = self.library.encode(media, read)
        self._remark([("warning", text) for text in clip.source.warnings] + [("note", text) for text in clip.notes])
        return Shown(media, read, clip)

    def run(self, lines: Iterable[str]) -> bool:
        """Whether every line was answered or followed."""
        for line in lines:
            try:
                if not line.startswith("/"):
                    self.ask(line)
                elif not self._follow(*line[1:].split(maxsplit=1)):
                    break
            except EpError as error:
                self.failed = True
                console.pairs([(name, text) for name, text in (("error", error.message), ("hint", error.hint)) if text])
        return not self.failed

    def ask(self, question: str) -> None:
        """Print the answer as it comes; an interrupt ends it."""
        try:
            with closing(self.talk.stream(question, self.ask_options)) as chunks:
                answer = console.stream(chunks)
        except KeyboardInterrupt:
            console.out("")
            if not sys.stdin.isatty():
                raise
            console.summary("stopped")
            return
        media = ", ".join(str(one.media) for one in self.shown)
        result = Result.of(media, question, self.library.name, self.library.model, answer)
        self.results.append(result)
        console.summary(result.summary(answer.report.question_s))
        self._remark(result.remarks())

    def _remark(self, remarks: list[tuple[str, str]]) -> None:
        """Print the warnings and notes that are new."""
        console.pairs([remark for remark in remarks if remark not in self.printed])
        self.printed.update(remarks)

    def _follow(self, name: str = "", rest: str = "") -> bool:
        """Follow a command; whether to go on."""
        if name == "exit":
            return False
        if name not in COMMANDS:
            raise OptionError(f"/{name} is no command.", "/help lists them.")
        takes = COMMANDS[name][0]
        if bool(rest.strip()) != bool(takes) and not takes.startswith("["):
            raise OptionError(f"/{name} takes {takes or 'nothing'}.", f"Type /{name} {takes}.".replace(" .", "."))
        follow: Callable[..., None] = getattr(self, f"_{name}")
        follow(*([rest.strip()] if takes else []))
        return True

    def _help(self) -> None:
        console.pairs([*((f"/{name} {takes}", what) for name, (takes, what) in COMMANDS.items()), *OTHERS])

    def _clear(self) -> None:
        self.talk.clear()
        self.results.clear()

    def _keep(self, ratio: str) -> None:
        self.ask_options = replace(self.ask_options, keep=keep_of(ratio, "/keep"))

    def _reducer(self, name: str) -> None:
        self.library.model.check(name)
        self.ask_options = replace(self.ask_options, reducer=name)

    def _clip(self, span: str) -> None:
        """Read a part of the latest file in place of what was read of it."""
        last, times = self.shown[-1], [seconds(time) for time in span.split()]
        if len(times) not in (0, 2):
            raise OptionError(f"{span!r} is no start and end.", "Type two times, such as /clip 10 25.")
        start, end = times or (None, None)
        self.shown[-1] = self._shown(last.media, replace(last.read, start=start, end=end))
        self.talk.replace(last.clip, self.shown[-1].clip)
        self.results.clear()

    def _add(self, media: str) -> None:
        self.add(_path(media))

    def _explain(self, name: str) -> None:
        from echoingpixels.display.pictures import shown_size
        from echoingpixels.explain.explanation import LADDER, explain
        from echoingpixels.explain.target import PAGE, write

        last, path = self._latest(), _new(name)
        (one,) = self.shown if len(self.shown) == 1 else (None,)
        if one is None:
            raise OptionError("The conversation has several files.", "Use `ep explain` with one of them.")
        with console.working(f"Writing {path.name} …"):
            picture = self.library.worker.read(one.media, one.read, frame_size=shown_size)
            ladder = LADDER if path.suffix.lower() == PAGE else ()
            write(explain(one.clip, picture, last.question, last.options, ladder), path)
        console.summary(f"{path}: the latest question by itself, without earlier ones")

    def _stats(self) -> None:
        console.pairs(self._latest().lines())

    def _save(self, name: str) -> None:
        path = _new(name)
        if path.suffix.lower() == ".json":
            text = json.dumps([result.as_dict() for result in self.results], ensure_ascii=False, indent=1) + "\n"
        else:
            text = "\n".join(map(_transcript, self.talk.messages[1:]))
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}.", "Choose another file.") from error
        console.summary(f"{path}: written")

    def _latest(self) -> Result:
        if not self.results:
            raise OptionError("There is no answer yet.", "Ask a question first.")
        return self.results[-1]


def _transcript(message: Message[EncodedClip]) -> str:
    """A question, quoted, or an answer."""
    text = "".join(part for part in message.parts if isinstance(part, str))
    quote = "> " if message.role == "user" else ""
    return "".join(f"{quote}{line}\n" for line in text.splitlines() or [""])


def _new(name: str) -> Path:
    """A path to write to, which does not exist yet."""
    path = _path(name)
    if path.exists():
        raise DataError(f"{path} already exists.", "Choose another file.")
    return path


def _path(name: str) -> Path:
    """A path as a user types it. DataError for one that no file can have."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{name[:80]!r} is no path: {error}.", "Choose another file.") from None
    return path
