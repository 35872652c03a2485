"""Our inputs against those of transformers' own processor, for frames and sound already read.

The fixtures hold no tokenizer, so texts are encoded by finding them among the recorded ids: what is compared is the
whole prompt (marks, order, media tokens, positions), not how the tokenizer splits words.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from echoingpixels.inputs.mel import MEL_BINS
from echoingpixels.inputs.patches import STEP, Resolution
from echoingpixels.inputs.positions import AUDIO, IMAGE, VIDEO, Layout
from echoingpixels.inputs.prepare import Inputs, Media, prepare_media
from echoingpixels.inputs.prompt import prepare_prompt
from echoingpixels.media.clip import Clip, Source
from tests.parity.tally import EXACT, FixtureError, Recorded, Tally

# Qwen2.5-Omni's own, as the format's README gives them
SPECIAL = {
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|AUDIO|>": 151646,
    "<|audio_bos|>": 151647,
    "<|audio_eos|>": 151648,
    "<|vision_bos|>": 151652,
    "<|vision_eos|>": 151653,
    "<|IMAGE|>": 151655,
    "<|VIDEO|>": 151656,
}
MARKS = re.compile("(" + "|".join(map(re.escape, SPECIAL)) + ")")
BOUNDS = {"pixels": 1e-6, "mel": 1e-4, "seconds": 1e-5}


class RecordedTokenizer:
    """Encodes the texts between the marks of one recorded prompt, as they were encoded there."""

    def __init__(self, prompt: str, ids: list[int]) -> None:
        texts = [part for part in MARKS.split(prompt) if part and part not in SPECIAL]
        runs: list[list[int]] = [[]]
        for token in ids:
            if token in SPECIAL.values():
                runs.append([])
            else:
                runs[-1].append(token)
        runs = [run for run in runs if run]
        if len(texts) != len(runs):
            raise FixtureError(f"the prompt has {len(texts)} texts between its marks, its ids {len(runs)}")
        self.known = dict(zip(texts, runs, strict=True))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The recorded ids of a text; KeyError if the recorded prompt does not hold it."""
        ids: list[int] = []
        for part in filter(None, MARKS.split(text)):
            ids += [SPECIAL[part]] if part in SPECIAL else self.known[part]
        return ids

    def get_added_vocab(self) -> dict[str, int]:
        return SPECIAL

    def decode(self, token_ids: list[int]) -> str:
        raise AssertionError("only prompts are compared, nothing is decoded")


def compare_processor(folder: Path, manifest: list[dict[str, Any]], tally: Tally) -> None:
    """Compare every case of a processor folder."""
    listed = {f"{case.get('name')}.safetensors" for case in manifest}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in listed:
            tally.problem(f"{path.name} is not in the manifest")
    for case in manifest:
        missing = {"name", "prompt", "question", "system", "fps", "min_pixels", "max_pixels"} - set(case)
        if missing:
            raise FixtureError(f"a case of the manifest lacks {', '.join(sorted(missing))}")
        _compare_case(case, Recorded(folder / f"{case['name']}.safetensors"), tally)


def _compare_case(case: dict[str, Any], recorded: Recorded, tally: Tally) -> None:
    name = case["name"]
    layout = _layout(case)
    clip = _clip(case, recorded)
    media = prepare_media(clip, Resolution.plain(case["max_pixels"], case["min_pixels"]))
    _compare_media(name, media, recorded, tally)
    ids = recorded["input_ids"]
    try:
        tokenizer = RecordedTokenizer(case["prompt"], ids[0].tolist())
        inputs = prepare_prompt(media, case["question"], tokenizer, layout, case["system"])
    except KeyError as error:
        tally.problem(f"{name}: our prompt holds a text that the recorded one does not: {error}")
    else:
        _compare_prompt(case, inputs, layout, recorded, tally)
    for left in sorted(recorded.unread):
        tally.problem(f"{name}: {left} was recorded and is not compared (unknown name)")


def _layout(case: dict[str, Any]) -> Layout:
    return Layout(
        video=SPECIAL["<|VIDEO|>"],
        audio=SPECIAL["<|AUDIO|>"],
        image=SPECIAL["<|IMAGE|>"],
        vision_bos=SPECIAL["<|vision_bos|>"],
        vision_eos=SPECIAL["<|vision_eos|>"],
        audio_bos=SPECIAL["<|audio_bos|>"],
        audio_eos=SPECIAL["<|audio_eos|>"],
        positions_per_s=case.get("position_id_per_seconds", 25),
        seconds_per_chunk=case.get("seconds_per_chunk", 2.0),
    )


def _clip(case: dict[str, Any], recorded: Recorded) -> Clip:
    """The recorded frames at their true times i / fps, and the recorded sound."""
    image = "pixel_values" in recorded
    frames = np.zeros((0, 28, 28, 3), np.uint8)
    if "frames" in recorded:
        frames = recorded["frames"].permute(0, 2, 3, 1).contiguous().numpy()  # (F, H, W, 3)
    audio = recorded["waveform"].numpy() if "waveform" in recorded else None
    if not len(frames) and audio is None:
        raise FixtureError(f"case {case['name']} has neither frames nor a waveform")
    times = np.arange(len(frames)) / float(case["fps"] or 1)
    duration = max(len(frames) / float(case["fps"] or 1), 0 if audio is None else len(audio) / 16_000)
    kind: Literal["video", "audio", "image"] = "image" if image else "video" if len(frames) else "audio"
    return Clip(frames, times, audio, duration, Source(case["name"], kind, "fixture", duration))


def _compare_media(name: str, media: Media, recorded: Recorded, tally: Tally) -> None:
    for pixels, grid in (("pixel_values_videos", "video_grid_thw"), ("pixel_values", "image_grid_thw")):
        if pixels in recorded:
            ours = torch.zeros(0, 0) if media.patches is None else media.patches
            tally.compare(pixels, name, ours, recorded[pixels], BOUNDS["pixels"])
        if grid in recorded:
            tally.compare(grid, name, torch.tensor([media.grid or (0, 0, 0)]), recorded[grid], EXACT)
    if "input_features" in recorded:
        ours = torch.zeros(MEL_BINS, 0) if media.mel is None else media.mel
        tally.compare("input_features", name, ours[None], recorded["input_features"], BOUNDS["mel"])
    if "video_second_per_grid" in recorded:
        seconds = recorded["video_second_per_grid"]
        between = torch.tensor(media.span.times, dtype=torch.float64).diff()  # true timestamps carry it
        tally.compare("video_second_per_grid", name, between, seconds.expand(len(between)), BOUNDS["seconds"])


def _compare_prompt(case: dict[str, Any], inputs: Inputs, layout: Layout, recorded: Recorded, tally: Tally) -> None:
    name = case["name"]
    ids, positions = recorded["input_ids"], recorded["position_ids"]
    counts = {
        "video_tokens": int(((inputs.kind == VIDEO) | (inputs.kind == IMAGE)).sum()),
        "audio_tokens": int((inputs.kind == AUDIO).sum()),
        "length": inputs.input_ids.shape[1],
    }
    for key, ours in counts.items():
        if key in case:
            tally.compare(key, name, [ours], torch.tensor([case[key]]), EXACT)
    if "second_per_grid" in case and "video_second_per_grid" in recorded:
        seconds = torch.tensor(case["second_per_grid"])
        tally.compare("video_second_per_grid", name, recorded["video_second_per_grid"], seconds, BOUNDS["seconds"])
    delta = int(inputs.positions.max()) + 1 - inputs.input_ids.shape[1]
    recorded_delta = recorded["rope_deltas"]
    if _disagrees(inputs.media[0], case, layout):
        why = f"at {case['fps']} fps transformers' processor and model cut the chunks in different places"
        return tally.skip(f"{name}: input_ids, position_ids, rope_deltas", why)
    tally.compare("input_ids", name, inputs.input_ids, ids, EXACT)
    tally.compare("position_ids", name, inputs.positions, positions, EXACT)
    tally.compare("rope_deltas", name, torch.tensor([[delta]]), recorded_delta, EXACT)
    if "rope_delta" in case:
        tally.compare("rope_deltas", name, [delta], torch.tensor([case["rope_delta"]]), EXACT)


def _disagrees(media: Media, case: dict[str, Any], layout: Layout) -> bool:
    """Whether the processor cuts chunks (in float64) elsewhere than its model does (in float32), as at 1.3 fps."""
    if media.mel is None or not media.span.times:
        return False
    size = int(layout.positions_per_s * layout.seconds_per_chunk)
    steps, seconds = torch.arange(len(media.span.times)), torch.tensor(STEP / case["fps"], dtype=torch.float64)
    processor = steps.double() * seconds * layout.positions_per_s
    model = (steps * seconds.float() * layout.positions_per_s).long()
    return not torch.equal(processor.div(size).floor(), model.double().div(size).floor())
