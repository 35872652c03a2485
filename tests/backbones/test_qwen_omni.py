"""The one adapter to transformers: encoders in bounded pieces, embedding, masks and the cache."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from echoingpixels.backbones import qwen_omni
from echoingpixels.backbones.decoder import InParts
from echoingpixels.inputs.positions import AUDIO, IMAGE, TEXT, VIDEO, Span
from echoingpixels.inputs.prepare import Media, audio_tokens, prepare_media
from tests.support import tinymodel

NOISE = 2e-5


def sound_of(mel_frames: int) -> Media:
    mel = torch.randn(128, mel_frames, generator=torch.Generator().manual_seed(3))
    return Media(Span(audio_tokens=audio_tokens(mel_frames)), mel=mel)


@pytest.mark.parametrize("patches_at_once", [1, 24, 50])
@torch.no_grad()
def test_the_vision_encoder_in_pieces_gives_the_features_of_one_call(
    patches_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = tinymodel.backbone()
    media = prepare_media(tinymodel.clip(5.0), on.resolution)
    whole = tinymodel.encode(on, media)
    monkeypatch.setattr(qwen_omni, "PATCHES_AT_ONCE", patches_at_once)
    made = tinymodel.encode(on, media)
    torch.testing.assert_close(made.video, whole.video, rtol=0, atol=NOISE)
    torch.testing.assert_close(made.video_saliency, whole.video_saliency, rtol=0, atol=NOISE)


@pytest.mark.parametrize("mel_frames", [3, 199, 200, 201, 202, 203, 400, 1000, 1001, 1203, 1399])
@pytest.mark.parametrize("windows_at_once", [1, 2, 3])
@torch.no_grad()
def test_the_audio_encoder_in_pieces_gives_the_features_of_one_call(
    mel_frames: int, windows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = tinymodel.backbone()
    media = sound_of(mel_frames)
    whole = tinymodel.encode(on, media)
    assert whole.audio is not None and len(whole.audio) == media.span.audio_tokens
    monkeypatch.setattr(qwen_omni, "MEL_CHUNKS_AT_ONCE", windows_at_once)
    made = tinymodel.encode(on, media)
    torch.testing.assert_close(made.audio, whole.audio, rtol=0, atol=NOISE)
    torch.testing.assert_close(made.audio_saliency, whole.audio_saliency, rtol=0, atol=NOISE)


@torch.no_grad()
def test_the_encoders_equal_transformers_for_a_whole_prompt() -> None:
    on = tinymodel.backbone()
    media = prepare_media(tinymodel.clip(4.0), on.resolution)
    features = tinymodel.encode(on, media)
    assert media.mel is not None and media.patches is not None
    video = on.thinker.get_video_features(media.patches, torch.tensor([media.grid])).pooler_output[0]
    present = torch.ones(1, media.mel.shape[1], dtype=torch.long)
    audio = on.thinker.get_audio_features(media.mel[None], present).last_hidden_state
    assert torch.equal(features.video, video)
    assert torch.equal(features.audio, audio)


@torch.no_grad()
def test_features_of_several_clips_and_images_go_to_their_own_places() -> None:
    on = tinymodel.backbone()
    clips = [prepare_media(tinymodel.clip(s, seed=i), on.resolution) for i, s in enumerate((2.0, 3.0))]
    picture = prepare_media(tinymodel.clip(0.5, sound=False, seed=9), on.resolution)
    image = Media(Span((0.0,), picture.span.rows, picture.span.columns, image=True), picture.patches, picture.grid)
    media = [clips[0], image, clips[1]]
    inputs = tinymodel.prompt(on, tinymodel.text(3), media[0], media[1], tinymodel.text(2), media[2])
    features = [tinymodel.encode(on, m) for m in media]
    stream = on.embed(inputs, tuple(features))

    def embedded(*kinds: int) -> Tensor:
        return stream.embeds[0][torch.isin(stream.kind[0], torch.tensor(kinds))]

    assert torch.equal(embedded(VIDEO, IMAGE), torch.cat([f.video for f in features if f.video is not None]))
    assert torch.equal(embedded(AUDIO), torch.cat([f.audio for f in features if f.audio is not None]))
    assert torch.equal(embedded(TEXT), on.text.embed_tokens(inputs.input_ids)[stream.kind == TEXT])
    assert stream.next_position.tolist() == [int(inputs.positions.max()) + 1]


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@torch.no_grad()
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_sequence(kernel: str) -> None:
    on = tinymodel.backbone(kernel)
    stream, generated = tinymodel.stream(on), tinymodel.text(5, 3)
    cache, mask = on.new_cache(), stream.mask
    stepped = [on.logits(on.hidden(stream, cache)[:, -1])]
    for i, token in enumerate(generated):
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        step = on.decode(torch.tensor([[token]]), stream.next_position[:, None] + i, mask, cache)
        stepped.append(step[:, -1])
    after = torch.arange(len(generated)) + stream.next_position
    whole = on.thinker.model.language_model(
        inputs_embeds=torch.cat([stream.embeds, on.text.embed_tokens(torch.tensor([generated]))], 1),
        position_ids=torch.cat([stream.positions, after.expand(3, 1, -1)], 2),
    ).last_hidden_state
    want = on.logits(whole[:, -len(generated) - 1 :])
    torch.testing.assert_close(torch.stack(stepped, 1), want, rtol=0, atol=10 * NOISE)


@torch.no_grad()
def test_an_mlp_in_parts_gives_what_the_whole_gives_under_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp = copy.deepcopy(tinymodel.backbone().text.layers[0].mlp)  # a hook stays on it
    parted, hidden, rows = InParts(mlp), torch.randn(2, 37, mlp.hidden_size), []
    mlp.up_proj.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[1]))
    assert parted.state_dict().keys() == mlp.state_dict().keys()
    whole = parted(hidden)
    monkeypatch.setattr("echoingpixels.backbones.decoder.TOKENS", 10)
    torch.testing.assert_close(parted(hidden), whole, rtol=0, atol=NOISE)
    assert rows == [37, 10, 10, 10, 7]


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@torch.no_grad()
def test_bidirectional_layers_attend_to_every_visible_key_and_no_masked_one(kernel: str) -> None:
    on = tinymodel.backbone(kernel)
    layers = on.first_layers(2)
    stream = tinymodel.stream(on)
    mask = stream.mask.clone()
    mask[:, 10:13] = False
    base = on.run_layers(layers, stream.embeds, stream.positions, mask)
    hidden, last = stream.embeds.clone(), stream.embeds.clone()
    hidden[:, 11] += 3.0
    last[:, -1] += 3.0
    others = torch.arange(mask.shape[1]) != 11
    assert torch.equal(on.run_layers(layers, hidden, stream.positions, mask)[:, others], base[:, others])
    changed = on.run_layers(layers, last, stream.positions, mask)
    assert bool(((changed - base)[0, 0].abs() > 1e-4).any())  # the first token attends to the last
