"""Pretend CUDA: tensors that report cuda:0 over CPU arithmetic, so that tests see how devices are used without a GPU.

Inside `pretend_cuda()` mixed devices raise as on CUDA, and everything for which the host would wait is recorded with
its file and line. Speed, kernels and backward passes are outside its scope.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.support.record import Record

ATEN = torch.ops.aten
CUDA = torch.device("cuda:0")
SDPA = F.scaled_dot_product_attention
WAITS: dict[Any, str] = {
    ATEN._local_scalar_dense.default: "item",
    ATEN.nonzero.default: "nonzero",
    ATEN.masked_select.default: "masked_select",
    ATEN.unique_consecutive.default: "unique",
    ATEN._unique2.default: "unique",
    ATEN.unique_dim.default: "unique",
    ATEN.equal.default: "equal",
    ATEN.bincount.default: "bincount",
    ATEN.repeat_interleave.Tensor: "repeat_interleave",
}
COPIES = {ATEN.copy_.default, ATEN._to_copy.default, ATEN.lift_fresh.default}
INDEXING = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default, ATEN._unsafe_index.Tensor}


class MixedDevicesError(RuntimeError):
    """An operation on tensors of two devices, which CUDA refuses."""


class PretendTensor(torch.Tensor):
    """Reports cuda:0; `elem` is the CPU tensor that holds its numbers."""

    elem: Tensor

    @staticmethod
    def __new__(cls, elem: Tensor) -> PretendTensor:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, elem.size(), elem.stride(), elem.storage_offset(), dtype=elem.dtype, device=CUDA
        )
        made.elem = elem
        return made  # type: ignore[no-any-return]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"PretendTensor({self.elem!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch does in C++ above its dispatcher, where a CPU build has no device guard for CUDA."""
        kwargs = kwargs or {}
        if func in FUNCTIONS:
            return FUNCTIONS[func](_engine(), *args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _engine().run(func, args, kwargs or {})


class _Engine(TorchDispatchMode):
    """Runs operations on the CPU tensors inside; checks devices and records waits."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, dict(kwargs or {}))

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation of ATen."""
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        inside = [x for x in tensors if isinstance(x, PretendTensor)]
        outside = [x for x in tensors if not isinstance(x, PretendTensor) and x.device.type == "cpu"]
        if func in INDEXING:
            self.index(func, args[0], args[1])
            outside = [x for x in args[2:3] if isinstance(x, Tensor) and not isinstance(x, PretendTensor)]
        if inside and func not in COPIES and any(x.ndim for x in outside):
            shapes = [tuple(x.shape) for x in inside], [tuple(x.shape) for x in outside]
            raise MixedDevicesError(f"{func}: cuda {shapes[0]} with cpu {shapes[1]}")
        if inside and func in WAITS:
            self.record.add("sync", WAITS[func])
        if func is ATEN._to_copy.default:
            return self.copy(args[0], kwargs)
        if func is ATEN.copy_.default and inside and outside:
            self.crossed(to_cuda=isinstance(args[0], PretendTensor), free=bool(args[2:] and args[2]), x=args[1])
        if func is ATEN._softmax.default and args[2]:  # from half to float32 in one kernel, which CPUs lack
            args = (PretendTensor(_plain(args[0]).float()), args[1], False)
        device = kwargs.get("device")
        if _is_cuda(device):
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        out = func(*tree_map(_plain, args), **tree_map(_plain, kwargs))
        return self.wrapped(out, inside, bool(inside) if device is None else _is_cuda(device))

    def wrapped(self, out: Any, inside: list[PretendTensor], on_cuda: bool) -> Any:
        """Outputs as tensors of their device; what an operation changed in place is the tensor it was given."""
        given = {id(x.elem): x for x in inside}

        def wrap(x: Any) -> Any:
            if not isinstance(x, Tensor) or isinstance(x, PretendTensor):
                return x
            if id(x) in given:
                return given[id(x)]
            return PretendTensor(x) if on_cuda and x.device.type == "cpu" else x

        return tree_map(wrap, out)

    def copy(self, x: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """`x.to(…)`."""
        device, free = kwargs.pop("device", None), kwargs.pop("non_blocking", False)
        inside = isinstance(x, PretendTensor)
        to_cuda = inside if device is None else _is_cuda(device)
        if inside != to_cuda and x.device.type != "meta":
            self.crossed(to_cuda, free, x)
        kwargs.pop("pin_memory", None)
        if device is not None and not _is_cuda(device):
            kwargs["device"] = device
        made: Tensor = ATEN._to_copy.default(_plain(x), **kwargs)
        return PretendTensor(made) if to_cuda else made

    def crossed(self, to_cuda: bool, free: bool, x: Tensor) -> None:
        """Record a copy between the devices."""
        if not to_cuda:
            self.record.add("sync", "copy to the host")
        elif x.numel():
            self.record.add("async upload" if free else "upload", f"{tuple(x.shape)} {x.dtype}")

    def index(self, func: Any, x: Tensor, places: Any) -> None:
        """Check and record the indices of one operation."""
        indices = [i for i in tree_leaves(places) if isinstance(i, Tensor)]
        if not isinstance(x, PretendTensor):
            if any(isinstance(i, PretendTensor) for i in indices):
                raise MixedDevicesError(f"{func}: a cpu tensor indexed by cuda indices")
            return
        if any(i.ndim and not isinstance(i, PretendTensor) for i in indices):
            self.record.add("upload", "cpu indices of a cuda tensor")
        if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
            self.record.add("sync", "bool indices")


def _getitem(engine: _Engine, x: PretendTensor, places: Any) -> Any:
    engine.index("getitem", x, places)
    return PretendTensor(x.elem[tree_map(_plain, places)])


def _setitem(engine: _Engine, x: Tensor, places: Any, value: Any) -> None:
    engine.index("setitem", x, places)
    if isinstance(value, Tensor) and value.ndim and isinstance(x, PretendTensor) != isinstance(value, PretendTensor):
        raise MixedDevicesError("setitem: a value of another device")
    _plain(x)[tree_map(_plain, places)] = _plain(value)


def _tolist(engine: _Engine, x: PretendTensor) -> Any:
    engine.record.add("sync", "tolist")
    return x.elem.tolist()


def _numpy(engine: _Engine, x: PretendTensor, *_: Any, **__: Any) -> Any:
    raise TypeError("can't convert cuda:0 device type tensor to numpy")


def _new_tensor(engine: _Engine, x: PretendTensor, data: Any, dtype: Any = None, **kwargs: Any) -> Tensor:
    made = torch.as_tensor(_plain(data), dtype=dtype or x.dtype)
    engine.crossed(to_cuda=True, free=False, x=made)
    return PretendTensor(made)


def _nonzero(engine: _Engine, x: PretendTensor) -> Any:
    return engine.run(ATEN.nonzero.default, (x,), {})


def _invert(engine: _Engine, x: PretendTensor) -> Any:
    return engine.run(ATEN.bitwise_not.default, (x,), {})


def _contiguous(engine: _Engine, x: PretendTensor, memory_format: Any = torch.contiguous_format) -> Any:
    if x.elem.is_contiguous(memory_format=memory_format):
        return x
    return engine.run(ATEN.clone.default, (x,), {"memory_format": memory_format})


def _copy(engine: _Engine, x: Tensor, other: Tensor, non_blocking: bool = False) -> Any:
    return engine.run(ATEN.copy_.default, (x, other, non_blocking), {})


def _item(engine: _Engine, x: PretendTensor) -> Any:
    engine.record.add("sync", "item")
    return x.elem.item()


def _attention(
    engine: _Engine,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    given = [query, key, value, *([] if attn_mask is None else [attn_mask])]
    if len({isinstance(x, PretendTensor) for x in given}) > 1:
        raise MixedDevicesError("scaled_dot_product_attention")
    if len({x.dtype for x in given[:3]}) > 1:
        raise TypeError(f"scaled_dot_product_attention on {[x.dtype for x in given]}")
    mask = "no mask" if attn_mask is None else f"mask {tuple(attn_mask.shape)}"
    how = f"{mask}, {'causal' if is_causal else 'full'}, {'gqa' if enable_gqa else 'equal heads'}"
    engine.record.add("attention", f"{how}, {query.shape[2]} x {key.shape[2]}, {query.dtype}")
    made = SDPA(*map(_plain, (query, key, value, attn_mask)), dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    return PretendTensor(made)


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    torch.Tensor.__getitem__: _getitem,
    torch.Tensor.__setitem__: _setitem,
    torch.Tensor.tolist: _tolist,
    torch.Tensor.numpy: _numpy,
    torch.Tensor.__array__: _numpy,
    torch.Tensor.new_tensor: _new_tensor,
    torch.Tensor.nonzero: _nonzero,
    torch.nonzero: _nonzero,
    torch.Tensor.__invert__: _invert,
    torch.Tensor.contiguous: _contiguous,
    torch.Tensor.copy_: _copy,
    SDPA: _attention,
    torch.Tensor.item: _item,
    torch.Tensor.__bool__: lambda engine, x: bool(_item(engine, x)),
    torch.Tensor.__int__: lambda engine, x: int(_item(engine, x)),
    torch.Tensor.__float__: lambda engine, x: float(_item(engine, x)),
    torch.Tensor.__index__: lambda engine, x: int(_item(engine, x)),
}
_ENGINES: list[_Engine] = []


def _engine() -> _Engine:
    if not _ENGINES:
        raise RuntimeError("a pretended CUDA tensor is used outside of pretend_cuda()")
    return _ENGINES[-1]


def _plain(x: Any) -> Any:
    return x.elem if isinstance(x, PretendTensor) else x


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


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
    engine, plain_tensor, plain_to = _Engine(record), torch.tensor, torch.Tensor.to

    def tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if not _is_cuda(device):
            return plain_tensor(data, *args, **kwargs, **({} if device is None else {"device": device}))
        made = plain_tensor(data, *args, **kwargs)
        engine.crossed(to_cuda=True, free=False, x=made)
        return PretendTensor(made)

    def to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        copied = kwargs.pop("copy", False)
        device, dtype, free, _ = torch._C._nn._parse_to(*args, **kwargs)
        if not _is_cuda(device):
            return plain_to(x, *args, **kwargs, copy=copied)
        if isinstance(x, PretendTensor) and dtype in (None, x.dtype) and not copied:
            return x
        return engine.copy(x, {"device": CUDA, "dtype": dtype, "non_blocking": free})  # in any thread

    def synchronize(device: Any = None) -> None:
        record.add("sync", "torch.cuda.synchronize")

    cuda: dict[str, Any] = {
        "is_available": lambda: True,
        "_lazy_init": lambda: None,
        "synchronize": synchronize,
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
        stack.enter_context(engine)
        _ENGINES.append(engine)
        stack.callback(_ENGINES.remove, engine)
        yield record
