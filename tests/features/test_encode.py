"""Encoding begins before a clip is read to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

import echoingpixels as ep
from echoingpixels.backbones.encoders import VisionEncoder
from echoingpixels.features.encode import encode
from echoingpixels.media import Worker
from echoingpixels.media.clip import Pieces
from echoingpixels.options import MediaOptions
from echoingpixels.report import Stopwatch
from tests.support.clips import Film, write


def test_the_first_chunk_is_encoded_before_the_last_piece_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, order = ep.load("tiny"), []
    real = VisionEncoder.encode
    monkeypatch.setattr(VisionEncoder, "encode", lambda *given: (order.append("encode"), real(*given))[1])

    def noted(pieces: Pieces) -> Pieces:
        for piece in pieces:
            order.append("last piece" if piece.ending else "piece")
            yield piece

    path = write(tmp_path / "a.mp4", Film(seconds=40, fps=4, size=(240, 480)))
    with Worker() as worker:
        pieces = worker.stream(path, MediaOptions(), frame_size=model.frame_size)
        encode(model.backbone, noted(pieces), Stopwatch(model.backbone.device))
    assert order[0] == "piece" and order.index("encode") < order.index("last piece")
