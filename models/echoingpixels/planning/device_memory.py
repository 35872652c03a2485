"""How much memory there is: what this process holds, and what it may come to. Knows nothing about models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

PROC, GROUP = Path("/proc"), Path("/sys/fs/cgroup")
KIB = 1024


def resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        return int((PROC / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may hold on the device in all, with what it has there now; None where no one can tell.

    On a CPU what is available, or the limit of the control group if that is less.
    """
    if device.type == "cuda":
        with suppress(RuntimeError, AssertionError):  # no driver, or a torch without CUDA
            return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
        return None
    left = min(_left(), default=None)
    return None if left is None else left + resident()


def _left() -> Iterator[int]:
    with suppress(OSError, ValueError, IndexError):
        for line in (PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * KIB
    with suppress(OSError, ValueError):  # the limit is `max` where there is none
        limit, used = (int((GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        cache = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        yield max(0, limit - used + int(cache.get("inactive_file", 0)))
