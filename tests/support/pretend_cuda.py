"""Pretend CUDA: tensors that report cuda:0 over CPU arithmetic, so that tests see how devices are used without a GPU.

Inside `pretend_cuda()` mixed devices raise as on CUDA, and everything for which the host would wait is recorded with
its file and line. Speed, kernels and backward passes are outside its scope.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch import __future__ as future

from tests.support.pretend_tensor import CUDA, ENGINES, Engine, PretendTensor, is_cuda
from tests.support.record import Record


class _Generator(torch.Generator):
    """A generator of any device, on the CPU: the same numbers as there."""

    def __new__(cls, device: Any = None) -> _Generator:
        return super().__new__(cls)


def to_cuda(module: nn.Module) -> nn.Module:
    """Put a module's weights on the pretended device; no copy is made."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None and not isinstance(weight, PretendTensor):
                part._parameters[name] = nn.Parameter(PretendTensor(weight.data), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, PretendTensor):
                part._buffers[name] = PretendTensor(buffer)
    return module


@contextmanager
def pretend_cuda(capability: tuple[int, int] = (9, 0)) -> Iterator[Record]:
    """Inside, torch has one CUDA device of a compute capability; gives what is recorded there."""
    record = Record()
    engine, plain_tensor, plain_to = Engine(record), torch.tensor, torch.Tensor.to

    def tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if not is_cuda(device):
            return plain_tensor(data, *args, **kwargs, **({} if device is None else {"device": device}))
        made = plain_tensor(data, *args, **kwargs)
        engine.crossed(to_cuda=True, free=False, x=made)
        return PretendTensor(made)

    def to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        copied = kwargs.pop("copy", False)
        device, dtype, free, _ = torch._C._nn._parse_to(*args, **kwargs)
        if not is_cuda(device):
            return plain_to(x, *args, **kwargs, copy=copied)
        if isinstance(x, PretendTensor) and dtype in (None, x.dtype) and not copied:
            return x
        return engine.copy(x, {"device": CUDA, "dtype": dtype, "non_blocking": free})  # in any thread

    def warn(mode: int | str) -> None:
        record.warns = mode in ("warn", 1)

    def synchronize(device: Any = None) -> None:
        record.add("sync", "torch.cuda.synchronize")

    cuda: dict[str, Any] = {
        "is_available": lambda: True,
        "_lazy_init": lambda: None,
        "synchronize": synchronize,
        "set_sync_debug_mode": warn,
        "get_sync_debug_mode": lambda: int(record.warns),
        "reset_peak_memory_stats": lambda device=None: None,
        "max_memory_allocated": lambda device=None: 1 << 24,
        "memory_allocated": lambda device=None: 1 << 20,
        "memory_reserved": lambda device=None: 1 << 20,
        "mem_get_info": lambda device=None: (20 << 30, 24 << 30),
        "empty_cache": lambda: None,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "get_device_name": lambda device=None: "pretended",
        "get_device_capability": lambda device=None: capability,
        "is_bf16_supported": lambda including_emulation=True: including_emulation or capability >= (8, 0),
    }
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **cuda))
        stack.enter_context(mock.patch.multiple(torch, tensor=tensor, Generator=_Generator))
        stack.enter_context(mock.patch.multiple(torch.Tensor, pin_memory=lambda x, *_: x, to=to))
        overwrite = future.set_overwrite_module_params_on_conversion  # `module.to` makes new parameters
        stack.callback(overwrite, future.get_overwrite_module_params_on_conversion())
        overwrite(True)
        stack.enter_context(engine)
        ENGINES.append(engine)
        stack.callback(ENGINES.remove, engine)
        yield record
