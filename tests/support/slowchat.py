"""`ep chat` on the random model, whose every piece of an answer takes a fifth of a second. A test types to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from echoingpixels.encoded_clip import EncodedClip
from echoingpixels.generation.answer import Chunk
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, MediaOptions
from epcli.chat import Chat, Library
from epcli.lines import lines
from tests.support import tinymodel


class Slow(EchoingPixels):
    """Pauses before each piece."""

    def stream(self, *given: Any, **options: Any) -> Iterator[Chunk]:
        """As the model's."""
        for chunk in super().stream(*given, **options):
            time.sleep(0.2)
            yield chunk


class Noise(Library):
    """Every file is the same noise."""

    def encode(self, media: Path, read: MediaOptions) -> EncodedClip:
        """Encodes without reading."""
        return self.model.encode(tinymodel.clip(2.0))


def main() -> None:
    """Talk until the input ends; then print who said how many letters."""
    on = tinymodel.backbone()
    model = Slow(on, tinymodel.sieve(on))
    chat = Chat(Noise(model, "random", None, MediaOptions(), None), AskOptions(keep=0.5, generate=GenerateOptions(40)))  # type: ignore[arg-type]
    chat.add(Path("noise.mp4"))
    chat.run(lines())
    sizes = [
        f"{one.role} {sum(len(part) for part in one.parts if isinstance(part, str))}" for one in chat.talk.messages
    ]
    print("messages:", ", ".join(sizes))


if __name__ == "__main__":
    main()
