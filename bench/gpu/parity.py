"""The whole path against plain transformers, batches against single questions, and the pruned encoder switched off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.first_token import plain_answer
from bench.gpu.models import PLAIN, attention, with_encoder_keep
from bench.gpu.rows import Case, Row, failure
from bench.gpu.setup import Setup
from bench.memory import encode_video
from echoingpixels.generation.decode import prefill, stream_tokens
from echoingpixels.inputs.prepare import Media, prepare_media
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions
from echoingpixels.options.encoder_keep import EncoderKeep
from echoingpixels.reducer_names import UNSIEVED

BOUND = 1e-3  # largest difference of float32 logits, as a share of the largest logit
QUESTION = "Which object appears first?"


def cases(setup: Setup, dtype: str) -> Iterator[Case]:
    """The comparisons in one dtype. In float32 a difference is a failure; in half precision it is a figure."""
    exact = dtype == "float32"
    whole = partial(_against_transformers, setup, dtype, exact)
    yield Case("parity", f"first logits and greedy tokens against transformers' generate(), {dtype}", whole)
    for reducer, keep in (("full", 1.0), (UNSIEVED, setup.keeps[0])):
        ask = AskOptions(reducer, keep, GenerateOptions(setup.tokens), evidence=False, reuse_prefix=False)
        name = f"{setup.batch} answers of a batch against single ones, {reducer} {keep:g}, {dtype}"
        yield Case("parity", name, partial(_batched, setup, dtype, ask, exact))
    yield Case("parity", f"encoder that drops no cell against the plain one, {dtype}", partial(_pruning, setup, dtype))


@torch.no_grad()
def _against_transformers(setup: Setup, dtype: str, exact: bool) -> Iterator[Row]:
    """transformers gets the same frames, log-mel and token ids, and computes features, positions and tokens itself."""
    model, new = setup.models.get(dtype), GenerateOptions(setup.tokens)
    on, clip = model.backbone, setup.decoded(model)
    media = prepare_media(clip, on.resolution)
    prompt = model.encode(clip).prompt(QUESTION)
    more: dict[str, Any] = {"max_new_tokens": new.max_new_tokens, "eos_token_id": None}
    with _precise(exact):
        with attention(model, PLAIN):
            theirs = plain_answer(model, media, prompt.inputs, **more, output_logits=True, return_dict_in_generate=True)
        stream = model.embed(prompt)
        logits = on.logits(prefill(on, stream, new).hidden)[:, -1].float()
        tokens = torch.stack(list(stream_tokens(on, stream, new)), 1)
    difference, largest = float((logits - theirs.logits[0].float()).abs().max()), float(logits.abs().max())
    equal = float((tokens == theirs.sequences[:, prompt.tokens :].cpu()).float().mean())
    row = {"dtype": dtype, "logit_difference": difference, "largest_logit": largest, "equal_tokens": equal}
    yield {**row, **_checked(exact, difference <= BOUND * largest and equal == 1)}


def _batched(setup: Setup, dtype: str, ask: AskOptions, exact: bool) -> Iterator[Row]:
    """Questions of unequal length about one clip."""
    model = setup.models.get(dtype)
    with _precise(exact):
        clip = model.encode(setup.decoded(model))
        prompts = [clip.prompt(question) for question in questions(setup.batch)]
        together = model.answer(prompts, ask)
        alone = [answer for prompt in prompts for answer in model.answer([prompt], ask)]
    shares = [_equal(a.token_ids, b.token_ids) for a, b in zip(together, alone, strict=True)]
    equal = sum(shares) / len(shares)
    yield {"dtype": dtype, "equal_tokens": equal, **_checked(exact, equal == 1)}


def _pruning(setup: Setup, dtype: str) -> Iterator[Row]:
    """An encoder that keeps all cells takes the path that drops cells, and must give the same bits."""
    model = setup.models.get(dtype)
    media = prepare_media(setup.decoded(model), model.backbone.resolution)
    plain, every = (_video(model, media, keep) for keep in (None, EncoderKeep((1.0,))))
    same = torch.equal(plain, every)
    difference = float((plain.float() - every.float()).abs().max())
    yield {"dtype": dtype, "feature_difference": difference, "bit_for_bit": same, **_checked(True, same)}


def _video(model: EchoingPixels, media: Media, keep: EncoderKeep | None) -> Tensor:
    video = encode_video(with_encoder_keep(model, keep).backbone, media).video
    assert video is not None
    return video


def questions(n: int) -> list[str]:
    """Questions, each longer than the one before."""
    return [QUESTION + " And which after it?" * i for i in range(n)]


def _precise(exact: bool) -> AbstractContextManager[None]:
    """Inside, cuDNN multiplies float32 in full precision; it would round the factors of some convolutions to TF32."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if exact else nullcontext()


def _equal(a: Sequence[int], b: Sequence[int]) -> float:
    return sum(one == other for one, other in zip(a, b, strict=True)) / len(a)


def _checked(required: bool, same: bool) -> Row:
    return failure("differs") if required and not same else {}
