"""A recorded prompt batch as our Inputs: ids are cut into texts and clips and laid out again by our own walk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from echoingpixels.inputs.positions import Layout, Span, place
from echoingpixels.inputs.prepare import Inputs, Media, as_inputs, audio_tokens
from echoingpixels.inputs.token_stream import TokenStream, pad
from tests.parity.model import RecordedModel
from tests.parity.tally import EXACT, FixtureError, Recorded, Tally
from tests.support.tinymodel import encode

STORED_PER_UNIT = 32  # pixels and mel are stored as int8: value = stored / 32

Pieces = list[list[int] | Span]


@dataclass
class Case:
    """The rows of one case, laid out by us and embedded, and where the recorded rows have real tokens."""

    mask: Tensor  # (B, L) bool, as recorded
    rows: list[Inputs]
    labels: list[Tensor | None]  # (L of the row,) each
    streams: list[TokenStream]  # one a row, without labels

    def batch(self) -> TokenStream:
        """All rows in one batch, ours: padded on the left."""
        return pad(self.streams)

    def training_batch(self, model: RecordedModel) -> TokenStream:
        """The batch with its labels, embedded so that gradients reach everything."""
        rows = [replace(row, labels=x[None]) for row, x in zip(self.rows, self.labels, strict=True) if x is not None]
        if not rows:
            raise FixtureError("a variant trains, but its case has no labels")
        return pad([_embed(model, row) for row in rows])

    def alone(self, row: int) -> Case:
        """One row, as if it had been asked alone."""
        mask = torch.ones(1, int(self.mask[row].sum()), dtype=torch.bool)
        return Case(mask, [self.rows[row]], [self.labels[row]], [self.streams[row]])


def _embed(model: RecordedModel, row: Inputs) -> TokenStream:
    features = (encode(model.backbone, media, torch.is_grad_enabled()) for media in row.media)
    return model.backbone.embed(row, tuple(features))


class _Media:
    """Hands out the batch's clips, images and sounds in the order the prompts name them."""

    def __init__(self, recorded: Recorded, merge: int) -> None:
        self.merge = merge
        self.video = self._grids(recorded, "inputs/pixel_values_videos", "inputs/video_grid_thw")
        self.image = self._grids(recorded, "inputs/pixel_values", "inputs/image_grid_thw")
        self.seconds = iter(())
        if "inputs/video_second_per_grid" in recorded:
            self.seconds = iter(recorded["inputs/video_second_per_grid"].tolist())
        self.sound = self._sounds(recorded)

    def _grids(self, recorded: Recorded, pixels: str, grids: str) -> Iterator[tuple[Tensor, tuple[int, int, int]]]:
        patches = recorded[pixels].float() / STORED_PER_UNIT if pixels in recorded else torch.empty(0)
        sizes = recorded[grids].tolist() if grids in recorded else []
        parts = torch.split(patches, [t * h * w for t, h, w in sizes]) if sizes else ()
        return iter(list(zip(parts, map(tuple, sizes), strict=True)))

    def _sounds(self, recorded: Recorded) -> Iterator[Tensor]:
        if "inputs/input_features" not in recorded:
            return iter(())
        mels = recorded["inputs/input_features"].float() / STORED_PER_UNIT  # (clips, bins, frames)
        there = torch.ones_like(mels[:, 0], dtype=torch.bool)
        if "inputs/feature_attention_mask" in recorded:
            there = recorded["inputs/feature_attention_mask"].bool()
        return iter([mel[:, valid] for mel, valid in zip(mels, there, strict=True)])

    def left(self) -> bool:
        """Whether anything has not been asked for."""
        return any(next(rest, None) is not None for rest in (self.video, self.image, self.sound))

    def take(self, video: bool, image: bool, audio: bool) -> Media:
        """The next clip, image or sound."""
        times: tuple[float, ...] = ()
        rows = columns = 0
        patches, grid, mel = None, None, None
        if video:
            patches, grid = next(self.image if image else self.video)
            rows, columns = grid[1] // self.merge, grid[2] // self.merge
            rate = 1.0 if image else next(self.seconds, 1.0)
            times = tuple(rate * i for i in range(grid[0]))
        if audio:
            mel = next(self.sound)
        span = Span(times, rows, columns, 0 if mel is None else audio_tokens(mel.shape[1]), image)
        return Media(span, patches, grid, mel)


def read_case(name: str, model: RecordedModel, recorded: Recorded, tally: Tally) -> Case | None:
    """Lay out and embed every row of a case; None where the ids do not come out as recorded."""
    layout = model.backbone.layout
    ids = recorded["inputs/input_ids"]
    mask, given = recorded.get("inputs/attention_mask"), recorded.get("inputs/labels")
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    source = _Media(recorded, model.merge)
    rows = []
    for row_ids, real in zip(ids, mask, strict=True):
        pieces, media = _pieces(row_ids[real].tolist(), layout, source.take)
        rows.append(as_inputs(place(pieces, layout), tuple(media)))
        tally.compare("input_ids", name, rows[-1].input_ids[0], row_ids[real], EXACT)
        if not torch.equal(rows[-1].input_ids[0], row_ids[real]):
            tally.problem(f"{name}: the prompt is laid out otherwise here, so nothing more of it is compared")
            return None
    if source.left():
        raise FixtureError(f"case {name} has more media than its prompts name")
    labels = [None if given is None else given[i][real] for i, real in enumerate(mask)]
    with torch.no_grad():
        return Case(mask, rows, labels, [_embed(model, row) for row in rows])


def _pieces(ids: list[int], layout: Layout, take: Callable[[bool, bool, bool], Media]) -> tuple[Pieces, list[Media]]:
    """Cut a row's ids into texts and spans; a span's own tokens are dropped, the walk has to make them again."""
    tokens = {layout.video, layout.audio, layout.image}
    pieces: Pieces = [[]]
    media: list[Media] = []
    i = 0
    while i < len(ids):
        opens = ids[i] in (layout.vision_bos, layout.audio_bos)
        marks = 2 if opens and ids[i : i + 2] == [layout.vision_bos, layout.audio_bos] else 1
        first = ids[i + marks] if i + marks < len(ids) else -1
        if not opens or first not in tokens:
            assert isinstance(pieces[-1], list)
            pieces[-1].append(ids[i])
            i += 1
            continue
        video = ids[i] == layout.vision_bos
        media.append(take(video, first == layout.image, marks == 2 or not video))
        pieces += [media[-1].span, []]
        i += marks
        while i < len(ids) and ids[i] in tokens:
            i += 1
        i += marks
    return [piece for piece in pieces if piece], media
