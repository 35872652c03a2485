"""A clip and a question as the model reads them: patches, log-mel, ids and positions. Knows nothing about weights.

Numbers equal transformers' own Qwen2.5-Omni processor wherever the frame rate is constant and the sound lasts at most
300 s. The processor cuts sound at 30,000 mel frames (7,500 audio tokens); this module keeps all of it.
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import MediaError
from ..media.clip import Clip, Ending, Piece, Pieces, already_read
from . import patches as F
from .mel import MEL_BINS, log_mel, mel_frames
from .positions import Layout, Placed, Span, place

SYSTEM = "You are a helpful assistant."


class Tokenizer(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...

    def get_added_vocab(self) -> dict[str, int]: ...


@dataclass(frozen=True)
class Media:
    """One clip, sound or image as the two towers read it."""

    span: Span
    patches: Tensor | None = None  # (P, 1176) float32
    grid: tuple[int, int, int] | None = None  # patches (T, H, W)
    mel: Tensor | None = None  # (128, M) float32


@dataclass(frozen=True)
class Inputs:
    """One prompt. B is 1 here; streams are padded into batches after embedding."""

    input_ids: Tensor  # (1, L) int64
    positions: Tensor  # (3, 1, L) int64
    kind: Tensor  # (1, L) int64, an index into KINDS
    time: Tensor  # (1, L) float32 s, nan for text
    cell: Tensor  # (1, L, 2) int64
    media: tuple[Media, ...]  # in order of appearance
    labels: Tensor | None = None  # (1, L) int64, -100 outside the answer
    question: Tensor | None = None  # (1, L) bool, the question's own words; None where they are not known


def audio_tokens(mel_frames: int) -> int:
    """Audio tokens made of so many mel frames (100 a second): 25 a second."""
    return ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1


@dataclass(frozen=True)
class Extent:
    """How large a clip is: the (height, width) of its frames and their times (s), its samples, and its ending.

    `expected`: frames that their size is chosen for, as in Piece.
    """

    size: tuple[int, int]
    times: tuple[float, ...]
    samples: int
    ending: Ending
    expected: int = 0


class Measure:
    """Adds up the extent of a clip while its pieces pass by."""

    def __init__(self) -> None:
        self._size, self._times, self._samples = (0, 0), list[float](), 0
        self._ending: Ending | None = None
        self._expected = 0

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        if piece.begins:
            self._size, self._times, self._samples = (0, 0), [], 0
        if len(piece.frames):
            self._size = (piece.frames.shape[1], piece.frames.shape[2])
        self._times += piece.times.tolist()
        self._samples += len(piece.audio)
        self._ending, self._expected = piece.ending, piece.expected

    def extent(self) -> Extent:
        """Of all pieces; MediaError where they were taken before."""
        if self._ending is None:
            raise already_read()
        samples = 0 if self._ending.source.silent else self._samples
        return Extent(self._size, tuple(self._times), samples, self._ending, self._expected)


def extent_of(pieces: Pieces) -> Extent:
    """The extent of a clip, read to its end and not kept."""
    measure = Measure()
    with closing(pieces):  # an error in the loop must not leave their reader waiting
        for piece in pieces:
            measure.add(piece)
    return measure.extent()


def prepare_media(clip: Clip, resolution: F.Resolution) -> Media:
    """Patches and log-mel of a clip."""
    span = span_of(extent_of(clip.pieces()), resolution)
    patches, grid, mel = None, None, None
    if span.times:
        patches, grid = F.patches(clip.frames, (span.rows * F.FACTOR, span.columns * F.FACTOR))
    if clip.audio is not None and span.audio_tokens:
        mel = log_mel(clip.audio)
    return Media(span, patches, grid, mel)


def media_of(span: Span, extent: Extent) -> Media:
    """A clip's outline: as `prepare_media` makes it, with nothing in it."""
    grid = (len(span.times), F.MERGE * span.rows, F.MERGE * span.columns) if span.times else None
    heard = mel_frames(extent.samples) if span.audio_tokens else None
    return Media(span, None, grid, None if heard is None else torch.empty(MEL_BINS, heard, device="meta"))


def span_of(extent: Extent, resolution: F.Resolution) -> Span:
    """The tokens that a clip becomes, from its sizes alone. MediaError where it becomes none."""
    rows = columns = 0
    source = extent.ending.source
    if extent.times:
        size = resolution.size(*extent.size, extent.expected, source.kind == "image")
        rows, columns = (side // F.FACTOR for side in size)
    heard = audio_tokens(mel_frames(extent.samples)) if extent.samples else 0
    span = Span(extent.times[:: F.STEP], rows, columns, heard, source.kind == "image")
    if not span.tokens:
        sound = "its sound is digitally silent" if source.silent else f"only {extent.ending.duration:.3g} s of sound"
        what = f"{source.path} holds nothing to answer from: no picture, and {sound}."
        raise MediaError(what, "Give a longer part of it, or another file.")
    return span


def prepare_prompt(
    media: Media, question: str, tokenizer: Tokenizer, layout: Layout, system: str = SYSTEM, answer: str | None = None
) -> Inputs:
    """The chat prompt around one clip; with `answer`, the answer follows and is labelled for training."""
    before, after, said = chat_ids(tokenizer, question, answer, system)
    placed = place([before, media.span, after, said], layout)
    labels = torch.cat([torch.full((placed.ids.numel() - len(said),), -100), torch.tensor(said, dtype=torch.long)])
    words = torch.zeros(placed.ids.numel(), dtype=torch.bool)
    begin = words.numel() - len(after) - len(said)
    words[begin : begin + question_length(tokenizer, after)] = True
    return as_inputs(placed, (media,), None if answer is None else labels, words)


def chat_ids(
    tokenizer: Tokenizer, question: str, answer: str | None = None, system: str = SYSTEM
) -> tuple[list[int], list[int], list[int]]:
    """Token ids before the clip, after it up to the answer, and of the answer with its end mark.

    Question, answer and system prompt never become an added token, special or not: see `plain_ids`.
    """

    def marked(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    def plain(text: str) -> list[int]:
        return plain_ids(tokenizer, text)

    before = marked("<|im_start|>") + plain(f"system\n{system}") + marked("<|im_end|>\n<|im_start|>user\n")
    after = plain(question) + marked("<|im_end|>\n<|im_start|>assistant\n")
    return before, after, [] if answer is None else plain(answer) + marked("<|im_end|>")


def plain_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of text in which the added tokens (`<|im_end|>`, `<tool_call>`, …) are characters like any other.

    Text that spells an added token is cut after that token's first character; other text has its usual ids.
    """
    added = "|".join(map(re.escape, tokenizer.get_added_vocab()))
    cuts = [found.start() + 1 for found in re.finditer(f"(?={added})", text)] if added else []
    pieces = [text[first:last] for first, last in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    return [token for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False)]


def question_length(tokenizer: Tokenizer, after: list[int]) -> int:
    """Tokens of the question itself at the start of `after`, as `chat_ids` returns it; the template follows them."""
    return len(after) - len(chat_ids(tokenizer, "")[1])


def as_inputs(
    placed: Placed, media: tuple[Media, ...], labels: Tensor | None = None, question: Tensor | None = None
) -> Inputs:
    """Give a laid-out prompt, its labels (L,) and its question's words (L,) bool their batch dimension."""
    return Inputs(
        input_ids=placed.ids[None],
        positions=placed.positions[:, None],
        kind=placed.kind[None],
        time=placed.time[None],
        cell=placed.cell[None],
        media=media,
        labels=None if labels is None else labels[None],
        question=None if question is None else question[None],
    )
