"""Our selection in windows and inside the decoder against numbers recorded from the published code of SEATS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from echoingpixels.inputs.positions import AUDIO, TEXT, VIDEO
from echoingpixels.inputs.token_stream import TokenStream
from echoingpixels.reducers.budget import EachWindow
from echoingpixels.reducers.in_decoder import SEATS, alive, by_window
from echoingpixels.reducers.pick import MaxMin
from tests.parity.tally import EXACT, FixtureError, Recorded, Tally

ROUNDED = 5.1e-5  # ratios are recorded with four digits


def compare_seats(folder: Path, manifest: dict[str, Any], tally: Tally) -> None:
    """Compare every case of a folder of SEATS."""
    for name, compare in (("stage1", _compare_stage1), ("stage2", _compare_stage2), ("schedule", _compare_schedule)):
        for i, case in enumerate(manifest.get(name, [])):
            try:
                if "file" in case:
                    recorded = Recorded(folder / case["file"])
                    compare(case, recorded, tally)
                    for left in sorted(recorded.unread):
                        tally.problem(f"{case['file']}: {left} was recorded and is not compared (unknown name)")
                else:
                    compare(case, f"schedule {i}", tally)
            except KeyError as error:
                raise FixtureError(f"case {i} of {name} lacks {error}") from error
    listed = {case.get("file") for name in ("stage1", "stage2") for case in manifest.get(name, [])}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in listed:
            tally.problem(f"{path.name} is not in the manifest")


def stage1_stream(case: dict[str, Any], recorded: Recorded) -> tuple[TokenStream, Tensor]:
    """A stream of a recorded clip, its video before its audio and one text token between, and its saliency (1, L)."""
    video, audio = recorded["video"], recorded["audio"]
    kind = torch.tensor([VIDEO] * len(video) + [TEXT] + [AUDIO] * len(audio))[None]
    steps, seconds = torch.arange(len(video)) // case["tokens_per_grid"], torch.arange(len(audio)) / 25
    stream = TokenStream(
        embeds=torch.cat([video, video[:1], audio])[None],
        positions=torch.zeros(3, *kind.shape, dtype=torch.int64),
        kind=kind,
        time=torch.cat([steps * 1.0, torch.tensor([torch.nan]), seconds])[None],
        cell=torch.zeros(*kind.shape, 2, dtype=torch.int64),
        mask=torch.ones_like(kind, dtype=torch.bool),
        next_position=torch.zeros(1, dtype=torch.int64),
    )
    return stream, torch.cat([recorded["video_saliency"], torch.zeros(1), recorded["audio_saliency"]])[None]


def _compare_stage1(case: dict[str, Any], recorded: Recorded, tally: Tally) -> None:
    stream, saliency = stage1_stream(case, recorded)
    budget, video = EachWindow(audio=case["audio_ratio"]), case["video_ratio"]
    keep = budget.fill(MaxMin(plain=True).rank(stream, saliency, budget, video), stream, video)[0]
    first = len(recorded["video"])
    for kind, part, count in zip(("video", "audio"), (keep[:first], keep[first + 1 :]), case["kept"], strict=True):
        kept, where = part.nonzero()[:, 0], f"{case['file']}, {kind}"
        tally.compare("stage1 kept", where, kept, recorded[f"kept_{kind}"].long(), EXACT)
        tally.compare("stage1 counts", where, [len(kept)], torch.tensor([count]), EXACT)


def _compare_stage2(case: dict[str, Any], recorded: Recorded, tally: Tally) -> None:
    kind, window = recorded["kind"], recorded["window"].long()
    kinds = torch.stack([kind == VIDEO, kind == AUDIO])[:, None]  # (2, 1, L)
    ratios = torch.tensor([case["video_keep_ratio"], case["audio_keep_ratio"]], dtype=torch.double)
    k = (kinds.sum(2) * ratios[:, None]).round().long()
    keep = by_window(recorded["scores"][None], kinds, window.clamp(min=0)[None], k)[0] | (kind == TEXT)
    tally.compare("stage2 keep", case["file"], keep.int(), recorded["keep"].int(), EXACT)
    counts = [int((keep & (kind == of)).sum()) for of in (VIDEO, AUDIO)]
    tally.compare("stage2 counts", case["file"], counts, torch.tensor([case["kept_video"], case["kept_audio"]]), EXACT)


def _compare_schedule(case: dict[str, Any], where: str, tally: Tally) -> None:
    """The ratio kept at each drop; the published code has one ratio, 1, where its last layers read too few tokens."""
    before, layers = case["remove_before_layer"], case["layers"]
    if before is None:
        drops = [drop.layer for drop in SEATS.at(layers, 0.5).drops]
        tally.compare("schedule layers", where, drops, torch.tensor(case["drop_layers"]), EXACT)
    for kind, target, entered in zip(("video", "audio"), case["target"], case["after_towers"], strict=True):
        end = None if before is None else before - 1
        left = alive(case["drop_layers"], SEATS.removed, layers, target / entered, end)
        ours = torch.tensor([now / last for now, last in zip(left, [1.0, *left[:-1]], strict=True)])
        recorded = torch.tensor(case[f"keep_at_each_drop_{kind}"])
        tally.compare("schedule ratios", f"{where}, {kind}", ours, recorded.expand(len(ours)), ROUNDED)
        share = SEATS.at(layers, target).share
        tally.compare("schedule entering", f"{where}, {kind}", [share], torch.tensor([entered]), 1e-6)
