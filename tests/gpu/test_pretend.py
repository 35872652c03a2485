"""Control of the pretended CUDA itself: it refuses what CUDA refuses, and records what CUDA waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.support.pretend_cuda import MixedDevicesError, PretendTensor, pretend_cuda
from tests.support.record import Record

Operation = Callable[[Tensor, Tensor], Any]


@pytest.fixture
def record() -> Iterator[Record]:
    with pretend_cuda() as found:
        yield found


MIXED: dict[str, Operation] = {
    "add": lambda gpu, cpu: gpu + cpu,
    "add in place": lambda gpu, cpu: cpu.add_(gpu),
    "cat": lambda gpu, cpu: torch.cat([cpu, gpu]),
    "where": lambda gpu, cpu: torch.where(cpu > 0, gpu, gpu),
    "gather": lambda gpu, cpu: gpu.gather(0, cpu.long()),
    "matmul": lambda gpu, cpu: gpu @ cpu,
    "linear": lambda gpu, cpu: F.linear(gpu, cpu),
    "embedding": lambda gpu, cpu: F.embedding(cpu.long(), gpu),
    "index of a cpu tensor": lambda gpu, cpu: cpu[gpu.long()],
    "index_select": lambda gpu, cpu: gpu.index_select(0, cpu[0].long()),
    "written values": lambda gpu, cpu: gpu.__setitem__(slice(0, 2), cpu[:2]),
    "attention": lambda gpu, cpu: F.scaled_dot_product_attention(gpu[None], gpu[None], cpu[None]),
}


@pytest.mark.parametrize("operation", MIXED.values(), ids=MIXED)
@pytest.mark.usefixtures("record")
def test_mixed_devices_are_refused(operation: Operation) -> None:
    with pytest.raises(MixedDevicesError):
        operation(torch.ones(3, 3, device="cuda"), torch.ones(3, 3))


@pytest.mark.usefixtures("record")
def test_a_tensor_on_the_gpu_has_no_numpy_array() -> None:
    with pytest.raises(TypeError, match="cuda"):
        torch.ones(3, device="cuda").numpy()


WAITS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.any()),
    "int": lambda x: int(x.sum()),
    "float": lambda x: float(x.max()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "nonzero": lambda x: x.nonzero(),
    "bool index": lambda x: x[x > 0],
    "written at a bool index": lambda x: x.__setitem__(x > 0, 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "unique_consecutive": lambda x: torch.unique_consecutive(x),
    "repeat_interleave": lambda x: torch.repeat_interleave(x, x),
    "copied to a cpu tensor": lambda x: torch.ones(3).copy_(x),
    "synchronize": lambda x: torch.cuda.synchronize(),
    "equal": lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_each_wait_of_the_host_is_recorded_once_with_its_line(wait: Callable[[Tensor], Any], record: Record) -> None:
    x = torch.ones(3, device="cuda", dtype=torch.long)
    record.clear()
    wait(x)
    assert [(event.kind, event.file) for event in record.events] == [("sync", "tests/gpu/test_pretend.py")]
    assert record.events[0].line > 0


FREE: dict[str, Callable[[Tensor], Any]] = {
    "arithmetic": lambda x: (x + 1) @ x.view(3, 1),
    "reductions": lambda x: x.cumsum(0).max(),
    "slices": lambda x: x[1:].clone(),
    "indices on the gpu": lambda x: x[x.argsort()],
    "made there": lambda x: torch.arange(3, device=x.device) + torch.zeros_like(x),
    "scalars of the host": lambda x: x * torch.tensor(2.0) + 1,
}


@pytest.mark.parametrize("operation", FREE.values(), ids=FREE)
def test_work_that_stays_on_the_gpu_waits_for_nothing(operation: Callable[[Tensor], Any], record: Record) -> None:
    x = torch.arange(3.0).to("cuda")
    record.clear()
    made = operation(x)
    assert isinstance(made, PretendTensor) and made.device == torch.device("cuda:0") and record.events == []


UPLOADS: dict[str, tuple[str, Callable[[Tensor], Any]]] = {
    "to": ("upload", lambda x: torch.ones(3).to(x.device)),
    "to, not waiting": ("async upload", lambda x: torch.ones(3).to("cuda", non_blocking=True)),
    "tensor": ("upload", lambda x: torch.tensor([1, 2], device="cuda")),
    "new_tensor": ("upload", lambda x: x.new_tensor([1, 2])),
    "cpu indices": ("upload", lambda x: x[torch.tensor([0, 1])]),
    "copy_": ("upload", lambda x: x.copy_(torch.ones(3))),
}


@pytest.mark.parametrize(("kind", "upload"), UPLOADS.values(), ids=UPLOADS)
def test_uploads_are_recorded_and_those_that_do_not_wait_apart(
    kind: str, upload: Callable[[Tensor], Any], record: Record
) -> None:
    x = torch.zeros(3, device="cuda")
    record.clear()
    upload(x)
    assert [event.kind for event in record.events] == [kind]


def test_numbers_are_those_of_the_cpu_and_changes_in_place_are_seen() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(4, 4), torch.randn(4, 4)
    with pretend_cuda():
        x, y = a.to("cuda"), b.to("cuda")
        view = x[1:3]
        view.add_(1.0)
        x[0] = 5.0
        found = (x @ y).softmax(-1).cpu()
    a[1:3] += 1.0
    a[0] = 5.0
    assert torch.equal(found, (a @ b).softmax(-1))


def test_torch_is_as_before_afterwards() -> None:
    before = torch.cuda.is_available, torch.tensor, torch.Generator, torch.Tensor.to, torch.Tensor.__dict__.get("to")
    with pytest.raises(ZeroDivisionError), pretend_cuda():
        assert torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
        raise ZeroDivisionError
    after = torch.cuda.is_available, torch.tensor, torch.Generator, torch.Tensor.to, torch.Tensor.__dict__.get("to")
    assert after == before
