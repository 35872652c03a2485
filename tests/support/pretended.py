"""The random model on pretended CUDA, and a slow reference for the kernel that a CPU lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from echoingpixels.backbones import kernels
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.model import EchoingPixels
from tests.support import tinymodel
from tests.support.pretend_cuda import pretend_cuda, to_cuda
from tests.support.pretend_tensor import PretendTensor
from tests.support.record import Record


def on_cpu(dtype: torch.dtype = torch.float32, **options: Any) -> EchoingPixels:
    """A copy of the random model with a sieve; options are those of SieveOptions."""
    model = deepcopy(tinymodel.model(**options))
    assert isinstance(model.backbone, QwenOmni) and model.sieve is not None
    model.backbone.thinker.to(dtype)
    model.sieve.to(dtype)
    return model


@contextmanager
def on_cuda(model: EchoingPixels, capability: tuple[int, int] = (9, 0)) -> Iterator[tuple[EchoingPixels, Record]]:
    """Inside, a copy of `model` on a pretended GPU with its kernels, and what is recorded there."""
    copied = deepcopy(model)
    assert isinstance(copied.backbone, QwenOmni)
    kernel = mock.patch("torch.nn.attention.varlen.varlen_attn", slow_varlen_attn)
    sizes = mock.patch.object(kernels, "HEAD_SIZES", range(1, 257))  # the random model's are 8, 12 and 16
    no_gradient = mock.patch.object(copied.backbone, "contributions", return_value=None)  # autograd is in C++
    with kernel, sizes, no_gradient, pretend_cuda(capability) as record:
        to_cuda(copied.backbone.thinker)
        if copied.sieve is not None:
            to_cuda(copied.sieve)
        kernels.choose_kernels(copied.backbone.thinker, copied.backbone.device, copied.backbone.dtype)
        record.clear()
        yield copied, record


def slow_varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
) -> Tensor:
    """`torch.nn.attention.varlen.varlen_attn` on pretended tensors, window by window; checks what the kernel needs."""
    given = query, key, value, cu_seq_q, cu_seq_k
    assert all(isinstance(x, PretendTensor) for x in given), "all tensors are on the GPU"
    q, k, v, bounds, bounds_k = (x.elem for x in given if isinstance(x, PretendTensor))
    assert {q.dtype, k.dtype, v.dtype} <= {torch.float16, torch.bfloat16} and len({q.dtype, k.dtype, v.dtype}) == 1
    assert q.shape == k.shape == v.shape and q.ndim == 3 and q.stride(2) == 1  # (L, H, D)
    assert bounds.dtype == bounds_k.dtype == torch.int32 and bounds.is_contiguous() and torch.equal(bounds, bounds_k)
    assert (bounds[0], bounds[-1]) == (0, len(q)) and max_q == max_k >= bounds.diff().max() and type(max_q) is int
    made = []
    for first, last in zip(bounds.tolist(), bounds[1:].tolist(), strict=False):
        window = [x[first:last].transpose(0, 1)[None] for x in (q, k, v)]  # (1, H, n, D)
        made.append(F.scaled_dot_product_attention(*window)[0].transpose(0, 1))
    return PretendTensor(torch.cat(made))
