"""Token order and rotary positions of a prompt, from true timestamps.

One pass over the prompt makes ids and positions together, so both have the same chunk borders.
Source: TMRoPE in Qwen2.5-Omni's technical report (section 2.2), and EchoingPixels (arXiv 2512.10324) for Sync-RoPE.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ModelError

TEXT, VIDEO, AUDIO, IMAGE = range(4)
KINDS = ("text", "video", "audio", "image")
AUDIO_TOKENS_PER_S = 25
EVEN = 1e-6  # s; the largest deviation of a step at a constant frame rate


@dataclass(frozen=True)
class Layout:
    """The token ids that mark media in a prompt, and the scale from time to positions."""

    video: int
    audio: int
    image: int
    vision_bos: int
    vision_eos: int
    audio_bos: int
    audio_eos: int
    positions_per_s: int = 25
    seconds_per_chunk: float = 2.0


@dataclass(frozen=True)
class Span:
    """One clip or image in a prompt: `times` (T,) s of its temporal steps, its token grid, its audio tokens."""

    times: tuple[float, ...] = ()
    rows: int = 0
    columns: int = 0
    audio_tokens: int = 0
    image: bool = False

    @property
    def tokens(self) -> int:
        """Number of audio and video tokens."""
        return self.video_tokens + self.audio_tokens

    @property
    def video_tokens(self) -> int:
        """Number of video tokens; an image's too."""
        return len(self.times) * self.rows * self.columns

    @property
    def length(self) -> int:
        """Number of its tokens with its begin and end marks."""
        return self.tokens + 2 * bool(self.times) + 2 * bool(self.audio_tokens)


@dataclass(frozen=True)
class Placed:
    """A prompt without batch dimension: the values of every token, in order."""

    ids: Tensor  # (L,) int64
    positions: Tensor  # (3, L) int64: time, height, width
    kind: Tensor  # (L,) int64, an index into KINDS
    time: Tensor  # (L,) float32 s from the clip's start, nan for text
    cell: Tensor  # (L, 2) int64 row and column in the frame's token grid, -1 where there is none


class _Walk:
    """Collects runs of tokens; `end` is one past the largest position of the latest run, as transformers counts."""

    def __init__(self) -> None:
        self.runs: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        self.end = 0

    def add(
        self, ids: Tensor, positions: Tensor, kind: int, time: Tensor | None = None, cell: Tensor | None = None
    ) -> None:
        n = ids.numel()
        if n == 0:
            return
        self.runs.append(
            (
                ids,
                positions,
                torch.full((n,), kind),
                torch.full((n,), torch.nan) if time is None else time,
                torch.full((n, 2), -1) if cell is None else cell,
            )
        )
        self.end = int(positions.max()) + 1

    def text(self, ids: Sequence[int], together: bool = False) -> None:
        """Add text; `together` gives all tokens one position, as for the paired begin and end marks of a clip."""
        steps = torch.zeros(len(ids), dtype=torch.long) if together else torch.arange(len(ids))
        self.add(torch.tensor(ids, dtype=torch.long), (steps + self.end).expand(3, -1), TEXT)


def place(pieces: Iterable[Sequence[int] | Span], layout: Layout) -> Placed:
    """Lay out text (sequences of ids) and media (Spans) in the order given.

    A clip with sound is cut into chunks of `seconds_per_chunk`: each chunk's video tokens, then its audio tokens.
    """
    walk = _Walk()
    for piece in pieces:
        if isinstance(piece, Span):
            _place_span(walk, piece, layout)
        else:
            walk.text(piece)
    ids, positions, kind, time, cell = zip(*walk.runs, strict=True)
    return Placed(torch.cat(ids), torch.cat(positions, 1), torch.cat(kind), torch.cat(time), torch.cat(cell))


def _place_span(walk: _Walk, span: Span, layout: Layout) -> None:
    marks: list[tuple[int, int]] = []
    if span.times:
        marks.append((layout.vision_bos, layout.vision_eos))
    if span.audio_tokens:
        marks.append((layout.audio_bos, layout.audio_eos))
    if not marks:
        raise ModelError("A clip gives no audio and no video tokens.", "Give a longer clip or another file.")
    walk.text([begin for begin, _ in marks], together=True)

    start = walk.end
    vision = IMAGE if span.image else VIDEO
    vision_id = layout.image if span.image else layout.video
    cell = torch.cartesian_prod(torch.arange(span.rows), torch.arange(span.columns)).repeat(len(span.times), 1)
    vision_time = torch.tensor(span.times, dtype=torch.float64).repeat_interleave(span.rows * span.columns)
    vision_t = _ticks(span.times, layout.positions_per_s).repeat_interleave(span.rows * span.columns)
    vision_positions = (
        torch.cat([vision_t[None], cell.T]) + start if span.times else torch.empty(3, 0, dtype=torch.long)
    )
    audio_t = torch.arange(span.audio_tokens)

    size = int(layout.positions_per_s * layout.seconds_per_chunk)
    both = bool(span.times and span.audio_tokens)
    vision_cuts = _chunks(vision_t.tolist(), size) if both else [slice(None)]
    audio_cuts = _chunks(audio_t.tolist(), size) if both else [slice(None)]
    for i in range(max(len(vision_cuts), len(audio_cuts))):
        for s in vision_cuts[i : i + 1]:
            n = vision_t[s].numel()
            walk.add(torch.full((n,), vision_id), vision_positions[:, s], vision, vision_time[s].float(), cell[s])
        for s in audio_cuts[i : i + 1]:
            time = audio_t[s] / AUDIO_TOKENS_PER_S
            walk.add(torch.full((time.numel(),), layout.audio), (audio_t[s] + start).expand(3, -1), AUDIO, time)
    walk.text([end for _, end in reversed(marks)], together=True)


def _ticks(times: tuple[float, ...], per_s: float) -> Tensor:
    """Time positions (T,) int64 of temporal steps at `times` s; evenly spaced ones equal those of transformers."""
    true = torch.tensor(times, dtype=torch.float64)
    step = true[1:2].sum()  # s between steps; 0 where there is only one
    index = torch.arange(len(times))
    if torch.allclose(index * step, true, rtol=0, atol=EVEN):
        return (index * step.float() * per_s).long()  # transformers' own float32 product, rounding errors included
    # The tiny shift keeps 0.6 s * 25 at 15 where binary fractions would give 14.999….
    return (true * per_s + 1e-6).floor().long()


def _chunks(positions: list[int], size: int) -> list[slice]:
    """Cut ascending positions into chunks; at most one chunk ends per token, as in transformers' chunking."""
    bounds = [0]
    for i, position in enumerate(positions):
        if position >= len(bounds) * size:
            bounds.append(i)
    return [slice(a, b) for a, b in zip(bounds, [*bounds[1:], len(positions)], strict=True)]


def overreach(end: int, most: int, per_s: int) -> tuple[str, ...]:
    """The warning for a prompt with `end` positions of a model made for `most`, at `per_s` positions per second."""
    if end <= most:
        return ()
    excess = f"The prompt has {end:,} positions, and the model was made for {most:,}, {most / per_s / 60:.1f} minutes"
    return (f"{excess}: later parts may be misread. Ask about parts of the clip, with --start and --end.",)


def check_sections(sections: Sequence[int], pairs: int) -> list[int]:
    """Return a Sync-RoPE split [T, H, W, T] of `pairs` rotary channel pairs, fast to slow; ModelError if it is none."""
    if len(sections) != 4 or sum(sections) != pairs or min(sections) < 0:
        raise ModelError(
            f"A Sync-RoPE split needs four numbers that sum to {pairs} (half the head size), not {list(sections)}.",
            "For Qwen2.5-Omni the published split is 18,18,18,10.",
        )
    return list(sections)
