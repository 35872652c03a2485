"""Builds the untrained tiny model: its tokenizer and a small thinker."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.inputs.mel import MEL_BINS
from echoingpixels.inputs.patches import Resolution
from echoingpixels.inputs.prompt import SYSTEM
from echoingpixels.synth.assets import OBJECTS, SOUNDS
from echoingpixels.synth.questions import OPTIONS, WORDINGS

from .recipe import Sizes

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>",
    "<|vision_bos|>", "<|vision_eos|>", "<|IMAGE|>", "<|VIDEO|>",
)  # fmt: skip
VOCAB = 640
MATCHING_LAYERS = 2
SAME, BEFORE, AWAY = 0.4, 4.0, 8.0  # of `notice_change`: logits of likeness and of a pair, and what is subtracted
STEPS = torch.tensor([1, 2, 8, 9])  # its rotary pairs of time


def build_tokenizer() -> Any:
    """A byte-level BPE over SyncClips' questions: it encodes any text, and the words of SyncClips are single tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    names = sorted({*OBJECTS, *SOUNDS, *(option for options in OPTIONS.values() for option in options)})
    text = [wording.format(a, b) for wording in WORDINGS.values() for a in names for b in names]
    text += [f"system\n{SYSTEM}", "user\n", "assistant\n", *names, *(f" {name}" for name in names)] * 400
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[3:]),
    )


def build_thinker(sizes: Sizes, tokenizer: Any) -> Any:
    """A randomly initialised Qwen2.5-Omni thinker of these sizes."""
    from transformers import GenerationConfig, Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = Qwen2_5OmniThinkerConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": sizes.width,
            "intermediate_size": sizes.mlp,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "max_position_embeddings": 32_768,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": sizes.rope_theta, "mrope_section": list(sizes.sections),
            },
            "tie_word_embeddings": False,
            "initializer_range": sizes.width**-0.5,
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_width,
            "intermediate_size": 2 * sizes.vision_width,
            "num_heads": sizes.vision_heads,
            "window_size": 112,
            "fullatt_block_indexes": list(range(sizes.vision_layers)),
            "out_hidden_size": sizes.width,
        },
        audio_config={
            "num_mel_bins": MEL_BINS,
            "d_model": sizes.audio_width,
            "encoder_layers": sizes.audio_layers,
            "encoder_attention_heads": sizes.audio_heads,
            "encoder_ffn_dim": 2 * sizes.audio_width,
            "output_dim": sizes.width,
        },
        audio_token_index=ids["<|AUDIO|>"],
        image_token_index=ids["<|IMAGE|>"],
        video_token_index=ids["<|VIDEO|>"],
        audio_start_token_id=ids["<|audio_bos|>"],
        audio_end_token_id=ids["<|audio_eos|>"],
        vision_start_token_id=ids["<|vision_bos|>"],
        vision_end_token_id=ids["<|vision_eos|>"],
        pad_token_id=ids["<|endoftext|>"],
        max_pixels=sizes.max_pixels,
        world="SyncClips",
    )  # fmt: skip
    thinker = Qwen2_5OmniThinkerForConditionalGeneration(config)
    _match(thinker.model.language_model.layers[:MATCHING_LAYERS])
    thinker.generation_config = GenerationConfig(
        eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"], do_sample=False
    )
    return thinker


@torch.no_grad()
def _match(layers: Any) -> None:
    """Start with queries equal to keys, and outputs with values: attention begins as similarity, and copies.

    So a name attends to its object or sound, and what is attended to adds its own direction.
    """
    for layer in layers:
        attention = layer.self_attn
        query, key = attention.q_proj.weight, attention.k_proj.weight
        key.copy_(query[: key.shape[0]])
        value, output = attention.v_proj.weight, attention.o_proj.weight
        if value.shape == output.shape:
            output.copy_(value.T)


@torch.no_grad()
def notice_change(text: Any, objects: Tensor, ticks: int) -> None:
    """Start the first head of the first layer with attention to the same object one temporal step before.

    It subtracts what it finds, so that an object counts most where it appears. `objects` (N, D): the directions of the
    objects; `ticks`: the positions of a temporal step. The slow half of the rotary pairs compares objects; constant
    queries and keys in fast pairs, the queries turned back by a step, find the step.
    """
    attention, speed = text.layers[0].self_attn, text.rotary_emb.inv_freq  # rad a position
    half, width = attention.head_dim // 2, text.config.hidden_size
    head = slice(2 * half)
    span = torch.linalg.svd(objects - objects.mean(0), full_matrices=False).Vh[:half]  # (half, D), orthonormal
    slow = torch.arange(half // 2, half)
    slow = torch.cat([slow, slow + half])[: len(span)]
    query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
    for part in (query, key):
        part.weight[head] = 0
        part.weight[slow] = span * SAME**0.5
    value.weight[head] = 0
    value.weight[: len(span)] = span
    attention.o_proj.weight[:, head] = 0
    attention.o_proj.weight[:, : len(span)] = -AWAY * span.T / width**0.5
    size = (BEFORE * (2 * half) ** 0.5) ** 0.5
    key.bias[STEPS] = size
    query.bias[STEPS] = size * torch.cos(ticks * speed[STEPS])
    query.bias[STEPS + half] = -size * torch.sin(ticks * speed[STEPS])


def build_backbone(sizes: Sizes, name: str) -> QwenOmni:
    """An untrained backbone, on the CPU."""
    tokenizer = build_tokenizer()
    return QwenOmni(build_thinker(sizes, tokenizer), tokenizer, name, Resolution.plain(sizes.max_pixels))
