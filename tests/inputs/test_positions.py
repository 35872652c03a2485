"""Token order and positions: transformers' own wherever its frame rate is constant, true time everywhere else."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor

from echoingpixels.errors import ModelError
from echoingpixels.inputs.positions import AUDIO, IMAGE, TEXT, VIDEO, Layout, Placed, Span, check_sections, place
from echoingpixels.inputs.prepare import as_inputs
from tests.support import tinymodel

LAYOUT = Layout(video=1, audio=2, image=3, vision_bos=4, vision_eos=5, audio_bos=6, audio_eos=7)
# 0.05, 0.10 … 29.95: at these, transformers' processor and model cut chunks in different places, so no ids suit both
DISAGREES_WITH_ITSELF = {
    *(1.3, 1.85, 2.45, 2.6, 3.7, 4.9, 7.4, 9.8, 10.25, 11.75, 12.25, 13.75, 20.5, 23.5, 24.5, 27.5),
}


def rope_index(placed: Placed, grids: dict[str, Any], on: Any, interleaved: bool) -> Tensor:
    """transformers' positions (3, L) for our ids."""
    ids = placed.ids[None]
    positions, _ = on.thinker.get_rope_index(
        ids, attention_mask=torch.ones_like(ids), use_audio_in_video=interleaved, **grids
    )
    return positions[:, 0]


def processor_ids(fps: float, steps: int, audio: int, layout: Layout) -> list[int]:
    """A clip's ids as transformers' processor lays them out: one token a step."""
    ids = {"[": layout.audio_bos, "]": layout.audio_eos, "V": layout.video, "A": layout.audio}
    itself = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2),
        audio_bos_token="[",
        audio_eos_token="]",
        video_token="V",
        audio_token="A",
        get_chunked_index=partial(Qwen2_5OmniProcessor.get_chunked_index, None),
    )
    video = {"video_grid_thw": np.array([[steps, 2, 2]]), "video_second_per_grid": [2 / fps]}
    text = Qwen2_5OmniProcessor.replace_video_with_audio_token(
        itself, video, 0, {"num_audio_tokens": [audio]}, 0, position_id_per_seconds=25, seconds_per_chunk=2.0
    )
    return [layout.vision_bos, *(ids[letter] for letter in text), layout.vision_eos]


def test_order_and_positions_equal_transformers_at_every_constant_rate_at_which_it_agrees_with_itself() -> None:
    on = tinymodel.backbone()
    differ = set()
    for fps in (k / 20 for k in range(1, 600)):
        steps = 60
        audio = min(int(steps * 2 / fps * 25 * 0.9) + 1, 1500)
        placed = place([[9], Span(tuple(2 * i / fps for i in range(steps)), 1, 1, audio), [9]], on.layout)
        grids = {
            "video_grid_thw": torch.tensor([[steps, 2, 2]]),
            "audio_seqlens": torch.tensor([audio * 4]),
            "second_per_grids": torch.tensor([2 / fps]),
        }
        assert torch.equal(placed.positions, rope_index(placed, grids, on, interleaved=True)), f"{fps} fps"
        if placed.ids.tolist()[1:-1] != processor_ids(fps, steps, audio, on.layout):
            differ.add(fps)
    assert differ == DISAGREES_WITH_ITSELF


@pytest.mark.parametrize(("per_s", "chunk_s"), [(25, 2), (13, 3), (40, 1)])
def test_several_clips_and_images_in_a_prompt_are_placed_as_transformers_places_them(per_s: int, chunk_s: int) -> None:
    on = tinymodel.backbone(positions_per_s=per_s, seconds_per_chunk=chunk_s)
    clip = Span(tuple(0.7 * i for i in range(9)), 2, 3, 110)
    short = Span((0.0, 1.3), 1, 2, 90)
    image = Span((0.0,), 3, 2, image=True)
    placed = place([[9] * 4, image, [9], clip, [9] * 3, short, image, [9] * 2], on.layout)
    grids = {
        "video_grid_thw": torch.tensor([[9, 4, 6], [2, 2, 4]]),
        "image_grid_thw": torch.tensor([[1, 6, 4]] * 2),
        "audio_seqlens": torch.tensor([440, 360]),
        "second_per_grids": torch.tensor([0.7, 1.3]),
    }
    assert torch.equal(placed.positions, rope_index(placed, grids, on, interleaved=True))


def test_a_clip_and_a_sound_of_their_own_are_placed_as_transformers_places_them() -> None:
    on = tinymodel.backbone()
    placed = place([[9] * 4, Span(audio_tokens=77), [9], Span((0.0, 1.0, 2.0), 2, 2), [9] * 2], on.layout)
    grids = {
        "video_grid_thw": torch.tensor([[3, 4, 4]]),
        "audio_seqlens": torch.tensor([308]),
        "second_per_grids": torch.tensor([1.0]),
    }
    assert torch.equal(placed.positions, rope_index(placed, grids, on, interleaved=False))


def test_each_chunk_of_two_seconds_holds_its_video_and_then_its_sound() -> None:
    placed = place([Span((0.0, 1.0, 2.0, 3.0), 1, 1, 100)], LAYOUT)
    inside = placed.ids.tolist()[2:-2]
    assert inside == [1] * 2 + [2] * 50 + [1] * 2 + [2] * 50


def test_frames_at_uneven_times_are_placed_by_their_true_times() -> None:
    times = (0.0, 0.6, 0.64, 3.0, 3.5)
    placed = place([Span(times, 1, 1, 100)], LAYOUT)
    video = placed.kind == VIDEO
    start = int(placed.positions[0, 2])
    assert (placed.positions[0, video] - start).tolist() == [0, 15, 16, 75, 87]
    assert placed.ids.tolist()[2:-2] == [1] * 3 + [2] * 50 + [1] * 2 + [2] * 50


def token_by_token(span: Span, layout: Layout) -> list[tuple[int, list[int]]]:
    """Ids and positions from the clip's start, by one sort of all tokens: by chunk, then video before audio."""
    ticks = [int(time * layout.positions_per_s + 1e-6) for time in span.times]
    size = int(layout.positions_per_s * layout.seconds_per_chunk)
    cells = [(row, column) for row in range(span.rows) for column in range(span.columns)]
    video = [(t // size, 0, layout.video, [t, row, column]) for t in ticks for row, column in cells]
    audio = [(t // size, 1, layout.audio, [t] * 3) for t in range(span.audio_tokens)]
    return [(token, at) for _, _, token, at in sorted(video + audio, key=lambda one: one[:2])]


@settings(max_examples=50, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 200), min_size=1, max_size=20),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    audio=st.integers(1, 600),
)
def test_a_clip_of_any_times_is_placed_as_token_by_token(gaps: list[int], rows: int, columns: int, audio: int) -> None:
    times = tuple(0.003 + 0.01 * sum(gaps[:i]) for i in range(len(gaps)))  # at most 2 s apart, and never quite even
    span = Span(times, rows, columns, audio)
    placed = place([[9], span, [9]], LAYOUT)
    start = int(placed.positions[0, 1]) + 1
    got = list(zip(placed.ids.tolist()[3:-3], (placed.positions[:, 3:-3] - start).T.tolist(), strict=True))
    assert got == token_by_token(span, LAYOUT)


def test_the_two_opening_marks_share_a_position_and_so_do_the_two_closing_ones() -> None:
    placed = place([[9, 9], Span((0.0, 1.0), 1, 1, 40), [9]], LAYOUT)
    rows = placed.positions.T.tolist()
    assert rows[2] == rows[3] == [2, 2, 2]
    assert rows[-3] == rows[-2] == [43, 43, 43]
    assert rows[-1] == [44, 44, 44]


def test_decoding_goes_on_past_the_last_frame_where_the_sound_ends_before_it() -> None:
    on = tinymodel.backbone()
    placed = place([[9], Span((0.0, 0.8, 1.6), 1, 1, 10), [9]], on.layout)
    last, largest = int(placed.positions[0, -1]), int(placed.positions.max())
    assert last < largest  # the text after the clip goes on from its sound, as in transformers
    assert on.embed(as_inputs(placed, ()), ()).next_position.tolist() == [largest + 1]


def test_tokens_carry_what_they_are_and_when_and_where() -> None:
    placed = place([[9], Span((0.0, 1.0), 1, 2, 25), Span((0.0,), 2, 1, image=True)], LAYOUT)
    assert placed.kind.bincount().tolist() == [1 + 4 + 2, 4, 25, 2]
    assert placed.time[placed.kind == VIDEO].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert placed.time[placed.kind == AUDIO].tolist() == pytest.approx([i / 25 for i in range(25)])
    assert placed.time[placed.kind == TEXT].isnan().all()
    assert placed.cell[placed.kind == VIDEO].tolist() == [[0, 0], [0, 1], [0, 0], [0, 1]]
    assert placed.cell[placed.kind == IMAGE].tolist() == [[0, 0], [1, 0]]
    assert (placed.cell[(placed.kind == TEXT) | (placed.kind == AUDIO)] == -1).all()


def test_a_clip_with_nothing_in_it_is_refused() -> None:
    with pytest.raises(ModelError, match="no audio and no video"):
        place([[9], Span()], LAYOUT)


@settings(max_examples=50, deadline=None)
@given(sections=st.lists(st.integers(-3, 40), max_size=6))
@example(sections=[16, 24, 24])
@example(sections=[16, 16, 16, 8, 8])
@example(sections=[70, -2, -2, -2])
@example(sections=[18, 18, 18, 10])
@example(sections=[16, 24, 24, 0])
def test_a_split_is_four_numbers_from_zero_that_sum_to_half_the_head_size(sections: list[int]) -> None:
    if len(sections) == 4 and sum(sections) == 64 and min(sections) >= 0:
        assert check_sections(sections, 64) == sections
    else:
        with pytest.raises(ModelError, match="four numbers that sum to 64"):
            check_sections(sections, 64)


@settings(max_examples=20, deadline=None)
@given(first=st.integers(0, 64), second=st.integers(0, 64), third=st.integers(0, 64))
def test_every_split_that_fits_is_taken(first: int, second: int, third: int) -> None:
    a, b, c = sorted((first, second, third))
    sections = [a, b - a, c - b, 64 - c]
    assert check_sections(sections, 64) == sections


def test_a_split_of_four_gives_the_slowest_pairs_to_time() -> None:
    on = tinymodel.backbone()
    positions = torch.tensor([[[7]], [[0]], [[0]]])  # (3, 1, 1): only time moves
    try:
        on.set_sections([2, 2, 2, 2])
        cos, sin = on.text.rotary_emb(torch.zeros(1, 1, tinymodel.WIDTH), positions)
    finally:
        on.set_sections(tinymodel.PLAIN)
    moved = (sin[0, 0, : tinymodel.PAIRS] != 0).tolist()
    assert moved == [True, True, False, False, False, False, True, True]
    assert (cos[0, 0, 2:6] == 1).all()
